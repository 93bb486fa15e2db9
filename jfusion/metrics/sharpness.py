"""Contrast and detail of the fused image alone; the sources do not count."""

from __future__ import annotations

import numpy as np


def standard_deviation(
    fused: np.ndarray, a: np.ndarray | None = None, b: np.ndarray | None = None
) -> float:
    """SD: population standard deviation of the fused image (H, W) in 0..255. Higher is better.

    Source: Rao 1997; FILM's Evaluator.
    """
    return float(np.std(fused))


def spatial_frequency(
    fused: np.ndarray, a: np.ndarray | None = None, b: np.ndarray | None = None
) -> float:
    """SF: root of the mean squared horizontal plus the mean squared vertical difference.

    fused (H, W) in 0..255; each mean is over its own number of differences, and an axis of one pixel
    counts 0. Higher is better. Source: Eskicioglu and Fisher 1995; FILM's Evaluator.
    """
    rows, columns = np.diff(fused, axis=1), np.diff(fused, axis=0)
    return float(np.sqrt(sum(np.mean(d**2) for d in (rows, columns) if d.size)))


def average_gradient(
    fused: np.ndarray, a: np.ndarray | None = None, b: np.ndarray | None = None
) -> float:
    """AG: mean over all pixels of sqrt((Gx^2 + Gy^2) / 2).

    G are central differences, one-sided at the borders; an axis of one pixel counts 0. fused (H, W)
    in 0..255. Higher is better. Source: Cui et al. 2015; FILM's Evaluator.
    """
    g = [np.gradient(fused, axis=axis) for axis in (0, 1) if fused.shape[axis] > 1]
    return float(np.mean(np.sqrt(sum(d**2 for d in g) / 2))) if g else 0.0
