"""DDFM: the system that the trainer, the tester and the command line use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from jfusion.diffusion import unet
from jfusion.diffusion.noise import TorchNoise
from jfusion.diffusion.process import Estimate, Process
from jfusion.diffusion.samplers import SAMPLERS, Callback, Model
from jfusion.diffusion.schedule import schedule
from jfusion.errors import UserError
from jfusion.ops.conv import conv1x1
from jfusion.ops.resize import pad_to_multiple
from jfusion.runtime import jt
from jfusion.systems.base import System, stretch, ties_down
from jfusion.systems.ddfm.config import Config
from jfusion.systems.ddfm.em import Likelihood

SEED = 3407

# BT.601 studio range: RGB in [0, 1] -> Y, Cb, Cr in [0, 255]
TO_YCBCR = np.array(
    [[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]
)
OFFSET = np.array([16.0, 128.0, 128.0])


class DDFM(System):
    """The network and the way through the steps."""

    NAME = "ddfm"
    Config = Config
    OFFICIAL = unet.OFFICIAL
    TAKES = ("diffusion",)
    STEPWISE = True
    WARM: ClassVar[dict[str, Any]] = {
        **{"num_channels": 32, "channel_mult": "1,2", "num_res_blocks": 1, "num_head_channels": 32},
        **{"attention_resolutions": "128", "timestep_respacing": "2"},
    }
    GET_WEIGHTS = (
        "the official ones are 256x256_diffusion_uncond.pt, linked in the README of GitHub's "
        "openai/guided-diffusion, and are read as they are; a small model of your own images: jfusion "
        "train diffusion --data FOLDER"
    )

    def __init__(self, config: Config):
        super().__init__(config)
        self.unet = unet.UNet(config)
        full = schedule(config.noise_schedule, config.steps)
        self.process = Process(
            full.shortened(config.timestep_respacing),
            config.model_mean_type,
            config.model_var_type if config.learn_sigma else _fixed(config.model_var_type),
            config.clip_denoised,
            config.dynamic_threshold,
            1000 / config.steps if config.rescale_timesteps else 1.0,
        )

    def execute(self, a: jt.Var, b: jt.Var, text: jt.Var | None = None) -> jt.Var:
        """The luminance of the last step, not stretched: (N, 1, H, W)."""
        return luminance(self.sample(a, b))

    def sample(
        self,
        a: jt.Var,
        b: jt.Var,
        *,
        start: jt.Var | None = None,
        seed: int | None = None,
        noise: Callable[[int], jt.Var] | None = None,
        callback: Callback | None = None,
    ) -> jt.Var:
        """a, b (N, 1, H, W) in [0, 1] -> the last sample (N, 3, H, W), about [-1, 1], not cut.

        start: x_T (default: PyTorch's draw for `seed`, 3407 if None; sample i of the batch has
        seed + i). noise(k): the fresh noise of step k, for ddpm and eta.
        """
        a, b = (self._fitted(x) for x in (a, b))
        draw = _Noise(SEED if seed is None else seed, (a.shape[0], 3, *a.shape[2:]))
        if start is None:
            start = draw(len(self.process.schedule))
        extra = {"eta": self.config.eta} if self.config.sampler == "ddim" else {}
        with jt.no_grad():
            return SAMPLERS[self.config.sampler](
                self.model(a, b),
                start,
                self.process.schedule,
                noise=noise or draw,
                callback=callback,
                **extra,
            )

    def model(self, a: jt.Var, b: jt.Var) -> Model:
        """The network's estimate, with its luminance corrected by the sources."""
        model = self.process.model(self.unet)
        if not self.config.em:
            return model
        # the released script reads the visible image as its I, and the infrared one as its V
        first, second = (_whole(a), _whole(b)) if self.config.swap else (_whole(b), _whole(a))
        step = Likelihood(first, second, self.config.lamb, self.config.rho, self.config.textbook)

        def corrected(x: jt.Var, k: int) -> Estimate:
            found = model(x, k)
            planes = to_ycbcr(found.clean)
            clean = from_ycbcr(jt.concat([step(planes[:, :1]), planes[:, 1:]], 1))
            return Estimate(clean, self.process.posterior_mean(clean, x, k), found.log_variance)

        return corrected

    def _fitted(self, x: jt.Var) -> jt.Var:
        """Sides that the network takes: padded by reflection, or cut off."""
        m = self.config.multiple
        h, w = x.shape[2:]
        if self.config.faithful:
            m = max(m, 32)
            if min(h, w) < m:
                raise UserError(
                    f"an image of {h}x{w} is smaller than the {m} pixels a side of ddfm"
                )
            return x[:, :, : h // m * m, : w // m * m]
        return pad_to_multiple(x, m, "symmetric")

    def fuse(
        self,
        a: jt.Var,
        b: jt.Var,
        text: jt.Var | None = None,
        *,
        seed: int | None = None,
        callback: Callback | None = None,
    ) -> jt.Var:
        """The luminance stretched to [0, 1] per image; a flat one gives 0."""
        final = self.sample(a, b, seed=seed, callback=callback)
        return stretch(luminance(final)[:, :, : a.shape[2], : a.shape[3]])

    def frame(self, x: jt.Var, size: tuple[int, int]) -> np.ndarray:
        """A step as a picture of `size`: (N, 3, H, W) -> (N, h, w) uint8, cut as the authors' are."""
        shown = stretch(luminance(x)[:, :, : size[0], : size[1]]).numpy()
        return (shown[:, 0] * 255).astype(np.uint8)

    def to_uint8(self, fused: np.ndarray) -> np.ndarray:
        return ties_down(fused)


class _Noise:
    """Noise of one shape by the index of the step; sample i of the batch has a generator of its own."""

    def __init__(self, seed: int, shape: tuple[int, ...]):
        self.generators, self.shape = [TorchNoise(seed + i) for i in range(shape[0])], shape

    def __call__(self, k: int) -> jt.Var:
        draws = [g.normal((1, *self.shape[1:])) for g in self.generators]
        return jt.array(np.concatenate(draws))


def to_ycbcr(rgb: jt.Var) -> jt.Var:
    """(N, 3, H, W), taken for [0, 1] -> Y, Cb, Cr of BT.601's studio range, divided by 255."""
    return conv1x1(rgb, *_affine(TO_YCBCR / 255, OFFSET / 255))


def from_ycbcr(planes: jt.Var) -> jt.Var:
    """The inverse of `to_ycbcr`."""
    back = np.linalg.inv(TO_YCBCR)
    return conv1x1(planes, *_affine(255 * back, -back @ OFFSET))


def _affine(matrix: np.ndarray, offset: np.ndarray) -> tuple[jt.Var, jt.Var]:
    values = (matrix[:, :, None, None], offset)
    return tuple(jt.array(v.astype(np.float32)).stop_grad() for v in values)


def luminance(rgb: jt.Var) -> jt.Var:
    """0.299 R + 0.587 G + 0.114 B: (N, 3, H, W) -> (N, 1, H, W)."""
    red, green, blue = rgb.chunk(3, 1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _whole(x: jt.Var) -> jt.Var:
    """[0, 1] -> [-1, 1], rounded to the 256 levels of a gray picture, halves to even."""
    levels = np.rint(x.numpy() * np.float32(255)) / np.float32(255)
    return jt.array(np.float32(2) * levels - np.float32(1)).stop_grad()


def _fixed(variance: str) -> str:
    """A network of three channels has no learned variance."""
    return "fixed_small" if variance.startswith("learned") else variance
