"""jfusion: fusing pairs of images into one, on Jittor.

    import jfusion
    film = jfusion.load("exp/<run>")         # a run folder, a checkpoint, or a name of `jfusion weights`
    fused = film.fuse(a, b, text)            # NumPy, PIL or Jittor in, the same out
    jfusion.metrics.evaluate(fused, a, b)    # {"EN": ..., "SD": ..., ...}

Jittor is imported (and, the first time, compiled) when a system with networks is created, not before.
docs/python.md has examples.
"""

from __future__ import annotations

from jfusion.version import __version__

TYPE_CHECKING = False  # as type checkers know it; a command answers Ctrl-C sooner without `typing`
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from jfusion.systems.base import System

__all__ = ["create", "load", "metrics", "register", "weights", "__version__"]


def load(weights: str | Path, system: str | None = None, **settings: Any) -> System:
    """A system with its weights: from a run folder, a checkpoint file, or a folder of runs (its newest).

    weights may also be the name of weights that come with jfusion (`jfusion.weights.names()`). A checkpoint of jfusion names its system and settings; an authors' file needs `system` ("film", ...).
    `settings` change the configuration. Raises `jfusion.errors.UserError` in one line when there is no
    such file, or when its tensors do not fit.
    """
    from jfusion.inference import load_system

    return load_system(weights, system, settings)


def create(name: str, **settings: Any) -> System:
    """The system called `name` ("film", ...) with the paper's configuration, changed by `settings`.

    **Its networks are untrained**: the weights are random, as at the start of a training. `load` gives a
    trained one. Raises `jfusion.errors.UserError` for an unknown name or setting, with the nearest one.
    """
    from jfusion.systems import registry

    return registry.create(name, **settings)


def register(name: str, cls: type[System]) -> None:
    """Adds a system of your own to this process under `name`, for every function and command.

    A package adds its systems for good with an entry point of the group `jfusion.systems`; see
    docs/python.md. Raises `jfusion.errors.UserError` when the name is taken.
    """
    from jfusion.systems import registry

    registry.register(name, cls)


def __getattr__(name: str) -> Any:
    if name in ("metrics", "weights"):
        import importlib

        return importlib.import_module(f"jfusion.{name}")
    raise AttributeError(f"module 'jfusion' has no attribute {name!r}")
