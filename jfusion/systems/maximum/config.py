"""The settings of the maximum: none of its own. Needs no Jittor."""

from __future__ import annotations

from dataclasses import dataclass

from jfusion.config import SystemConfig


@dataclass(frozen=True)
class Config(SystemConfig):
    """No settings beyond those of every system."""
