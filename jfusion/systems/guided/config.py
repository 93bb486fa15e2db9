"""The settings of the guided filter fusion. Needs no Jittor."""

from __future__ import annotations

from dataclasses import dataclass

from jfusion.config import SystemConfig, setting
from jfusion.errors import UserError


@dataclass(frozen=True)
class Config(SystemConfig):
    """The parameters of section IV of the paper."""

    mean_size: int = setting(31, "side of the mean filter that separates base and detail, odd")
    base_radius: int = setting(45, "radius of the guided filter for the weights of the base, r1")
    base_eps: float = setting(0.3, "its regularization, epsilon1")
    detail_radius: int = setting(7, "radius of the guided filter for the weights of the detail, r2")
    detail_eps: float = setting(1e-6, "its regularization, epsilon2")
    saliency_radius: int = setting(5, "radius of the Gaussian filter of the saliency, r_g")
    saliency_sigma: float = setting(5.0, "standard deviation of that filter, sigma_g")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mean_size < 1 or self.mean_size % 2 == 0:
            raise UserError(f"guided: mean_size must be odd and positive, not {self.mean_size}")
        if min(self.base_radius, self.detail_radius, self.saliency_radius) < 1:
            raise UserError("guided: every radius must be 1 or more")
        if min(self.base_eps, self.detail_eps, self.saliency_sigma) <= 0:
            raise UserError("guided: base_eps, detail_eps and saliency_sigma must be above 0")
