"""The settings of DDFM and of the training of its network. Needs no Jittor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jfusion.config import SystemConfig, setting
from jfusion.diffusion.config import UNetConfig
from jfusion.errors import UserError

# A small network of the same kernels, to compile them ahead and to test with.
TINY = {
    "variant": "small",
    "channel_mult": "1,2",
    "attention_resolutions": "32",
    "inference_steps": "2",
}

# The settings that a variant of the network decides, where the user does not.
VARIANTS: dict[str, dict[str, Any]] = {
    "official": {
        "image_size": 256,
        "num_channels": 256,
        "num_res_blocks": 2,
        "channel_mult": "",
        "learn_sigma": True,
        "attention_resolutions": "32,16,8",
        "num_head_channels": 64,
        "model_var_type": "learned_range",
    },
    "small": {
        "image_size": 64,
        "num_channels": 32,
        "num_res_blocks": 1,
        "channel_mult": "1,2,3",
        "learn_sigma": False,
        "attention_resolutions": "16",
        "num_head_channels": 32,
        "model_var_type": "fixed_small",
    },
}


def _of_variant(name: str, text: str, least: int | None = None) -> Any:
    """A setting of the network whose default the variant decides, with the defaults in its help text."""
    defaults = ", ".join(f"{variant}: {values[name]}" for variant, values in VARIANTS.items())
    return setting(None, f"{text} (default: by variant; {defaults})", least=least)


def _switch(name: str, off: str, on: str) -> Callable[[bool], dict[str, str]]:
    """The setting that an on/off setting of an older version stands for."""
    return lambda value: {name: on if value else off}


@dataclass(frozen=True)
class Config(UNetConfig, SystemConfig):
    """The network, the diffusion process and the EM step, as in the authors' script; and the training."""

    RENAMED: ClassVar[dict[str, Any]] = {
        **UNetConfig.RENAMED,
        "steps": "train_timesteps",
        "timestep_respacing": "inference_steps",
        "swap": _switch("source_roles", "released", "paper"),
        "textbook": _switch("estimate", "released", "paper"),
        "faithful": _switch("border", "pad", "released"),
    }
    # Also on a folder of single images; of a pair, the network is trained on both images.
    TRAINS_ON_IMAGES: ClassVar[bool] = True

    variant: Literal["official", "small"] = setting(
        "official",
        "the network, where no other setting says: OpenAI's 256x256 one, or a small one of about two "
        "million parameters that can be trained here",
    )
    image_size: int | None = _of_variant(
        "image_size", "size of the training images; only decides channel_mult and attention", 1
    )
    num_channels: int | None = _of_variant("num_channels", "width of the network, a multiple of 32")
    num_res_blocks: int | None = _of_variant("num_res_blocks", "residual blocks per level", 1)
    channel_mult: str | None = _of_variant(
        "channel_mult", "width of each level, such as 1,2,3; empty: by image size"
    )
    learn_sigma: bool | None = _of_variant(
        "learn_sigma", "the network also predicts the variance; such a network is not trained here"
    )
    attention_resolutions: str | None = _of_variant(
        "attention_resolutions",
        "sizes of the feature map that have attention, as parts of image_size",
    )
    num_head_channels: int | None = _of_variant(
        "num_head_channels", "channels of an attention head; -1: num_heads decides", -1
    )
    sampler: Literal["ddim", "ddpm"] = setting(
        "ddim", "the sampler of the released code; ddpm: that of the paper's algorithm 1"
    )
    eta: float = setting(0.0, "amount of fresh noise in ddim's steps, 0 to 1")
    inference_steps: str = setting(
        "100", "steps of the sampler: a number, a list of numbers for equal parts, or ddimN"
    )
    train_timesteps: int = setting(1000, "steps that the network was trained on", least=1)
    noise_schedule: Literal["linear", "cosine"] = setting(
        "linear", "noise schedule of the training"
    )
    model_mean_type: Literal["epsilon", "start_x", "previous_x"] = setting(
        "epsilon", "what the network predicts: the noise, x_0, or the mean of the step before"
    )
    model_var_type: Literal["learned_range", "learned", "fixed_small", "fixed_large"] | None = (
        _of_variant("model_var_type", "the variance of ddpm's steps")
    )
    dynamic_threshold: bool = setting(False, "multiply estimates of x_0 by their 0.95 quantile")
    clip_denoised: bool = setting(True, "clamp estimates of x_0 to the range of images")
    rescale_timesteps: bool = setting(
        False, "give the network times from 0 to 1000 for any number of steps"
    )
    em: bool = setting(True, "correct each step by the sources")
    lamb: float = setting(0.5, "weight of the smoothness in the EM step")
    rho: float = setting(0.001, "penalty that splits the smoothness off")
    source_roles: Literal["released", "paper"] = setting(
        "released",
        "which source is which in the EM step; the released code exchanges the paper's two",
    )
    estimate: Literal["released", "paper"] = setting(
        "released",
        "what the EM step returns: I - X' as in the released code, or the paper's V + X'",
    )
    border: Literal["pad", "released"] = setting(
        "pad", "pad images to the network's sizes; released: crop them to multiples of 32"
    )
    epochs: int = setting(200, "training: passes over the images", least=1, training=True)
    batch_size: int = setting(
        8, "training: images per step (pairs, of an H5 file)", least=1, training=True
    )
    learning_rate: float = setting(2e-4, "training: learning rate of Adam", above=0, training=True)

    def __post_init__(self) -> None:
        for name, value in VARIANTS.get(self.variant, {}).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        super().__post_init__()
        if not 0 <= self.eta <= 1:
            raise UserError(f"ddfm: eta must be between 0 and 1, not {self.eta}")
        if self.lamb < 0 or self.rho <= 0:
            raise UserError("ddfm: lamb must be 0 or more, and rho above 0")

    def check_training(self) -> None:
        """Raises UserError unless the network predicts the noise alone: DDPM's simple loss has no other term."""
        if self.learn_sigma or self.model_mean_type != "epsilon":
            raise UserError(
                "ddfm: a network that predicts more than the noise, such as the official one, is not trained "
                "here; to train a small one add: --variant small --crop 64 64"
            )
