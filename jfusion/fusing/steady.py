"""Frames that rest stay: a recursive filter over the results of a clip."""

from __future__ import annotations

import numpy as np

from jfusion.metrics.temporal import local_change, rest_limit

# The weight of a new result where nothing changes, and at the most change that counts as rest.
STILL, RESTING = 0.05, 0.2


class Steady:
    """Smooths results over time, as far as neither source changes around a pixel.

    Where both rest, a result is averaged with those before it, since a difference is noise or a decision
    of the method; where one moves, the new result shows unchanged. The weight of the new one is 0.05 where
    nothing changes at all, 0.2 at the most change that counts as rest, and 1 at three times that.
    """

    def __init__(self) -> None:
        self.result: np.ndarray | None = None  # (H, W) or (H, W, 3) float32
        self._sources: tuple[np.ndarray, np.ndarray] | None = None

    def resume(self, result: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
        """Continues after a frame whose smoothed result and gray sources (H, W) in 0..255 are known."""
        self.result, self._sources = result.astype(np.float32), (a, b)

    def round(self) -> None:
        """Forgets what is finer than a level, as if the last frame had been written and read again."""
        if self.result is not None:
            self.result = np.round(self.result)

    def next(self, result: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The smoothed result, uint8; result (H, W) or (H, W, 3) uint8, a and b gray (H, W) in 0..255."""
        new = result.astype(np.float32)
        if self.result is not None and self.result.ndim > new.ndim:
            self.result = self.result[..., 0]  # gray, and read as a color image
        if self.result is not None and self.result.shape == new.shape:
            changes = [local_change(*both) for both in zip(self._sources, (a, b), strict=True)]
            weight = np.max([_weight(x) for x in changes], 0)
            weight = weight if new.ndim == 2 else weight[..., None]
            new = self.result + weight * (new - self.result)
        self.result, self._sources = new, (a, b)
        return np.round(new).astype(np.uint8)


def _weight(change: np.ndarray) -> np.ndarray:
    limit = rest_limit(change)
    return np.interp(change / limit, (0, 1, 3), (STILL, RESTING, 1)).astype(np.float32)
