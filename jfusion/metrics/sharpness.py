"""Contrast and detail of the fused image alone; the sources do not count."""

from __future__ import annotations

import numpy as np

from jfusion.metrics.plane import Gray, planes


def standard_deviation(fused: Gray, a: Gray | None = None, b: Gray | None = None) -> float:
    """SD: population standard deviation of the fused image (H, W) in 0..255. Higher is better.

    Source: Rao 1997; every evaluator here (VIFB calls it variance).
    """
    return float(np.std(planes(fused)[0].pixels))


def spatial_frequency(
    fused: Gray, a: Gray | None = None, b: Gray | None = None, *, over_all: bool = False
) -> float:
    """SF: root of the mean squared horizontal plus the mean squared vertical difference.

    fused (H, W) in 0..255; each mean is over its own number of differences (over_all: over H W, as
    VIFB), and an axis of one pixel counts 0. Higher is better. Source: Eskicioglu and Fisher 1995.
    """
    x = planes(fused)[0].pixels
    total = 0.0
    for d in (np.diff(x, axis=1), np.diff(x, axis=0)):
        if d.size:
            total += np.vdot(d, d) / (x.size if over_all else d.size)
    return float(np.sqrt(total))


def average_gradient(
    fused: Gray, a: Gray | None = None, b: Gray | None = None, *, over_inner: bool = False
) -> float:
    """AG: mean over all pixels of sqrt((Gx^2 + Gy^2) / 2).

    G are central differences, one-sided at the borders; an axis of one pixel counts 0. over_inner:
    the sum is divided by (H-1)(W-1) (VIFB, FILM-Nankai). fused (H, W) in 0..255. Higher is better.
    Source: Cui et al. 2015; FILM's Evaluator.
    """
    x = planes(fused)[0].pixels
    g = [np.gradient(x, axis=axis) for axis in (0, 1) if x.shape[axis] > 1]
    if not g:
        return 0.0
    count = (x.shape[0] - 1) * (x.shape[1] - 1) if over_inner else x.size
    return float(np.sqrt(sum(d * d for d in g) / 2).sum() / count) if count else float("nan")
