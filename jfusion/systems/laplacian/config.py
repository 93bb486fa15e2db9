"""The settings of the Laplacian pyramid. Needs no Jittor."""

from __future__ import annotations

from dataclasses import dataclass

from jfusion.config import SystemConfig, setting


@dataclass(frozen=True)
class Config(SystemConfig):
    """The depth of the pyramid."""

    levels: int = setting(
        4, "levels of detail; fewer are used where the image is too small for them", least=1
    )
