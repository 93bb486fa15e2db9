"""The registry: a system's name -> its file. The only place that lists the systems."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from jfusion import config
from jfusion.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from jfusion.systems.base import System

SYSTEMS = {
    "film": "jfusion.systems.film:FILM",
}


def system_class(name: str) -> type[System]:
    """The class of the system called `name`; UserError names the nearest one for a typo."""
    if name not in SYSTEMS:
        raise UserError(f"unknown system {name!r}{did_you_mean(name, SYSTEMS)}")
    module, attribute = SYSTEMS[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def create(name: str, **values: Any) -> System:
    """The system with its paper's configuration, changed by `values`."""
    cls = system_class(name)
    return cls(config.from_dict(cls.Config, values, name))
