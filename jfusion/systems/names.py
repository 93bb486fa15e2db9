"""The registry: a system's name -> its file. The only place that lists the systems."""

from __future__ import annotations

import ast
import dataclasses
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jfusion import config
from jfusion.diffusion.options import UNetConfig
from jfusion.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from jfusion.systems.base import System

SYSTEMS = {
    "film": "jfusion.systems.film:FILM",
    "cddfuse": "jfusion.systems.cddfuse:CDDFuse",
    "sfdfuse": "jfusion.systems.sfdfuse:SFDFuse",
    "ddfm": "jfusion.systems.ddfm:DDFM",
    "lfdt": "jfusion.systems.lfdt:LFDT",
    "fccf": "jfusion.systems.fccf:FCCF",
    "diffusion": "jfusion.systems.diffusion:Diffusion",
}


def system_class(name: str) -> type[System]:
    """The class of the system called `name`; UserError names the nearest one for a typo."""
    if name not in SYSTEMS:
        raise UserError(f"unknown system {name!r}{did_you_mean(name, SYSTEMS)}")
    module, attribute = SYSTEMS[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def title(name: str) -> str:
    """The first line of the system's file."""
    return (ast.get_docstring(_tree(name)) or "").splitlines()[0]


def config_class(name: str) -> type:
    """The configuration of the system called `name`, without importing its file.

    Importing the file would start (the first time: compile) Jittor, which `--help` must not. A large
    configuration has a file of its own, <name>_config.py; otherwise the class stands on its own in the
    system's file, so it is taken out of the source and defined here.
    """
    if name in SYSTEMS and Path(__file__).with_name(f"{name}_config.py").is_file():
        return importlib.import_module(f"jfusion.systems.{name}_config").Config
    system = next(n for n in _tree(name).body if isinstance(n, ast.ClassDef) and n.name == "Config")
    namespace = {
        "__name__": __name__,
        "dataclass": dataclasses.dataclass,
        "setting": config.setting,
        "UserError": UserError,
        "UNetConfig": UNetConfig,
    }
    exec(compile(ast.Module([system], []), f"<{name}>", "exec"), namespace)
    return namespace["Config"]


def _tree(name: str) -> ast.Module:
    if name not in SYSTEMS:
        raise UserError(f"unknown system {name!r}{did_you_mean(name, SYSTEMS)}")
    module = SYSTEMS[name].split(":")[0].rsplit(".", 1)[1]
    return ast.parse(Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8"))


def create(name: str, **values: Any) -> System:
    """The system with its paper's configuration, changed by `values`."""
    cls = system_class(name)
    return cls(config.from_dict(cls.Config, values, name))
