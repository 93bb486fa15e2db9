"""The Laplacian pyramid as a system."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jfusion.systems.base import System
from jfusion.systems.laplacian.config import Config
from jfusion.systems.laplacian.pyramid import collapse, depth, laplacian


class LaplacianPyramid(System):
    """Keeps the detail of the larger absolute value at each scale, and averages the coarse rests."""

    Config = Config

    def _fuse(
        self, a: np.ndarray, b: np.ndarray, text: None, seed: int | None, callback: Callable | None
    ) -> np.ndarray:
        levels = depth(*a.shape[2:], self.config.levels)
        of_a, of_b = laplacian(a, levels), laplacian(b, levels)
        details = [
            np.where(abs(x) >= abs(y), x, y) for x, y in zip(of_a[:-1], of_b[:-1], strict=True)
        ]
        return np.clip(collapse([*details, (of_a[-1] + of_b[-1]) / 2]), 0, 1)
