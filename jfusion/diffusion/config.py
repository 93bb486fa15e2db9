"""The settings of the guided-diffusion UNet, by the authors' names. Needs no Jittor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jfusion.config import check, setting
from jfusion.errors import UserError

# The channel_mult of the published models, by image size.
MULTIPLIERS = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
}


@dataclass(frozen=True)
class UNetConfig:
    """The network; the defaults are those of the official 256x256 unconditional model."""

    RENAMED: ClassVar[dict[str, Any]] = {"class_cond": lambda value: _unconditional(value)}

    image_size: int = setting(
        256, "size of the training images; only decides channel_mult and attention", least=1
    )
    num_channels: int = setting(256, "width of the network, a multiple of 32")
    num_res_blocks: int = setting(2, "residual blocks per level", least=1)
    channel_mult: str = setting("", "width of each level, such as 1,2,3; empty: by image size")
    learn_sigma: bool = setting(True, "the network also predicts the variance")
    attention_resolutions: str = setting(
        "32,16,8", "sizes of the feature map that have attention, as parts of image_size"
    )
    num_heads: int = setting(4, "attention heads, unless num_head_channels decides", least=1)
    num_head_channels: int = setting(
        64, "channels of an attention head; -1: num_heads decides", least=-1
    )
    num_heads_upsample: int = setting(-1, "attention heads of the decoder; -1: num_heads", least=-1)
    use_scale_shift_norm: bool = setting(
        True, "the time embedding scales and shifts the normalized features"
    )
    dropout: float = setting(0.0, "drop probability in training", least=0, below=1)
    resblock_updown: bool = setting(True, "residual blocks resample, and not single convolutions")
    use_fp16: bool = setting(
        False,
        "hold the weights of convolutions in half precision; they are computed in single precision",
    )
    use_new_attention_order: bool = setting(
        False, "order the channels as q, k, v and not head by head"
    )

    def __post_init__(self) -> None:
        check(self)
        if self.num_channels < 32 or self.num_channels % 32:
            raise UserError(f"num_channels must be a multiple of 32, not {self.num_channels}")
        if 0 in (self.num_head_channels, self.num_heads_upsample):
            raise UserError("num_head_channels and num_heads_upsample must be 1 or more, or -1")
        _ = self.multipliers, self.attention_factors

    @property
    def multipliers(self) -> tuple[float, ...]:
        """The width of each level, in units of num_channels."""
        if self.channel_mult:
            return tuple(_numbers(self.channel_mult, "channel_mult"))
        if self.image_size not in MULTIPLIERS:
            raise UserError(f"image_size {self.image_size} needs channel_mult, such as 1,2,3,4")
        return MULTIPLIERS[self.image_size]

    @property
    def attention_factors(self) -> tuple[int, ...]:
        """The downsampling factors of the image at which there is attention."""
        sizes = _numbers(self.attention_resolutions, "attention_resolutions")
        return tuple(self.image_size // size for size in sizes)

    @property
    def multiple(self) -> int:
        """The sides of images must be multiples of this."""
        return 2 ** (len(self.multipliers) - 1)


def _unconditional(class_cond: bool) -> dict[str, Any]:
    """No settings in place of the removed `class_cond`, which no system could use."""
    if class_cond:
        raise UserError("a network with class labels (class_cond) cannot be used for fusion")
    return {}


def _numbers(text: str, name: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise UserError(f"{name} must be whole numbers with commas, not {text!r}") from error
    if any(n < 1 for n in numbers):
        raise UserError(f"{name} must be positive numbers, not {text!r}")
    return numbers
