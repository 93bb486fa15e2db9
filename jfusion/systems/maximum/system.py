"""The maximum as a system."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jfusion.systems.base import System
from jfusion.systems.maximum.config import Config


class Maximum(System):
    """The larger of both values at each pixel."""

    Config = Config

    def _fuse(
        self, a: np.ndarray, b: np.ndarray, text: None, seed: int | None, callback: Callable | None
    ) -> np.ndarray:
        return np.maximum(a, b)
