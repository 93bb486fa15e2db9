"""Noise schedules, their derived constants, and schedules of fewer steps. NumPy in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jfusion.errors import UserError, did_you_mean


def linear_betas(steps: int) -> np.ndarray:
    """From 1e-4 to 0.02 for 1000 steps, scaled so that any number of steps ends as noisy (DDPM)."""
    scale = 1000 / steps
    return np.linspace(scale * 1e-4, scale * 0.02, steps)


def cosine_betas(steps: int) -> np.ndarray:
    """ᾱ follows a squared cosine; no β above 0.999 (Improved DDPM, equation 17)."""

    def left(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - left((i + 1) / steps) / left(i / steps), 0.999) for i in range(steps)]
    return np.array(betas)


BETAS = {"linear": linear_betas, "cosine": cosine_betas}


@dataclass(frozen=True)
class Schedule:
    """The constants of a diffusion process of N steps, arrays (N,) of float64 indexed by step k.

    betas: (N,) in (0, 1]. steps: (N,) the original steps, which the network was trained on.
    """

    betas: np.ndarray
    steps: np.ndarray

    def __post_init__(self):
        if (
            self.betas.ndim != 1
            or not len(self.betas)
            or not ((self.betas > 0) & (self.betas <= 1)).all()
        ):
            raise UserError("a noise schedule wants betas in (0, 1]")

    def __len__(self) -> int:
        return len(self.betas)

    @cached_property
    def abar(self) -> np.ndarray:
        """ᾱ_k."""
        return np.cumprod(1 - self.betas)

    @cached_property
    def abar_before(self) -> np.ndarray:
        """ᾱ of the step before, 1 before the first."""
        return np.append(1.0, self.abar[:-1])

    @cached_property
    def abar_after(self) -> np.ndarray:
        """ᾱ of the step after, 0 after the last."""
        return np.append(self.abar[1:], 0.0)

    @cached_property
    def clean_from_x(self) -> np.ndarray:
        """The factor of x in the clean estimate: sqrt(1 / ᾱ)."""
        return np.sqrt(1 / self.abar)

    @cached_property
    def clean_from_noise(self) -> np.ndarray:
        """The factor of the noise that is taken off: sqrt(1 / ᾱ - 1)."""
        return np.sqrt(1 / self.abar - 1)

    @cached_property
    def posterior_variance(self) -> np.ndarray:
        """Of q(x_{k-1} | x_k, x_0), 0 at the first step (DDPM, equation 7)."""
        return self.betas * (1 - self.abar_before) / (1 - self.abar)

    @cached_property
    def posterior_log_variance(self) -> np.ndarray:
        """Its logarithm; the first entry, minus infinity, is replaced by the second."""
        return np.log(np.append(self.second_variance, self.posterior_variance[1:]))

    @property
    def second_variance(self) -> float:
        """The posterior variance of step 1; of a single step, its beta."""
        return self.posterior_variance[1] if len(self) > 1 else self.betas[0]

    @cached_property
    def mean_from_clean(self) -> np.ndarray:
        """The factor of x_0 in the mean of q(x_{k-1} | x_k, x_0)."""
        return self.betas * np.sqrt(self.abar_before) / (1 - self.abar)

    @cached_property
    def mean_from_x(self) -> np.ndarray:
        """The factor of x_k in the mean of q(x_{k-1} | x_k, x_0)."""
        return (1 - self.abar_before) * np.sqrt(1 - self.betas) / (1 - self.abar)

    def shortened(self, spacing: int | str | Sequence[int]) -> Schedule:
        """The schedule of the steps that `spaced` chooses, with the same ᾱ there."""
        return self.shortened_to(spaced(len(self), spacing))

    def shortened_to(self, steps: np.ndarray) -> Schedule:
        """The schedule of these steps, ascending."""
        before = np.append(1.0, self.abar[steps][:-1])
        return Schedule(1 - self.abar[steps] / before, self.steps[steps])


class RoundedSchedule(Schedule):
    """The constants in float32, each computed from rounded ones, as code that rounds betas first has.

    It shows: the last factor of the clean estimate, which should be 1, is 1.0004 for 2000 cosine steps.
    """

    @cached_property
    def abar(self) -> np.ndarray:
        """ᾱ_k, a running product in float64 of rounded factors, each entry rounded."""
        return np.cumprod((1 - self.betas).astype(np.float64)).astype(np.float32)

    @cached_property
    def abar_before(self) -> np.ndarray:
        """ᾱ of the step before, 1 before the first."""
        return np.append(np.float32(1), self.abar[:-1])

    @cached_property
    def posterior_log_variance(self) -> np.ndarray:
        """Its logarithm, of 1e-20 or more."""
        return np.log(np.maximum(self.posterior_variance, np.float32(1e-20)))


def rounded(made: Schedule) -> RoundedSchedule:
    """The same betas in float32, and all that follows from them."""
    return RoundedSchedule(made.betas.astype(np.float32), made.steps)


def schedule(name: str, steps: int) -> Schedule:
    """The schedule "linear" or "cosine" of so many steps."""
    if name not in BETAS:
        raise UserError(f"unknown noise schedule {name!r}{did_you_mean(name, BETAS)}")
    if steps < 1:
        raise UserError(f"a noise schedule wants one step or more, not {steps}")
    return Schedule(BETAS[name](steps), np.arange(steps))


def spaced(steps: int, spacing: int | str | Sequence[int]) -> np.ndarray:
    """Which of `steps` are taken, ascending.

    spacing: "" or 0, all of them; "ddimN", N of them at the smallest equal distance; a number or a
    list ("10,15,20"): 0..steps-1 is cut into as many equal parts, with so many steps in each, first
    and last of a part included (Improved DDPM, section 4).
    """
    if isinstance(spacing, str) and spacing.startswith("ddim"):
        return _equally(steps, spacing)
    try:
        counts = [int(c) for c in spacing.split(",") if c] if isinstance(spacing, str) else spacing
        counts = [int(c) for c in counts] if isinstance(counts, Sequence) else [int(counts)]
    except ValueError as error:
        raise UserError(
            f"the spacing of steps must be a number, a list such as 10,15,20, or ddimN, not {spacing!r}"
        ) from error
    if counts in ([], [0]):
        return np.arange(steps)
    return _in_parts(steps, counts)


def _equally(steps: int, spacing: str) -> np.ndarray:
    wanted = spacing.removeprefix("ddim")
    if wanted.isdigit():
        for stride in range(1, steps + 1):
            if len(range(0, steps, stride)) == int(wanted):
                return np.arange(0, steps, stride)
    raise UserError(f"no equal distance takes {wanted} of {steps} steps; choose another ddimN")


def _in_parts(steps: int, counts: list[int]) -> np.ndarray:
    size, longer = divmod(steps, len(counts))
    start, taken = 0, []
    for i, count in enumerate(counts):
        length = size + (i < longer)
        if not 0 <= count <= length:
            raise UserError(f"cannot take {count} of {length} steps")
        stride = (length - 1) / (count - 1) if count > 1 else 1
        at = 0.0
        for _ in range(count):
            taken.append(start + round(at))  # halves to even, and a running sum: as the reference
            at += stride
        start += length
    if not taken:
        raise UserError("the spacing takes no step at all")
    return np.array(sorted(set(taken)))
