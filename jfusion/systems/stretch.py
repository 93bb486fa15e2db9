"""One min-max normalization for all frames of a clip, or all slices of a volume.

Several published systems normalize each result by its own extremes. Of a clip that makes the brightness
of what rests depend on what moves. Here the extremes of a few frames are measured first, and then hold
for all of them. Needs no Jittor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np


@dataclass
class Stretch:
    """The extremes of what a system gives for several images, before it normalizes.

    With no image measured, or of a system that does not normalize, they stay infinite and change nothing.
    """

    low: float = math.inf
    high: float = -math.inf

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Inside, every normalization widens the extremes to hold those of its image."""
        with _using(_Use(self, measuring=True)):
            yield

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, every normalization uses these extremes, if any were measured."""
        with _using(_Use(self, measuring=False) if self.low <= self.high else None):
            yield


def ends(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The extremes to normalize by: those of the image, `low` and `high` of any shape, or the ones that hold."""
    use = _current.get()
    if use is None:
        return low, high
    if use.measuring:
        use.of.low = min(use.of.low, float(np.min(low)))
        use.of.high = max(use.of.high, float(np.max(high)))
        return low, high
    return np.full_like(low, use.of.low), np.full_like(high, use.of.high)


@dataclass
class _Use:
    of: Stretch
    measuring: bool


_current: ContextVar[_Use | None] = ContextVar("stretch", default=None)


@contextmanager
def _using(use: _Use | None) -> Iterator[None]:
    token = _current.set(use)
    try:
        yield
    finally:
        _current.reset(token)
