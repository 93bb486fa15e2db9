"""A small unconditional diffusion model of images, for DDFM where the official weights are not at hand.

Trained by DDPM's simple loss (Ho et al., 2020, equation 14) on a folder of images, or on both images
of each pair of an H5 file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jfusion.config import setting
from jfusion.diffusion import unet
from jfusion.diffusion.config import UNetConfig
from jfusion.diffusion.process import Process, noised
from jfusion.diffusion.schedule import schedule
from jfusion.errors import UserError
from jfusion.runtime import jt
from jfusion.systems.base import Batch, ParameterGroup, Stage, System


@dataclass(frozen=True)
class Config(UNetConfig):
    """A network of about two million parameters, and how it is trained."""

    image_size: int = setting(64, "size of the training images; only decides the two below")
    num_channels: int = setting(32, "width of the network, a multiple of 32")
    num_res_blocks: int = setting(1, "residual blocks per level")
    channel_mult: str = setting("1,2,3", "width of each level; empty: by image size")
    learn_sigma: bool = setting(False, "not here: the variance is fixed")
    attention_resolutions: str = setting(
        "16", "sizes of the feature map that have attention, seen from image_size"
    )
    num_head_channels: int = setting(32, "channels of a head; -1: num_heads decides")
    steps: int = setting(1000, "steps of the diffusion process")
    noise_schedule: str = setting("linear", "linear or cosine")
    model_var_type: str = setting("fixed_small", "fixed_small or fixed_large")
    epochs: int = setting(200, "passes over the images")
    batch_size: int = setting(8, "images per step (pairs, of an H5 file)")
    learning_rate: float = setting(2e-4, "of Adam")

    def __post_init__(self):
        super().__post_init__()
        if self.learn_sigma or self.class_cond:
            raise UserError("diffusion is trained without learn_sigma and class_cond")


class Diffusion(System):
    """The network and its loss."""

    NAME = "diffusion"
    Config = Config
    OFFICIAL = unet.OFFICIAL
    SINGLE_IMAGES = True

    def __init__(self, config: Config):
        super().__init__(config)
        self.unet = unet.UNet(config)
        self.process = Process(
            schedule(config.noise_schedule, config.steps), "epsilon", config.model_var_type
        )

    def execute(self, a: jt.Var, b: jt.Var, text: jt.Var | None = None) -> jt.Var:
        """The clean estimate of a's image under half of the noise: what the training pictures show."""
        images = self._images(a, a)
        k = len(self.process.schedule) // 2
        x = noised(images, jt.randn_like(images), self.process.schedule, np.full(len(images), k))
        return (self.process.model(self.unet)(x, k).clean + 1) / 2

    def fuse(
        self,
        a: jt.Var,
        b: jt.Var,
        text: jt.Var | None = None,
        *,
        seed: int | None = None,
        callback: Callable[[int, jt.Var, jt.Var], None] | None = None,
    ) -> jt.Var:
        """Not a system of fusion: its weights are for ddfm."""
        raise UserError("diffusion is a model of images; fuse with: ddfm and these weights")

    def preview(self, batch: Batch) -> jt.Var:
        """Cleaned in one step, cut to sides that the network takes."""
        return self(batch.a, batch.b)

    def stages(self) -> list[Stage]:
        return [Stage("training", self.config.epochs)]

    def parameter_groups(self, stage: Stage) -> list[ParameterGroup]:
        rate = self.config.learning_rate
        parameters = {f"unet.{k}": p for k, p in self.unet.state_dict().items()}
        return [ParameterGroup("unet", parameters, lambda epoch: rate)]

    def losses(self, batch: Batch, stage: Stage) -> dict[str, jt.Var]:
        """The mean square error of the predicted noise, at a random step for each image."""
        images = self._images(batch.a, batch.b)
        k = (jt.rand(len(images)).numpy() * len(self.process.schedule)).astype(int)
        noise = jt.randn_like(images)
        x = noised(images, noise, self.process.schedule, k)
        error = self.unet(x, k * self.process.time_scale) - noise
        return {"total": (error * error).mean(3).mean()}

    def _images(self, a: jt.Var, b: jt.Var) -> jt.Var:
        """(N, 1 or 3, H, W) in [0, 1] -> (N or 2N, 3, H', W') in [-1, 1], sides the network takes."""
        images = a if a is b or a.shape[1] == 3 else jt.concat([a, b])
        if images.shape[1] == 1:
            images = images.broadcast((images.shape[0], 3, *images.shape[2:]))
        h, w = (n // self.config.multiple * self.config.multiple for n in images.shape[2:])
        if not h or not w:
            raise UserError(
                f"images of {images.shape[2]}x{images.shape[3]} are too small for the network"
            )
        return images[:, :, :h, :w] * 2 - 1
