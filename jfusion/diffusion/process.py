"""The forward process, and what a network's output says about the step back.

Constants are float64 numbers of the schedule, used as float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jfusion.diffusion.schedule import Schedule
from jfusion.errors import UserError, did_you_mean
from jfusion.runtime import jt

MEANS = ("epsilon", "start_x", "previous_x")
VARIANCES = ("fixed_small", "fixed_large", "learned", "learned_range")


class Estimate(NamedTuple):
    """clean: the estimate of x_0. mean, log_variance: of x_{k-1}, as the network has them.

    x: what the estimate is of, where the model changes x_k first.
    """

    clean: jt.Var
    mean: jt.Var
    log_variance: jt.Var
    x: jt.Var | None = None


def noised(clean: jt.Var, noise: jt.Var, schedule: Schedule, k: np.ndarray) -> jt.Var:
    """sqrt(ᾱ_k) x_0 + sqrt(1 - ᾱ_k) ε (DDPM, equation 4). k (N,), one step for each sample."""
    abar = schedule.abar[np.asarray(k)]
    left, added = (per_sample(v) for v in (np.sqrt(abar), np.sqrt(1 - abar)))
    return left * clean + added * noise


def per_sample(values: np.ndarray) -> jt.Var:
    """(N,) -> a float32 (N, 1, 1, 1)."""
    return jt.array(np.asarray(values, np.float32).reshape(-1, 1, 1, 1)).stop_grad()


@dataclass(frozen=True)
class Process:
    """How a network's output is read.

    mean: what it predicts, the noise "epsilon", the clean image "start_x", or the mean of the step
    before, "previous_x". variance: "fixed_small" and "fixed_large" are constants, "learned" and
    "learned_range" (Improved DDPM, equation 15) take the second half of the output's channels.
    clip: cuts the clean estimate to [-1, 1]. dynamic_threshold: first multiplies it by the 0.95
    quantile of its absolute values and cuts (DDFM's code; Imagen divides). time_scale: the network
    sees steps times this.
    """

    schedule: Schedule
    mean: str = "epsilon"
    variance: str = "learned_range"
    clip: bool = True
    dynamic_threshold: bool = False
    time_scale: float = 1.0

    def __post_init__(self):
        for what, name, known in (
            ("mean", self.mean, MEANS),
            ("variance", self.variance, VARIANCES),
        ):
            if name not in known:
                raise UserError(f"unknown {what} type {name!r}{did_you_mean(name, known)}")

    @property
    def learns_variance(self) -> bool:
        """Whether the network has a second half."""
        return self.variance.startswith("learned")

    def model(
        self, network: Callable[..., jt.Var], **inputs: Any
    ) -> Callable[[jt.Var, int], Estimate]:
        """network(x, t, **inputs) -> output, as the function of x and k that the samplers take."""

        def estimate(x: jt.Var, k: int) -> Estimate:
            t = np.full(x.shape[0], self.schedule.steps[k] * self.time_scale, np.float32)
            return self.estimate(network(x, t, **inputs), x, k)

        return estimate

    def estimate(self, output: jt.Var, x: jt.Var, k: int) -> Estimate:
        """Output (N, C or 2C, H, W) for x (N, C, H, W) at step k, the same for all samples."""
        first, second = self._halves(output, x)
        clean = self._clipped(self._clean(first, x, k))
        mean = first if self.mean == "previous_x" else self.posterior_mean(clean, x, k)
        return Estimate(clean, mean, self.log_variance(second, x, k))

    def posterior_mean(self, clean: jt.Var, x: jt.Var, k: int) -> jt.Var:
        """Of q(x_{k-1} | x_k, x_0) (DDPM, equation 7)."""
        s = self.schedule
        return (
            float(np.float32(s.mean_from_clean[k])) * clean
            + float(np.float32(s.mean_from_x[k])) * x
        )

    def log_variance(self, second: jt.Var | None, x: jt.Var, k: int) -> jt.Var:
        """The logarithm of the variance of x_{k-1}, of x's shape."""
        s = self.schedule
        if self.variance == "learned":
            return second
        if self.variance == "learned_range":
            low, high = (
                float(np.float32(v)) for v in (s.posterior_log_variance[k], np.log(s.betas[k]))
            )
            part = (second + 1) / 2
            return part * high + (1 - part) * low
        large = np.log(np.append(s.second_variance, s.betas[1:]))
        value = large[k] if self.variance == "fixed_large" else s.posterior_log_variance[k]
        return jt.full_like(x, float(np.float32(value)))

    def _halves(self, output: jt.Var, x: jt.Var) -> tuple[jt.Var, jt.Var | None]:
        channels = x.shape[1] * (2 if self.learns_variance else 1)
        if output.shape[1] == channels:
            return output.chunk(2, 1) if self.learns_variance else (output, None)
        if output.shape[1] == 2 * channels:  # a learned variance that is not asked for
            return output[:, :channels], None
        raise UserError(
            f"the network has {output.shape[1]} output channels, and variance type {self.variance} of "
            f"{x.shape[1]}-channel images needs {channels}; choose another --variance"
        )

    def _clean(self, first: jt.Var, x: jt.Var, k: int) -> jt.Var:
        s = self.schedule
        if self.mean == "start_x":
            return first
        if self.mean == "epsilon":
            factors = s.clean_from_x[k], -s.clean_from_noise[k]
        else:
            factors = -s.mean_from_x[k] / s.mean_from_clean[k], 1 / s.mean_from_clean[k]
        of_x, of_output = (float(np.float32(f)) for f in factors)
        return of_x * x + of_output * first

    def _clipped(self, clean: jt.Var) -> jt.Var:
        if self.dynamic_threshold:
            top = np.quantile(np.abs(clean.numpy()), 0.95)
            clean = jt.clamp(clean * float(np.float32(top)), -1, 1)
        return jt.clamp(clean, -1, 1) if self.clip else clean
