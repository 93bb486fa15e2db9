"""The registry of systems: a name -> its configuration, and its class. The only list of the systems.

A system of jfusion is a package `jfusion/systems/<name>/`: `config.py` (class Config, no Jittor),
`system.py` (the class that `SYSTEMS` names), and a docstring whose first line is its title. Other
packages add systems in two ways: an entry point of the group `jfusion.systems`, whose value is the
name of such a package or `module:Class`, and `jfusion.register(name, cls)` in a running process.
"""

from __future__ import annotations

import inspect
import re
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from jfusion import config, weights
from jfusion.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from jfusion.config import SystemConfig
    from jfusion.systems.base import System

SYSTEMS = {
    "film": "FILM",
    "cddfuse": "CDDFuse",
    "sfdfuse": "SFDFuse",
    "ddfm": "DDFM",
    "lfdt": "LFDT",
    "fccf": "FCCF",
    # methods without weights: baselines, and what to use where nothing is trained
    "average": "Average",
    "maximum": "Maximum",
    "laplacian": "LaplacianPyramid",
    "guided": "GuidedFilterFusion",
    "mertens": "ExposureFusion",
}
DEFAULT = "film"  # where neither the user nor a checkpoint names the system
# The name of a system in checkpoints and runs of older versions -> today's.
RENAMED_SYSTEMS = {"diffusion": "ddfm"}
_registered: dict[str, type[System]] = {}


def names() -> list[str]:
    """All systems: jfusion's own, those of installed packages, those registered in this process."""
    return list(dict.fromkeys([*SYSTEMS, *_entry_points(), *_registered]))


def check_name(name: str) -> str:
    """`name` itself; UserError names the nearest system for a typo, and tells weights from systems."""
    if name not in SYSTEMS and name not in names():  # other packages are looked for only then
        if name in weights.names():
            raise UserError(
                f"{name} is the name of weights, not of a system; remedy: --weights {name}"
            )
        raise UserError(f"unknown system {name!r}{did_you_mean(name, names())}")
    return name


def config_class(name: str) -> type[SystemConfig]:
    """The configuration of the system called `name`; for jfusion's own, without starting Jittor."""
    package = _package(check_name(name))
    return system_class(name).Config if package is None else _part(package, "config").Config


def system_class(name: str) -> type[System]:
    """The class of the system called `name`; UserError names the nearest one for a typo."""
    if check_name(name) in _registered:
        return _registered[name]
    if name in SYSTEMS:
        return getattr(import_module(f"jfusion.systems.{name}.system"), SYSTEMS[name])
    return _external_class(name)


def name_of(cls: type[System]) -> str:
    """The name under which a class is registered; its own name, in lower case, if it is not."""
    for name, attribute in SYSTEMS.items():
        if cls.__module__ == f"jfusion.systems.{name}.system" and cls.__name__ == attribute:
            return name
    for name, registered in _registered.items():
        if registered is cls:
            return name
    for name, point in _entry_points().items():  # one that does not load must not hide the others
        if (
            point.module.split(".")[0] == cls.__module__.split(".")[0]
            and _external_class(name) is cls
        ):
            return name
    return cls.__name__.lower()


def title(name: str) -> str:
    """One line that says what the system is: the first line of its package's, or its class's, docstring."""
    package = _package(check_name(name))
    text = inspect.getdoc(system_class(name) if package is None else package) or ""
    return text.partition("\n")[0]


def create(name: str, **values: Any) -> System:
    """The system with its paper's configuration, changed by `values`; its weights are random."""
    cls = system_class(name)
    return cls(config.from_dict(cls.Config, values, name))


def register(name: str, cls: type[System]) -> None:
    """Adds a system to this process under `name`.

    Raises UserError when the name is taken or cannot be one, or `cls` is no subclass of `System`.
    """
    from jfusion.systems.base import System

    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+-]*", name):
        raise UserError(f"{name!r} cannot be the name of a system; use letters, digits and -")
    if not (inspect.isclass(cls) and issubclass(cls, System)):
        raise UserError(f"{cls!r} is no subclass of jfusion.systems.base.System")
    if name in SYSTEMS or _registered.get(name, cls) is not cls:
        raise UserError(f"there is a system called {name!r} already; choose another name")
    _registered[name] = cls


@cache
def _entry_points() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group="jfusion.systems")}


def _package(name: str) -> ModuleType | None:
    """The package of a system; None for a class that was registered, or named by an entry point."""
    if name in _registered:
        return None
    if name in SYSTEMS:
        return import_module(f"jfusion.systems.{name}")
    point = _entry_points()[name]
    return None if point.attr else _load(point)


def _part(package: ModuleType, part: str) -> ModuleType:
    return import_module(f"{package.__name__}.{part}")


@cache
def _external_class(name: str) -> type[System]:
    from jfusion.systems.base import System

    loaded = _load(_entry_points()[name])
    if isinstance(loaded, ModuleType):
        module = _part(loaded, "system")
        classes = (c for _, c in inspect.getmembers(module, inspect.isclass))
        loaded = next(
            (c for c in classes if c.__module__ == module.__name__ and issubclass(c, System)), None
        )
    if not (inspect.isclass(loaded) and issubclass(loaded, System)):
        raise UserError(
            f"the entry point {name!r} of the group jfusion.systems names no subclass of "
            "jfusion.systems.base.System; tell the author of that package"
        )
    return loaded


def _load(point: EntryPoint) -> Any:
    try:
        return point.load()
    except (Exception, SystemExit) as error:
        raise UserError(
            f"the system {point.name!r} of another package cannot be loaded ({point.value}): {error}; "
            "update or uninstall that package"
        ) from error
