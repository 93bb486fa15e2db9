"""Contrast and detail of the fused image alone; the sources do not count."""

from __future__ import annotations

import math

import numpy as np

from jfusion.metrics.gray_image import Gray, gray_images, strips


def standard_deviation(fused: Gray, a: Gray | None = None, b: Gray | None = None) -> float:
    """SD: population standard deviation of the fused image (H, W) in 0..255. Higher is better.

    Source: Rao 1997; every evaluator here (VIFB calls it variance).
    """
    return float(np.std(gray_images(fused)[0].pixels))


def spatial_frequency(
    fused: Gray, a: Gray | None = None, b: Gray | None = None, *, over_all: bool = False
) -> float:
    """SF: root of the mean squared horizontal plus the mean squared vertical difference.

    fused (H, W) in 0..255; each mean is over its own number of differences (over_all: over H W, as
    VIFB), and an axis of one pixel counts 0. Higher is better. Source: Eskicioglu and Fisher 1995.
    """
    x = gray_images(fused)[0].pixels
    sums = np.zeros(2)
    for rows in strips(x.shape):
        across, down = np.diff(x[rows], axis=1), np.diff(x[rows.start : rows.stop + 1], axis=0)
        sums += np.vdot(across, across), np.vdot(down, down)
    height, width = x.shape
    counts = np.maximum([height * (width - 1), (height - 1) * width], 1)
    return float(np.sqrt((sums / (x.size if over_all else counts)).sum()))


def average_gradient(
    fused: Gray, a: Gray | None = None, b: Gray | None = None, *, over_inner: bool = False
) -> float:
    """AG: mean over all pixels of sqrt((Gx^2 + Gy^2) / 2).

    G are central differences, one-sided at the borders; an axis of one pixel counts 0. over_inner:
    the sum is divided by (H-1)(W-1) (VIFB, FILM-Nankai). fused (H, W) in 0..255. Higher is better.
    Source: Cui et al. 2015; FILM's Evaluator.
    """
    x = gray_images(fused)[0].pixels
    height, width = x.shape
    count = (height - 1) * (width - 1) if over_inner else x.size
    if not count:
        return math.nan
    total = 0.0
    for rows in strips(x.shape):
        first = max(rows.start - 1, 0)
        part = x[first : rows.stop + 1]  # a row more on either side, for central differences
        squares = np.zeros((rows.stop - rows.start, width))
        if height > 1:
            squares += np.gradient(part, axis=0)[rows.start - first :][: len(squares)] ** 2
        if width > 1:
            squares += np.gradient(x[rows], axis=1) ** 2
        total += float(np.sqrt(squares, out=squares).sum())
    return total / math.sqrt(2) / count
