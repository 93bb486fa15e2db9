"""The average as a system."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jfusion.systems.average.config import Config
from jfusion.systems.base import System


class Average(System):
    """The weighted mean of both images."""

    Config = Config

    def _fuse(
        self, a: np.ndarray, b: np.ndarray, text: None, seed: int | None, callback: Callable | None
    ) -> np.ndarray:
        weight = np.float32(self.config.weight)
        return weight * a + (1 - weight) * b
