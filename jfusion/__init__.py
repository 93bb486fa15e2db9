"""jfusion: fusing pairs of images into one, on Jittor.

    import jfusion
    film = jfusion.create("film")            # any name of `jfusion systems`
    fused = film.fuse(a, b, text)            # (N, 1, H, W) in [0, 1]
    jfusion.metrics.evaluate(fused, a, b)    # arrays (H, W) in 0..255

Jittor is imported (and, the first time, compiled) when a system is created, not before.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from jfusion.version import __version__

if TYPE_CHECKING:
    from jfusion.systems.base import System

__all__ = ["create", "metrics", "__version__"]


def create(name: str, **config: Any) -> System:
    """The system called `name` ("film", ...) with the paper's configuration, changed by `config`.

    Raises `jfusion.errors.UserError` for an unknown name or setting, naming the nearest one.
    """
    from jfusion.systems import registry

    return registry.create(name, **config)


def __getattr__(name: str) -> Any:
    if name == "metrics":
        return importlib.import_module("jfusion.metrics")
    raise AttributeError(f"module 'jfusion' has no attribute {name!r}")
