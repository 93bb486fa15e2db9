"""DDFM as a system: fusion by sampling, and the training of its network, the unconditional prior."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np

from jfusion.checkpoint import WeightCard, WeightMap
from jfusion.data.h5 import Pair
from jfusion.diffusion import unet
from jfusion.diffusion.noise import TorchNoise
from jfusion.diffusion.process import GaussianDiffusion, ModelPrediction, q_sample
from jfusion.diffusion.samplers import SAMPLERS, Callback, Model, Noise
from jfusion.diffusion.schedule import Schedule, named_schedule
from jfusion.errors import UserError
from jfusion.ops.resize import pad_to_multiple
from jfusion.runtime import jt
from jfusion.systems.base import (
    Batch,
    FusedImage,
    OptimizerConfig,
    Stage,
    floor_to_uint8,
    round_half_down_to_uint8,
    with_color_of,
)
from jfusion.systems.ddfm.color import from_ycbcr, luminance, to_ycbcr
from jfusion.systems.ddfm.config import Config
from jfusion.systems.ddfm.em import Likelihood
from jfusion.systems.network import SamplingSystem, min_max_normalize

SEED = 3407  # the authors' script's
RELEASED_MULTIPLE = 32  # the released script crops images to multiples of it


class DDFM(SamplingSystem):
    """The network and its diffusion process; `fuse` samples, and training fits the network to images."""

    Config = Config
    WEIGHTS = WeightMap(
        unet.OFFICIAL,
        card=WeightCard(
            where="256x256_diffusion_uncond.pt, linked in the README of openai/guided-diffusion on "
            "GitHub; or a small network of your own images: jfusion train ddfm --variant small "
            "--data FOLDER --crop 64 64",
            license="MIT",
            paper="Diffusion Models Beat GANs on Image Synthesis, NeurIPS 2021",
        ),
    )

    def __init__(self, config: Config):
        super().__init__(config)
        self.unet = unet.UNet(config)
        learned = config.model_var_type.startswith("learned")
        self.process = GaussianDiffusion(
            self.full_schedule.respaced(config.inference_steps),
            config.model_mean_type,
            # a network of three channels has no learned variance
            "fixed_small" if learned and not config.learn_sigma else config.model_var_type,
            config.clip_denoised,
            config.dynamic_threshold,
            1000 / config.train_timesteps if config.rescale_timesteps else 1.0,
        )

    @cached_property
    def full_schedule(self) -> Schedule:
        """The schedule that the network is trained on; `process` has the few steps of the sampling."""
        return named_schedule(self.config.noise_schedule, self.config.train_timesteps)

    # ---- fusion

    def _fuse(
        self,
        a: jt.Var,
        b: jt.Var,
        text: jt.Var | None,
        seed: int | None,
        callback: Callback | None,
    ) -> jt.Var:
        """The luminance of the last sample, min-max normalized per image, as the authors' script does."""
        x = self.sample(a, b, seed=seed, callback=callback)
        return min_max_normalize(luminance(x)[:, :, : a.shape[2], : a.shape[3]])

    def postprocess(self, fused: np.ndarray, pair: Pair) -> FusedImage:
        """Rounds to the nearest, ties down, as the authors' script does."""
        return with_color_of(pair, round_half_down_to_uint8(fused)[0])

    def sample(
        self,
        a: jt.Var,
        b: jt.Var,
        *,
        start: jt.Var | None = None,
        seed: int | None = None,
        noise: Noise | None = None,
        callback: Callback | None = None,
    ) -> jt.Var:
        """a, b (N, 1, H, W) in [0, 1] -> the last sample (N, 3, H, W), about [-1, 1], not clamped.

        start: x_T (default: PyTorch's draw for `seed`, 3407 if None; sample i of the batch has
        seed + i). noise(i): the fresh noise of step i, for ddpm and eta.
        """
        a, b = (self.fit(x) for x in (a, b))
        drawn = _Noise(SEED if seed is None else seed, (a.shape[0], 3, *a.shape[2:]))
        if start is None:
            start = drawn(len(self.process.schedule))
        settings = {"eta": self.config.eta} if self.config.sampler == "ddim" else {}
        with jt.no_grad():
            return SAMPLERS[self.config.sampler](
                self.model(a, b),
                start,
                self.process.schedule,
                noise=noise or drawn,
                callback=callback,
                **settings,
            )

    def model(self, a: jt.Var, b: jt.Var) -> Model:
        """The network's prediction, with its luminance corrected by the sources a, b (N, 1, H, W)."""
        predict = self.process.model(self.unet)
        if not self.config.em:
            return predict
        infrared, visible = _to_levels(a), _to_levels(b)
        # the released script reads the visible image as the paper's I, and the infrared one as its V
        sources = (
            (infrared, visible) if self.config.source_roles == "paper" else (visible, infrared)
        )
        c = self.config
        correct = Likelihood(*sources, c.lamb, c.rho, c.estimate)

        def corrected(x: jt.Var, i: int) -> ModelPrediction:
            prediction = predict(x, i)
            ycbcr = to_ycbcr(prediction.pred_x0)
            pred_x0 = from_ycbcr(jt.concat([correct(ycbcr[:, :1]), ycbcr[:, 1:]], 1))
            mean = self.process.posterior_mean(pred_x0, x, i)
            return ModelPrediction(pred_x0, mean, prediction.log_variance)

        return corrected

    def fit(self, x: jt.Var) -> jt.Var:
        """Pads x (N, C, H, W) by reflection, or crops it, to sides that the network accepts.

        Raises UserError for an image that is too small to be cropped.
        """
        m = self.config.multiple
        if self.config.border == "pad":
            return pad_to_multiple(x, m, "symmetric")
        h, w = x.shape[2:]
        m = max(m, RELEASED_MULTIPLE)
        if min(h, w) < m:
            raise UserError(f"an image of {h}x{w} is smaller than the {m} pixels a side of ddfm")
        return x[:, :, : h // m * m, : w // m * m]

    def preview_step(self, x: jt.Var, size: tuple[int, int]) -> np.ndarray:
        """The luminance of x (N, 3, H, W) as images (N, h, w) uint8 of `size`, as the authors' are."""
        fused = min_max_normalize(luminance(x)[:, :, : size[0], : size[1]]).numpy()
        return floor_to_uint8(fused[:, 0])

    # ---- training of the prior

    def stages(self) -> list[Stage]:
        """One stage."""
        return [Stage("training", self.config.epochs)]

    def optimizers(self, stage: Stage) -> list[OptimizerConfig]:
        """One Adam with a constant rate."""
        rate = self.config.learning_rate
        return [OptimizerConfig("unet", self.trainable(), lambda epoch: rate)]

    def losses(self, batch: Batch, stage: Stage) -> dict[str, jt.Var]:
        """The mean square error of the predicted noise, at a random step for each image.

        DDPM's simple loss (Ho et al., 2020, equation 14).
        """
        # color images are single ones, where a is b; of pairs, both gray images are used
        single = batch.a.shape[1] == 3
        images = self._network_images(batch.a if single else jt.concat([batch.a, batch.b]))
        t = (jt.rand(len(images)).numpy() * len(self.full_schedule)).astype(int)
        noise = jt.randn_like(images)
        x = q_sample(images, t, noise, self.full_schedule)
        error = self.unet(x, t * self.process.time_scale) - noise
        return {"total": (error * error).mean(3).mean()}

    def preview(self, batch: Batch) -> jt.Var:
        """The estimate of a's image from half of the noise, in one step, (N, 3, H', W') in [0, 1]."""
        images = self._network_images(batch.a)
        t = len(self.full_schedule) // 2
        noise = jt.randn_like(images)
        x = q_sample(images, np.full(len(images), t), noise, self.full_schedule)
        process = dataclasses.replace(self.process, schedule=self.full_schedule)
        return (process.model(self.unet)(x, t).pred_x0 + 1) / 2

    def _network_images(self, images: jt.Var) -> jt.Var:
        """(N, 1 or 3, H, W) in [0, 1] -> (N, 3, H', W') in [-1, 1], cropped to sides of the network."""
        if images.shape[1] == 1:
            images = images.broadcast((images.shape[0], 3, *images.shape[2:]))
        h, w = (n // self.config.multiple * self.config.multiple for n in images.shape[2:])
        if not h or not w:
            raise UserError(
                f"images of {images.shape[2]}x{images.shape[3]} are too small for the network"
            )
        return images[:, :, :h, :w] * 2 - 1


class _Noise:
    """Noise of one shape for each step; sample i of the batch has a generator of its own."""

    def __init__(self, seed: int, shape: tuple[int, ...]):
        self.generators, self.shape = [TorchNoise(seed + i) for i in range(shape[0])], shape

    def __call__(self, i: int) -> jt.Var:
        draws = [g.normal((1, *self.shape[1:])) for g in self.generators]
        return jt.array(np.concatenate(draws))


def _to_levels(x: jt.Var) -> jt.Var:
    """[0, 1] -> [-1, 1], rounded to the 256 levels of a gray image, halves to even."""
    levels = np.rint(x.numpy() * np.float32(255)) / np.float32(255)
    return jt.array(np.float32(2) * levels - np.float32(1)).stop_grad()
