"""Noise schedules, their derived constants, and schedules of fewer steps. NumPy in float64.

`Schedule` is a table by step, from little noise to much, for DDPM and DDIM; `Sigmas` are the few noise
levels of the samplers that solve an ODE, from much noise to little. The package's docstring has the
notation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jfusion.errors import UserError, did_you_mean


def linear_beta_schedule(timesteps: int) -> np.ndarray:
    """β (T,) from 1e-4 to 0.02 for 1000 steps, scaled so that any number of steps ends as noisy (DDPM)."""
    scale = 1000 / timesteps
    return np.linspace(scale * 1e-4, scale * 0.02, timesteps)


def cosine_beta_schedule(timesteps: int) -> np.ndarray:
    """β (T,) for which ᾱ follows a squared cosine; none is above 0.999 (Improved DDPM, equation 17)."""

    def alphas_cumprod(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [
        min(1 - alphas_cumprod((i + 1) / timesteps) / alphas_cumprod(i / timesteps), 0.999)
        for i in range(timesteps)
    ]
    return np.array(betas)


BETA_SCHEDULES = {"linear": linear_beta_schedule, "cosine": cosine_beta_schedule}


@dataclass(frozen=True)
class Schedule:
    """The constants of a diffusion process of N steps: arrays (N,) of float64, indexed by the step i.

    betas: (N,) in (0, 1]. timesteps: (N,), the original steps, which the network was trained on.
    Raises UserError for other betas.
    """

    betas: np.ndarray
    timesteps: np.ndarray

    def __post_init__(self):
        if (
            self.betas.ndim != 1
            or not len(self.betas)
            or not ((self.betas > 0) & (self.betas <= 1)).all()
        ):
            raise UserError("the betas of a noise schedule must be above 0 and at most 1")

    def __len__(self) -> int:
        return len(self.betas)

    @cached_property
    def alphas_cumprod(self) -> np.ndarray:
        """ᾱ_t, the product of 1 - β up to the step (DDPM, equation 4)."""
        return np.cumprod(1 - self.betas)

    @cached_property
    def alphas_cumprod_prev(self) -> np.ndarray:
        """ᾱ_{t-1}; 1 before the first step."""
        return np.append(1.0, self.alphas_cumprod[:-1])

    @cached_property
    def alphas_cumprod_next(self) -> np.ndarray:
        """ᾱ_{t+1}; 0 after the last step."""
        return np.append(self.alphas_cumprod[1:], 0.0)

    @cached_property
    def sqrt_recip_alphas_cumprod(self) -> np.ndarray:
        """The factor of x_t in the estimate of x_0: sqrt(1 / ᾱ_t)."""
        return np.sqrt(1 / self.alphas_cumprod)

    @cached_property
    def sqrt_recipm1_alphas_cumprod(self) -> np.ndarray:
        """The factor of ε in the estimate of x_0, to be subtracted: sqrt(1 / ᾱ_t - 1)."""
        return np.sqrt(1 / self.alphas_cumprod - 1)

    @cached_property
    def sigmas(self) -> np.ndarray:
        """The noise over the image: sqrt((1 - ᾱ_t) / ᾱ_t), the σ of Karras et al., 2022."""
        return np.sqrt((1 - self.alphas_cumprod) / self.alphas_cumprod)

    @cached_property
    def posterior_variance(self) -> np.ndarray:
        """β̃_t, the variance of q(x_{t-1} | x_t, x_0); 0 at the first step (DDPM, equation 7)."""
        return self.betas * (1 - self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_log_variance_clipped(self) -> np.ndarray:
        """The logarithm of β̃_t; the first entry, minus infinity, is replaced by the second."""
        return np.log(np.append(self.second_variance, self.posterior_variance[1:]))

    @property
    def second_variance(self) -> float:
        """The posterior variance of step 1; of a schedule with a single step, its beta."""
        return self.posterior_variance[1] if len(self) > 1 else self.betas[0]

    @cached_property
    def posterior_mean_coef1(self) -> np.ndarray:
        """The factor of x_0 in the mean of q(x_{t-1} | x_t, x_0) (DDPM, equation 7)."""
        return self.betas * np.sqrt(self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_mean_coef2(self) -> np.ndarray:
        """The factor of x_t in the mean of q(x_{t-1} | x_t, x_0) (DDPM, equation 7)."""
        return (1 - self.alphas_cumprod_prev) * np.sqrt(1 - self.betas) / (1 - self.alphas_cumprod)

    def respaced(self, spacing: int | str | Sequence[int]) -> Schedule:
        """The schedule of the steps that `space_timesteps` chooses, with the same ᾱ there."""
        return self.respaced_to(space_timesteps(len(self), spacing))

    def respaced_to(self, steps: np.ndarray) -> Schedule:
        """The schedule of these steps (K,) alone, ascending, with the same ᾱ there."""
        prev = np.append(1.0, self.alphas_cumprod[steps][:-1])
        return Schedule(1 - self.alphas_cumprod[steps] / prev, self.timesteps[steps])


class RoundedSchedule(Schedule):
    """The constants in float32, each computed from rounded ones, as in code that rounds betas first.

    The difference shows: the last factor of the estimate of x_0, which should be 1, is 1.0004 for 2000
    cosine steps.
    """

    @cached_property
    def alphas_cumprod(self) -> np.ndarray:
        """ᾱ_t, a running product in float64 of rounded factors, each entry rounded."""
        return np.cumprod((1 - self.betas).astype(np.float64)).astype(np.float32)

    @cached_property
    def alphas_cumprod_prev(self) -> np.ndarray:
        """ᾱ_{t-1}; 1 before the first step."""
        return np.append(np.float32(1), self.alphas_cumprod[:-1])

    @cached_property
    def posterior_log_variance_clipped(self) -> np.ndarray:
        """The logarithm of β̃_t, of at least 1e-20."""
        return np.log(np.maximum(self.posterior_variance, np.float32(1e-20)))


def rounded(schedule: Schedule) -> RoundedSchedule:
    """The same betas in float32, and all that follows from them."""
    return RoundedSchedule(schedule.betas.astype(np.float32), schedule.timesteps)


def named_schedule(name: str, timesteps: int) -> Schedule:
    """The schedule "linear" or "cosine" of so many steps. Raises UserError for another name."""
    if name not in BETA_SCHEDULES:
        raise UserError(f"unknown noise schedule {name!r}{did_you_mean(name, BETA_SCHEDULES)}")
    if timesteps < 1:
        raise UserError(f"a noise schedule needs one step or more, not {timesteps}")
    return Schedule(BETA_SCHEDULES[name](timesteps), np.arange(timesteps))


def space_timesteps(timesteps: int, spacing: int | str | Sequence[int]) -> np.ndarray:
    """The steps (K,) that a shorter schedule keeps of 0 .. timesteps - 1, ascending.

    spacing: "" or 0, all of them; "ddimN", N of them at the smallest equal distance; a number or a
    list ("10,15,20"): the steps are divided into as many equal parts, with so many steps in each, first
    and last of a part included (Improved DDPM, section 4). Raises UserError where that is impossible.
    """
    if isinstance(spacing, str) and spacing.startswith("ddim"):
        return _equally_spaced(timesteps, spacing)
    try:
        counts = [int(c) for c in spacing.split(",") if c] if isinstance(spacing, str) else spacing
        counts = [int(c) for c in counts] if isinstance(counts, Sequence) else [int(counts)]
    except ValueError as error:
        raise UserError(
            f"the spacing of steps must be a number, a list such as 10,15,20, or ddimN, not {spacing!r}"
        ) from error
    if counts in ([], [0]):
        return np.arange(timesteps)
    return _spaced_in_sections(timesteps, counts)


def _equally_spaced(timesteps: int, spacing: str) -> np.ndarray:
    count = spacing.removeprefix("ddim")
    if count.isdigit():
        for stride in range(1, timesteps + 1):
            if len(range(0, timesteps, stride)) == int(count):
                return np.arange(0, timesteps, stride)
    raise UserError(f"no equal distance gives {count} of {timesteps} steps; choose another ddimN")


def _spaced_in_sections(timesteps: int, counts: list[int]) -> np.ndarray:
    size, longer = divmod(timesteps, len(counts))
    start, steps = 0, []
    for i, count in enumerate(counts):
        length = size + (i < longer)
        if not 0 <= count <= length:
            raise UserError(f"cannot take {count} of {length} steps")
        stride = (length - 1) / (count - 1) if count > 1 else 1
        position = 0.0
        for _ in range(count):
            # halves are rounded to even, and the sum is a running one, as in the reference
            steps.append(start + round(position))
            position += stride
        start += length
    if not steps:
        raise UserError("the spacing takes no step at all")
    return np.array(sorted(set(steps)))


# ---- noise levels, for the samplers that solve an ODE ------------------------------------------


@dataclass(frozen=True)
class Sigmas:
    """The noise levels of a sampler of K steps, from much noise to little.

    timesteps (K,): what the network sees, descending. sigmas (K + 1,): the noise over the image, with
    the level at the end. alphas_cumprod (T,): the whole table, for the sampler that steps between its
    own times (PNDM).
    """

    timesteps: np.ndarray
    sigmas: np.ndarray
    alphas_cumprod: np.ndarray

    def __len__(self) -> int:
        return len(self.timesteps)

    @cached_property
    def alpha_t(self) -> np.ndarray:
        """α_t (K + 1,), the factor of x_0 in x_t."""
        return 1 / np.sqrt(1 + self.sigmas**2)

    @cached_property
    def sigma_t(self) -> np.ndarray:
        """σ_t (K + 1,), the factor of ε in x_t."""
        return self.sigmas * self.alpha_t

    @cached_property
    def lambda_t(self) -> np.ndarray:
        """λ_t = log(α_t / σ_t) (K + 1,), half of the log signal-to-noise ratio."""
        with np.errstate(divide="ignore"):
            return -np.log(self.sigmas)


def get_sigmas_linspace(schedule: Schedule, steps: int) -> Sigmas:
    """Equal distances, rounded to whole steps; the last level is that of step 0, not 0."""
    timesteps = np.rint(np.linspace(0, len(schedule) - 1, steps + 1))[:0:-1].astype(int)
    table = schedule.sigmas
    return Sigmas(timesteps, np.append(table[timesteps], table[0]), schedule.alphas_cumprod)


def get_sigmas_interpolated(schedule: Schedule, steps: int) -> Sigmas:
    """Equal distances from the last step to the first, with interpolated sigmas; the last level is 0."""
    timesteps = np.linspace(0, len(schedule) - 1, steps)[::-1].astype(np.float32).astype(float)
    table = schedule.sigmas
    sigmas = np.interp(timesteps, np.arange(len(table)), table)
    return Sigmas(timesteps, np.append(sigmas, 0.0), schedule.alphas_cumprod)


def get_sigmas_pndm(schedule: Schedule, steps: int) -> Sigmas:
    """Multiples of T // K; each of the three noisiest is replaced by four Runge-Kutta calls."""
    multiples = np.arange(steps) * (len(schedule) // steps)
    half = len(schedule) // steps // 2
    timesteps = []
    for t, t_next in zip(multiples[:-4:-1], multiples[-2:-5:-1], strict=True):
        timesteps += [t, t_next + half, t_next + half, t_next]
    timesteps += list(multiples[-4::-1])
    timesteps = np.array(timesteps)
    return Sigmas(timesteps, schedule.sigmas[timesteps], schedule.alphas_cumprod)
