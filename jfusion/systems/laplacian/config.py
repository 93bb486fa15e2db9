"""The settings of the Laplacian pyramid. Needs no Jittor."""

from __future__ import annotations

from dataclasses import dataclass

from jfusion.config import SystemConfig, setting
from jfusion.errors import UserError


@dataclass(frozen=True)
class Config(SystemConfig):
    """The depth of the pyramid."""

    levels: int = setting(
        4, "levels of detail; fewer are used where the image is too small for them"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels < 1:
            raise UserError(f"laplacian: levels must be 1 or more, not {self.levels}")
