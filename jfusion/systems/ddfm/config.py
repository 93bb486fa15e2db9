"""The settings of DDFM. Needs no Jittor."""

from __future__ import annotations

from dataclasses import dataclass

from jfusion.config import setting
from jfusion.diffusion.config import UNetConfig
from jfusion.errors import UserError


@dataclass(frozen=True)
class Config(UNetConfig):
    """The network, the diffusion process and the EM step; the defaults are the authors' script's."""

    sampler: str = setting("ddim", "ddim, or ddpm (the paper's algorithm 1)")
    eta: float = setting(0.0, "share of fresh noise in ddim's steps")
    timestep_respacing: str = setting(
        "100", "number of steps; or a list of numbers for equal parts; or ddimN"
    )
    steps: int = setting(1000, "steps that the network was trained on")
    noise_schedule: str = setting("linear", "linear or cosine")
    model_mean_type: str = setting(
        "epsilon", "what the network predicts: epsilon, start_x, previous_x"
    )
    model_var_type: str = setting(
        "learned_range", "learned_range, learned, fixed_small or fixed_large"
    )
    dynamic_threshold: bool = setting(False, "multiply clean estimates by their 0.95 quantile")
    clip_denoised: bool = setting(True, "cut clean estimates to the range of images")
    rescale_timesteps: bool = setting(False, "tell the network times from 0 to 1000 for any steps")
    em: bool = setting(True, "correct each step by the sources")
    lamb: float = setting(0.5, "weight of the smoothness in the EM step")
    rho: float = setting(0.001, "penalty that splits the smoothness off")
    swap: bool = setting(
        False, "the roles of the paper (the released code has taken the two images for each other)"
    )
    textbook: bool = setting(
        False, "the paper's estimate (the released code returns its mirror image)"
    )
    faithful: bool = setting(
        False, "cut images to a multiple of 32 as the script does, and not pad them"
    )

    def __post_init__(self):
        super().__post_init__()
        if self.sampler not in ("ddim", "ddpm"):
            raise UserError(f"ddfm: sampler must be ddim or ddpm, not {self.sampler!r}")
        if not 0 <= self.eta <= 1:
            raise UserError(f"ddfm: eta must lie between 0 and 1, not {self.eta}")
        if self.lamb < 0 or self.rho <= 0:
            raise UserError("ddfm: lamb must be 0 or more, and rho above 0")
