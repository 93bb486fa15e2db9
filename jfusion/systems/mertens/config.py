"""The settings of exposure fusion. Needs no Jittor."""

from __future__ import annotations

from dataclasses import dataclass

from jfusion.config import SystemConfig, setting
from jfusion.errors import UserError


@dataclass(frozen=True)
class Config(SystemConfig):
    """The exponents of the three quality measures, equation 1 of the paper."""

    contrast: float = setting(1.0, "exponent of the contrast")
    saturation: float = setting(1.0, "exponent of the saturation; gray pairs ignore it")
    exposedness: float = setting(1.0, "exponent of the well-exposedness")

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.contrast, self.saturation, self.exposedness) < 0:
            raise UserError("mertens: exponents must be 0 or more")
