"""Inference of Diff-FCCF: hierarchical condition enhancement, for the color channels of a batch.

Three chains of images are denoised together: x1 from the structural image, x2 from the functional
channel, and the fused chain x. The network sees the first two and predicts one noise for all three.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jfusion.diffusion.noise import TorchNoise
from jfusion.diffusion.process import ModelPrediction
from jfusion.diffusion.samplers import SAMPLERS, Callback
from jfusion.diffusion.schedule import Schedule, named_schedule, rounded
from jfusion.runtime import jt
from jfusion.systems.fccf.channels import ColorChannel, match_statistics
from jfusion.systems.fccf.config import Config
from jfusion.systems.fccf.network import Denoiser, Output

SEED = 0  # the default seed of the initial noise


def noise_schedule(config: Config) -> Schedule:
    """All T steps; the cosine schedule in single precision, which the published numbers depend on."""
    schedule = named_schedule(config.noise_schedule, config.train_timesteps)
    return rounded(schedule) if config.noise_schedule == "cosine" else schedule


def initial_noise(n: int, size: tuple[int, int], seed: int | None) -> np.ndarray:
    """The initial noise of n images, (3 n, 3, H, W): sample i with channel c is number c n + i.

    Each image has a generator of its own, from `seed` (None: 0) on; the three channels draw one after
    another, and in each the chains x1, x2 and x.
    """
    generators = [TorchNoise((SEED if seed is None else seed) + i) for i in range(n)]
    draws = [
        [np.concatenate([g.normal((1, 1, *size)) for _ in range(3)], 1) for _ in range(3)]
        for g in generators
    ]
    return np.concatenate([draws[i][c] for c in range(3) for i in range(n)])


@dataclass(frozen=True)
class StagedSampler:
    """The sampler of P color channels of N images; its arrays are (P N, ..., H, W), channel by channel.

    The conditions of the network change with the time, in three stages. After each step, the fused chain
    of a chroma channel is set to f outside its region. group: that of the images; pet has another rule
    inside the region of Cr.
    """

    network: Denoiser
    config: Config
    group: str

    def sample(
        self,
        channels: list[ColorChannel],
        start: jt.Var,
        callback: Callback | None = None,
        noise: Callable[[int], jt.Var] | None = None,
    ) -> jt.Var:
        """The fused channels (P N, 1, H, W), about [-1, 1].

        start (P N, 3, H, W): the initial x1, x2 and x. noise(i): what step i adds, one for the three
        chains; by default drawn from a seed with `add_noise`, otherwise 0.
        """
        schedule = noise_schedule(self.config)
        if self.config.inference_steps:
            schedule = schedule.respaced(self.config.inference_steps)
        if noise is None:
            noise = self._noise((start.shape[0], 1, *start.shape[2:]))

        def model(x: jt.Var, i: int) -> ModelPrediction:
            first = i == len(schedule) - 1
            return self.predict(channels, x if first else self.restore(channels, x), i, schedule)

        sampler = SAMPLERS[self.config.sampler]
        x = sampler(model, start, schedule, noise=noise, callback=callback)
        return self.restore(channels, x)[:, 2:3]

    def _noise(self, shape: tuple[int, ...]) -> Callable[[int], jt.Var]:
        if not self.config.add_noise:
            return lambda i: 0.0
        generator = TorchNoise(SEED)
        return lambda i: jt.array(generator.normal(shape))

    def predict(
        self, channels: list[ColorChannel], x: jt.Var, i: int, schedule: Schedule
    ) -> ModelPrediction:
        """The prediction for x (P N, 3, H, W) at index i of the schedule.

        The fused chain first becomes the mean of itself and of the blend of x1 and x2 by the masks, which
        is the paper's fusion.
        """
        output, n = self.run_network(channels, x, int(schedule.timesteps[i])), len(channels[0].s)
        x1, x2, fused = x.chunk(3, 1)
        blends = []
        for k, channel in enumerate(channels):
            rows = slice(k * n, (k + 1) * n)
            m1, m2 = output.mask1[rows], output.mask2[rows]
            if channel.number == 0:
                blends.append(m1 * x1[rows] + (1 - m1) * x2[rows])
            else:
                blends.append(x2[rows] + channel.sign * m2 * x1[rows])
        x = jt.concat([x1, x2, (jt.concat(blends, 0) + fused) / 2], 1)
        pred_x0, mean = posterior(x, output.noise, x, i, schedule)
        log_variance = jt.float32(float(schedule.posterior_log_variance_clipped[i]))
        return ModelPrediction(pred_x0, mean, log_variance, x)

    def run_network(self, channels: list[ColorChannel], x: jt.Var, t: int) -> Output:
        """The network's output for the chains x1 and x2 of x (P N, 3, H, W) at time t."""
        inputs = jt.concat([*self.conditions(channels, t), x[:, :2]], 1)
        return self.network(inputs, np.full(x.shape[0], t))

    def conditions(self, channels: list[ColorChannel], t: int) -> tuple[jt.Var, jt.Var]:
        """The two conditions at time t, (P N, 1, H, W) each.

        In the first third of the steps (high t) they are f twice, then s and f, in the last third s twice.
        """
        s = jt.array(np.concatenate([channel.s_condition for channel in channels]))
        f = jt.array(np.concatenate([channel.f_condition for channel in channels]))
        third = self.config.train_timesteps // 3
        if t > self.config.train_timesteps - third:
            return f, f
        return (s, f) if t >= third else (s, s)

    def restore(self, channels: list[ColorChannel], x: jt.Var) -> jt.Var:
        """Sets the fused chroma of x (P N, 3, H, W) to f outside its region."""
        n, fused = len(channels[0].s), []
        for k, channel in enumerate(channels):
            chain = x[k * n : (k + 1) * n, 2:3]
            fused.append(chain if channel.number == 0 else self._restored(channel, chain))
        return jt.concat([x[:, :2], jt.concat(fused, 0)], 1)

    def _restored(self, channel: ColorChannel, x: jt.Var) -> jt.Var:
        region, f = jt.array(channel.region), jt.array(channel.f)
        if self.group == "pet" and channel.number == 1:
            return jt.clamp((1 - region) * f + region * (0.8 - x), -1, 1)
        inside = match_statistics(region * x, region * f, f[:, :, 2:3, 2:3])
        # where the region is empty, the result is f
        return (1 - region) * f + region * jt.clamp(inside, -1, 1)


def posterior(
    x: jt.Var, noise: jt.Var, x_t: jt.Var, i: int, schedule: Schedule
) -> tuple[jt.Var, jt.Var]:
    """The estimate of x_0 that x and its noise give, clamped to [-1, 1], and the mean of the step back.

    The mean is that of q(x_{t-1} | x_t, x_0) (DDPM, equation 7); in our sampling x_t is x. (The released
    sampling also denoises a displacement field, with the functional chain as its x_t; nothing reads it.)
    """
    recip, recipm1, coef1, coef2 = (
        float(np.float32(constants[i]))
        for constants in (
            schedule.sqrt_recip_alphas_cumprod,
            schedule.sqrt_recipm1_alphas_cumprod,
            schedule.posterior_mean_coef1,
            schedule.posterior_mean_coef2,
        )
    )
    pred_x0 = jt.clamp(recip * x - recipm1 * noise, -1, 1)
    return pred_x0, coef1 * pred_x0 + coef2 * x_t
