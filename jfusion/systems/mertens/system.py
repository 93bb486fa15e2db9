"""Exposure fusion as a system; it works on the colors themselves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.ndimage import laplace

from jfusion.data import color
from jfusion.data.h5 import Pair
from jfusion.systems.base import FusedImage, System, round_to_uint8
from jfusion.systems.laplacian.pyramid import BINOMIAL, collapse, depth, gaussian, laplacian
from jfusion.systems.mertens.config import Config

SIGMA = 0.2  # of the Gauss curve of well-exposedness, section 3.1
LUMA = np.array([0.299, 0.587, 0.114], np.float32).reshape(3, 1, 1)


class ExposureFusion(System):
    """Weights for each pixel, and multi-scale blending (sections 3.1 and 3.2 of the paper)."""

    Config = Config
    CHANNELS = (3, 3)

    def preprocess(self, pair: Pair, training: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Both images in RGB, (3, H, W) in [0, 1]; a gray one has three equal channels."""
        return _rgb(pair.a, pair.rgb_a), _rgb(pair.b, pair.rgb_b)

    def postprocess(self, fused: np.ndarray, pair: Pair) -> FusedImage:
        """RGB (3, H, W) in [0, 1] as an image; gray where both sources are gray."""
        rgb = np.ascontiguousarray(np.moveaxis(round_to_uint8(fused), 0, 2))
        gray = color.gray(rgb).astype(np.uint8)
        return FusedImage(gray, rgb if color.is_color(rgb) else None)

    def _fuse(
        self, a: np.ndarray, b: np.ndarray, text: None, seed: int | None, callback: Callable | None
    ) -> np.ndarray:
        return np.stack([self._fuse_pair(x, y) for x, y in zip(a, b, strict=True)])

    def _fuse_pair(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Two images (3, H, W) -> the fused one (3, H, W)."""
        in_color = any(color.is_color(np.moveaxis(x, 0, 2)) for x in (a, b))
        weights = [self.weights(x, in_color) for x in (a, b)]
        total = sum(weights)
        levels = depth(*a.shape[1:], levels=100)
        blended = [np.float32(0)] * (levels + 1)
        for x, w in zip((a, b), weights, strict=True):
            weight, image = gaussian(w / total, levels, BINOMIAL), laplacian(x, levels, BINOMIAL)
            blended = [s + m * v for s, m, v in zip(blended, weight, image, strict=True)]
        return np.clip(collapse(blended, BINOMIAL), 0, 1)

    def weights(self, x: np.ndarray, in_color: bool) -> np.ndarray:
        """The product of the quality measures of x (3, H, W), each to its exponent: (1, H, W) above 0."""
        c = self.config
        contrast = np.abs(laplace((x * LUMA).sum(0), mode="nearest"))
        exposedness = np.exp(-((x - 0.5) ** 2) / (2 * SIGMA**2)).prod(0)
        weight = contrast**c.contrast * exposedness**c.exposedness
        if in_color:
            weight = weight * x.std(0) ** c.saturation
        return weight[None].astype(np.float32) + np.float32(1e-12)


def _rgb(gray: np.ndarray, rgb: np.ndarray | None) -> np.ndarray:
    """(3, H, W) in [0, 1] from the colors (H, W, 3) uint8 where there are some."""
    if rgb is None:
        return np.repeat(gray, 3, 0)
    return np.moveaxis(rgb, 2, 0).astype(np.float32) / np.float32(255)
