"""Guided filter fusion as a system; equation numbers are those of the paper."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.ndimage import correlate1d, laplace, uniform_filter

from jfusion.systems.base import System
from jfusion.systems.guided.config import Config


class GuidedFilterFusion(System):
    """The two-scale fusion of the paper, on gray images."""

    Config = Config

    @property
    def radius(self) -> int:
        """The saliency, and two means in a row of the widest guided filter."""
        c = self.config
        weights = 1 + c.saliency_radius + 2 * max(c.base_radius, c.detail_radius)
        return max(weights, c.mean_size // 2)

    def _fuse(
        self, a: np.ndarray, b: np.ndarray, text: None, seed: int | None, callback: Callable | None
    ) -> np.ndarray:
        pairs = zip(a.reshape(-1, *a.shape[2:]), b.reshape(-1, *b.shape[2:]), strict=True)
        fused = [self._fuse_pair(x.astype(np.float64), y.astype(np.float64)) for x, y in pairs]
        return np.clip(np.stack(fused), 0, 1).reshape(a.shape).astype(np.float32)

    def _fuse_pair(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Two images (H, W) -> the fused one, not clipped."""
        c, images = self.config, (a, b)
        bases = [uniform_filter(x, c.mean_size, mode="nearest") for x in images]  # equation 9
        details = [x - base for x, base in zip(images, bases, strict=True)]  # equation 10
        saliencies = [self.saliency(x) for x in images]
        first = saliencies[0] >= saliencies[1]  # equation 13: the sharper image at each pixel
        maps = (first.astype(np.float64), 1.0 - first)
        fused = np.zeros_like(a)
        for layers, radius, eps in (
            (bases, c.base_radius, c.base_eps),
            (details, c.detail_radius, c.detail_eps),
        ):
            weights = [
                _to_levels(guided_filter(p, guide, radius, eps))
                for p, guide in zip(maps, images, strict=True)
            ]  # equations 14 and 15
            fused += sum(w * x for w, x in zip(weights, layers, strict=True)) / sum(weights)
        return fused  # equation 18

    def saliency(self, x: np.ndarray) -> np.ndarray:
        """The smoothed absolute Laplacian of x (H, W), equations 11 and 12."""
        c = self.config
        offsets = np.arange(-c.saliency_radius, c.saliency_radius + 1)
        kernel = np.exp(-(offsets**2) / (2 * c.saliency_sigma**2))
        kernel /= kernel.sum()
        high = np.abs(laplace(x, mode="nearest"))
        return correlate1d(correlate1d(high, kernel, 0, mode="nearest"), kernel, 1, mode="nearest")


def _to_levels(weights: np.ndarray) -> np.ndarray:
    """Weights limited to [0, 1] and rounded to 256 levels, above 0, as the authors' code does it."""
    return np.round(np.clip(weights, 0, 1) * 255) / 255 + 1e-12


def guided_filter(p: np.ndarray, guide: np.ndarray, radius: int, eps: float) -> np.ndarray:
    """The guided filter of He, Sun and Tang (2013), equations 5 to 8: p (H, W) with the edges of `guide`.

    Windows are (2 radius + 1) pixels a side and are cropped at the border, as in the authors' code.
    """

    def mean(x: np.ndarray) -> np.ndarray:
        return _box_sum(x, radius) / count

    count = _box_sum(np.ones_like(p), radius)
    mean_i, mean_p = mean(guide), mean(p)
    variance = mean(guide * guide) - mean_i * mean_i
    a = (mean(guide * p) - mean_i * mean_p) / (variance + eps)
    b = mean_p - a * mean_i
    return mean(a) * guide + mean(b)


def _box_sum(x: np.ndarray, radius: int) -> np.ndarray:
    """The sum over a square window around each pixel, cropped at the border."""
    for axis in (0, 1):
        total = np.cumsum(x, axis=axis)
        total = np.insert(total, 0, 0.0, axis=axis)
        n = x.shape[axis]
        high = np.minimum(np.arange(n) + radius + 1, n)
        low = np.maximum(np.arange(n) - radius, 0)
        x = total.take(high, axis) - total.take(low, axis)
    return x
