"""How far the fused image is from its sources."""

from __future__ import annotations

import numpy as np


def mse(fused: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """MSE: the mean of the two mean squared errors, on the scale 0..255. Lower is better.

    (H, W) each. Source: FILM's Evaluator.
    """
    return float((np.mean((a - fused) ** 2) + np.mean((b - fused) ** 2)) / 2)


def psnr(fused: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """PSNR (dB): 10 log10(max(fused)^2 / MSE). Higher is better.

    The peak is the **maximum of the fused image**, not 255. +inf for identical images, NaN if they
    are also black. (H, W) in 0..255. Source: FILM's Evaluator.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(10 * np.log10(np.float64(fused.max()) ** 2 / np.float64(mse(fused, a, b))))


def correlation(fused: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """CC: the mean of Pearson's correlation of each source with the fused image. Higher is better.

    (H, W) each; range -1..1; NaN where one of the three is constant. Source: FILM's Evaluator.
    """
    return (_pearson(a, fused) + _pearson(b, fused)) / 2


def sum_of_correlations_of_differences(fused: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """SCD: corr(a, fused - b) + corr(b, fused - a). Higher is better.

    (H, W) each; range -2..2; NaN where a source or a difference is constant. Source: Aslantas and
    Bendes 2015; FILM's Evaluator.
    """
    return _pearson(a, fused - b) + _pearson(b, fused - a)


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        return float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))
