"""Structural similarity."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter

SIDE = 7


def ssim(fused: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """SSIM(fused, a) + SSIM(fused, b). Higher is better; 2 for identical images.

    **7x7 uniform** window, sample covariance, data range 255, K1 = 0.01, K2 = 0.03; only complete
    windows count. (H, W) in 0..255; NaN where a side is shorter than 7. Source: Wang et al. 2004;
    FILM's Evaluator, which takes scikit-image's defaults.
    """
    if min(fused.shape) < SIDE:
        return float("nan")
    return sum(_ssim(fused, source) for source in (a, b))


def _ssim(x: np.ndarray, y: np.ndarray) -> float:
    mx, my, xx, yy, xy = (uniform_filter(v, SIDE) for v in (x, y, x * x, y * y, x * y))
    sample = SIDE**2 / (SIDE**2 - 1)
    vx, vy, vxy = sample * (xx - mx * mx), sample * (yy - my * my), sample * (xy - mx * my)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    edge = SIDE // 2
    return float(values[edge:-edge, edge:-edge].mean())
