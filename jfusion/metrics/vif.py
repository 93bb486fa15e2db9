"""Visual information fidelity for fusion."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import correlate1d

NOISE, EPS = 2.0, 1e-10
SHORTEST = 41  # a shorter side leaves nothing at the fourth scale


def viff(fused: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """VIF: VIF(a, fused) + VIF(b, fused), pixel domain, four scales. Higher is better.

    (H, W) in 0..255; a source that is constant counts 1; NaN where a side is shorter than 41.
    Source: Sheikh and Bovik 2006, Han et al. 2013; FILM's Evaluator (its "VIFF", the papers' "VIF").
    """
    if min(fused.shape) < SHORTEST:
        return float("nan")
    sums = np.zeros((2, 2))
    for scale in (1, 2, 3, 4):
        side = 2 ** (5 - scale) + 1
        window = _gaussian(side, side / 5)
        if scale > 1:
            fused, a, b = (_valid(x, window)[::2, ::2] for x in (fused, a, b))
        mean, square = _valid(fused, window), _valid(fused * fused, window)
        for i, source in enumerate((a, b)):
            sums[i] += _information(source, fused, mean, square, window)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = sums[:, 0] / sums[:, 1]
    return float(np.where(np.isnan(ratios), 1.0, ratios).sum())


def _information(
    source: np.ndarray, fused: np.ndarray, mean: np.ndarray, square: np.ndarray, window: np.ndarray
) -> tuple[float, float]:
    """What the fused image keeps of the source's information at one scale, and all of it."""
    m1 = _valid(source, window)
    v1 = np.maximum(_valid(source * source, window) - m1 * m1, 0)
    v2 = np.maximum(square - mean * mean, 0)
    covariance = _valid(source * fused, window) - m1 * mean
    gain = covariance / (v1 + EPS)
    rest = v2 - gain * covariance
    flat = v1 < EPS  # in the order of the Evaluator, which later steps depend on
    gain[flat], rest[flat], v1[flat] = 0, v2[flat], 0
    flat = v2 < EPS
    gain[flat], rest[flat] = 0, 0
    negative = gain < 0
    rest[negative], gain[negative] = v2[negative], 0
    rest = np.maximum(rest, EPS)
    kept = np.log10(1 + gain * gain * v1 / (rest + NOISE)).sum()
    return float(kept), float(np.log10(1 + v1 / NOISE).sum())


def _gaussian(side: int, sigma: float) -> np.ndarray:
    x = np.arange(side) - side // 2
    g = np.exp(-(x**2) / (2 * sigma**2))
    return g / g.sum()


def _valid(x: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Filters rows and columns; only where the window fits."""
    reach = len(window) // 2
    x = correlate1d(x, window, axis=0)[reach:-reach]
    return correlate1d(x, window, axis=1)[:, reach:-reach]
