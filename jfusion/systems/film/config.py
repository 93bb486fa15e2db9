"""The settings of FILM. Needs no Jittor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from jfusion.config import SystemConfig, setting
from jfusion.errors import UserError

# A small network of the same kernels, to compile them ahead and to test with.
TINY = {"token_size": (16, 16), "text_dim": 8, "hidden_dim": 64, "image2text_dim": 4}


@dataclass(frozen=True)
class Config(SystemConfig):
    """The network of the released weights and the paper's recipe."""

    RENAMED: ClassVar[dict[str, Any]] = {"stretch": "normalize"}

    text_dim: int = setting(768, "width of the paragraph features", least=1)
    hidden_dim: int = setting(256, "width of a token, E in the paper's code", least=1)
    image2text_dim: int = setting(32, "channels that an image gives to its tokens, D", least=1)
    token_size: tuple[int, int] = setting(
        (288, 384),
        "grid that every image is resampled to for its tokens; the weights do not determine it, so give "
        "it for a .pth of another size that has no configuration in it",
        ("HEIGHT", "WIDTH"),
        least=1,
    )
    normalize: bool = setting(
        True, "min-max normalize each fused image, as the authors' test script does"
    )
    epochs: int = setting(150, "epochs of training", least=1, training=True)
    batch_size: int = setting(2, "pairs per step", least=1, training=True)
    learning_rate: float = setting(
        1e-5, "Adam's learning rate at the start", above=0, training=True
    )
    decay: float = setting(
        0.6, "factor of the learning rate every decay_every epochs", above=0, training=True
    )
    decay_every: int = setting(50, "epochs between decays", least=1, training=True)
    gradient_weight: float = setting(
        20.0, "weight of the gradient term in the loss", least=0, training=True
    )
    ssim_weight: float = setting(
        0.0, "weight of the Lp / SSIM terms, which are logged at 0 too", least=0, training=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        h, w = self.token_size
        if self.hidden_dim % 8 or self.image2text_dim * h * w % self.hidden_dim:
            raise UserError(
                f"film: hidden_dim {self.hidden_dim} must be a multiple of 8 and divide "
                f"image2text_dim x token_size = {self.image2text_dim * h * w}"
            )

    @classmethod
    def for_dataset(cls, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the width of the file's text features."""
        width = attributes.get("text_dim")
        return {} if width is None else {"text_dim": int(width)}
