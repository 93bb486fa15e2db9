"""The settings of the average. Needs no Jittor."""

from __future__ import annotations

from dataclasses import dataclass

from jfusion.config import SystemConfig, setting
from jfusion.errors import UserError


@dataclass(frozen=True)
class Config(SystemConfig):
    """The weights of the two images."""

    weight: float = setting(0.5, "weight of image A, from 0 to 1; image B gets the rest")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.weight <= 1:
            raise UserError(f"average: weight must be from 0 to 1, not {self.weight}")
