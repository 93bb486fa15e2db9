"""Steadiness of a fused clip: how much of it changes where the sources rest. No Jittor here.

A method that decides anew in each frame flickers: what rests in both sources changes in the result. The
metric compares, over the pixels that rest, the mean change of the result from frame to frame with the mean
change of the sources.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

WINDOW = 7  # pixels a side over which changes are averaged
QUIET, LOUD = 2.0, 6.0  # levels of change per frame: bounds of the limit of what rests


def local_change(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The mean absolute change around each pixel of two gray images (H, W) in 0..255, in levels."""
    from scipy import ndimage

    change = np.abs(after.astype(np.float32) - before.astype(np.float32))
    return ndimage.uniform_filter(change, WINDOW, mode="nearest")


def rest_limit(change: np.ndarray) -> float:
    """The local change up to which a pixel rests: twice the first quartile, which is noise, within bounds."""
    return float(np.clip(2 * np.percentile(change, 25), QUIET, LOUD))


class Flicker:
    """The change of the result in resting regions, divided by the mean change of both sources there.

    Frames are added in order; `value` is about 0.9 for the average of the sources, and above 1.2 for a
    result that flickers. NaN without a change to compare with: one frame, or no noise in the sources.
    """

    def __init__(self) -> None:
        self._last: tuple[np.ndarray, ...] | None = None
        self._fused = self._sources = 0.0

    def add(self, fused: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
        """The next frame: three gray images (H, W) in 0..255."""
        frame = tuple(np.asarray(x, np.float32) for x in (fused, a, b))
        if self._last is not None:
            changes = [local_change(*both) for both in zip(self._last[1:], frame[1:], strict=True)]
            rests = np.logical_and(*(x <= rest_limit(x) for x in changes))
            f, a, b = (np.abs(y - x)[rests].sum() for x, y in zip(self._last, frame, strict=True))
            self._fused += float(f)
            self._sources += float(a + b) / 2
        self._last = frame

    @property
    def value(self) -> float:
        """The ratio over all frames that were added."""
        return self._fused / self._sources if self._sources > 0 else float("nan")


def flicker(fused: Iterable[np.ndarray], a: Iterable[np.ndarray], b: Iterable[np.ndarray]) -> float:
    """`Flicker` of three clips: equally many gray frames (H, W) in 0..255 each."""
    ratio = Flicker()
    for frames in zip(fused, a, b, strict=True):
        ratio.add(*frames)
    return ratio.value
