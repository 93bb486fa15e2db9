"""The forward process, and what a network's output says about the step back.

Constants are float64 numbers of the schedule, used as float32. The package's docstring has the notation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jfusion.diffusion.schedule import Schedule
from jfusion.errors import UserError, did_you_mean
from jfusion.runtime import jt

MEAN_TYPES = ("epsilon", "start_x", "previous_x")
VAR_TYPES = ("fixed_small", "fixed_large", "learned", "learned_range")


class ModelPrediction(NamedTuple):
    """What a model says about x at one step; arrays (N, C, H, W).

    pred_x0: the estimate of x_0. mean, log_variance: those of x_{t-1}, for the samplers that use them.
    x: what the estimate is about, where the model changes x first.
    """

    pred_x0: jt.Var
    mean: jt.Var | None = None
    log_variance: jt.Var | None = None
    x: jt.Var | None = None


def q_sample(x_start: jt.Var, t: np.ndarray, noise: jt.Var, schedule: Schedule) -> jt.Var:
    """sqrt(ᾱ_t) x_0 + sqrt(1 - ᾱ_t) ε (DDPM, equation 4), of x_start's shape.

    x_start, noise (N, C, H, W); t (N,): the index of a step in `schedule`, one for each sample.
    """
    alphas_cumprod = schedule.alphas_cumprod[np.asarray(t)]
    alpha_t, sigma_t = (per_sample(np.sqrt(v)) for v in (alphas_cumprod, 1 - alphas_cumprod))
    return alpha_t * x_start + sigma_t * noise


def per_sample(values: np.ndarray) -> jt.Var:
    """(N,) -> a float32 (N, 1, 1, 1)."""
    return jt.array(np.asarray(values, np.float32).reshape(-1, 1, 1, 1)).stop_grad()


@dataclass(frozen=True)
class GaussianDiffusion:
    """How a network's output is read.

    mean_type: what the network predicts, the noise "epsilon", the image "start_x", or the mean of the
    step before, "previous_x". var_type: "fixed_small" and "fixed_large" are constants, "learned" and
    "learned_range" (Improved DDPM, equation 15) are the second half of the output's channels.
    clip_denoised: clamps the estimate of x_0 to [-1, 1]. dynamic_threshold: first multiplies it by the
    0.95 quantile of its absolute values and clamps it (DDFM's code; Imagen divides). time_scale: the
    network sees the schedule's timesteps times this. Raises UserError for an unknown type.
    """

    schedule: Schedule
    mean_type: str = "epsilon"
    var_type: str = "learned_range"
    clip_denoised: bool = True
    dynamic_threshold: bool = False
    time_scale: float = 1.0

    def __post_init__(self):
        for what, name, choices in (
            ("mean", self.mean_type, MEAN_TYPES),
            ("variance", self.var_type, VAR_TYPES),
        ):
            if name not in choices:
                raise UserError(f"unknown {what} type {name!r}{did_you_mean(name, choices)}")

    @property
    def learns_variance(self) -> bool:
        """Whether the output's channels have a second half, for the variance."""
        return self.var_type.startswith("learned")

    def model(
        self, network: Callable[..., jt.Var], **inputs: Any
    ) -> Callable[[jt.Var, int], ModelPrediction]:
        """network(x, t, **inputs) -> output, as the function of x and i that the samplers call."""

        def predict(x: jt.Var, i: int) -> ModelPrediction:
            t = np.full(x.shape[0], self.schedule.timesteps[i] * self.time_scale, np.float32)
            return self.p_mean_variance(network(x, t, **inputs), x, i)

        return predict

    def p_mean_variance(self, output: jt.Var, x: jt.Var, i: int) -> ModelPrediction:
        """The prediction from an output (N, C or 2C, H, W) for x (N, C, H, W) at step i of all samples."""
        first, second = self._halves(output, x)
        pred_x0 = self._clamp(self._pred_x0(first, x, i))
        mean = first if self.mean_type == "previous_x" else self.posterior_mean(pred_x0, x, i)
        return ModelPrediction(pred_x0, mean, self.log_variance(second, x, i))

    def posterior_mean(self, pred_x0: jt.Var, x: jt.Var, i: int) -> jt.Var:
        """The mean of q(x_{t-1} | x_t, x_0) (DDPM, equation 7), of x's shape."""
        s = self.schedule
        return (
            float(np.float32(s.posterior_mean_coef1[i])) * pred_x0
            + float(np.float32(s.posterior_mean_coef2[i])) * x
        )

    def log_variance(self, second: jt.Var | None, x: jt.Var, i: int) -> jt.Var:
        """The logarithm of the variance of x_{t-1}, of x's shape; second: the output's other half."""
        s = self.schedule
        if self.var_type == "learned":
            return second
        if self.var_type == "learned_range":
            low, high = (
                float(np.float32(v))
                for v in (s.posterior_log_variance_clipped[i], np.log(s.betas[i]))
            )
            fraction = (second + 1) / 2
            return fraction * high + (1 - fraction) * low
        large = np.log(np.append(s.second_variance, s.betas[1:]))
        small = s.posterior_log_variance_clipped
        value = (large if self.var_type == "fixed_large" else small)[i]
        return jt.full_like(x, float(np.float32(value)))

    def _halves(self, output: jt.Var, x: jt.Var) -> tuple[jt.Var, jt.Var | None]:
        channels = x.shape[1] * (2 if self.learns_variance else 1)
        if output.shape[1] == channels:
            return output.chunk(2, 1) if self.learns_variance else (output, None)
        if output.shape[1] == 2 * channels:  # a learned variance that is not used
            return output[:, :channels], None
        raise UserError(
            f"the network has {output.shape[1]} output channels, and variance type {self.var_type} of "
            f"{x.shape[1]}-channel images needs {channels}; choose another --model-var-type"
        )

    def _pred_x0(self, first: jt.Var, x: jt.Var, i: int) -> jt.Var:
        s = self.schedule
        if self.mean_type == "start_x":
            return first
        if self.mean_type == "epsilon":
            factors = s.sqrt_recip_alphas_cumprod[i], -s.sqrt_recipm1_alphas_cumprod[i]
        else:
            coef1, coef2 = s.posterior_mean_coef1[i], s.posterior_mean_coef2[i]
            factors = -coef2 / coef1, 1 / coef1
        x_factor, output_factor = (float(np.float32(f)) for f in factors)
        return x_factor * x + output_factor * first

    def _clamp(self, pred_x0: jt.Var) -> jt.Var:
        if self.dynamic_threshold:
            quantile = np.quantile(np.abs(pred_x0.numpy()), 0.95)
            pred_x0 = jt.clamp(pred_x0 * float(np.float32(quantile)), -1, 1)
        return jt.clamp(pred_x0, -1, 1) if self.clip_denoised else pred_x0
