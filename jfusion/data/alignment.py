"""Whether the two images of a pair lie on each other: normalised mutual information over small shifts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BINS = 32
REACH = 12  # the largest shift that is tried, in pixels
COARSE = 160  # images with a longer side are searched at half the size first
LENGTH = 2.0  # shifts below are not told
# by how much the shared information must rise; measured, see docs/alignment.md
GAIN_OF_VALUES, GAIN_OF_EDGES = 0.1, 0.25


class Shift(NamedTuple):
    """How far b lies from a: b(y + rows, x + columns) shows what a(y, x) does.

    certainty: the rise of the shared information, in the rise that counts; 1 and more is trusted.
    """

    rows: int
    columns: int
    certainty: float

    @property
    def length(self) -> float:
        """In pixels."""
        return float(np.hypot(self.rows, self.columns))

    @property
    def suspicious(self) -> bool:
        """Whether the pair looks misaligned."""
        return self.length >= LENGTH and self.certainty >= 1

    def __str__(self) -> str:
        return f"b lies {self.columns:+d} columns and {self.rows:+d} rows from a"


def normalised_mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """(H(a) + H(b)) / H(a, b), from 1 (nothing shared) to 2; (H, W) of any values (Studholme 1999)."""
    return _shared(_binned(a), _binned(b))


def shift_of(a: np.ndarray, b: np.ndarray, reach: int = REACH) -> Shift:
    """The whole-pixel shift at which two gray images (H, W) share most, by their values or their edges.

    Values tell more in medical pairs, edges in infrared and visible ones; the surer of the two counts.
    Images too small for the search (a side of 4 `reach` or less) give no shift.
    """
    if min(a.shape) <= 4 * reach:
        return Shift(0, 0, 0.0)
    found = [
        Shift(rows, columns, gain / needed)
        for (rows, columns), gain, needed in (
            (*_search(a, b, reach), GAIN_OF_VALUES),
            (*_search(_edges(a), _edges(b), reach), GAIN_OF_EDGES),
        )
    ]
    return max(found, key=lambda s: (s.suspicious, s.certainty))


def _search(a: np.ndarray, b: np.ndarray, reach: int) -> tuple[tuple[int, int], float]:
    """The best shift and its gain: at half the size first, then around that place and around 0."""
    centres, around = [(0, 0)], reach
    if max(a.shape) > COARSE:
        (row, column), _ = _search(_halved(a), _halved(b), -(-reach // 2))
        centres, around = [(0, 0), (2 * row, 2 * column)], 1
    best, values = _best(_binned(a), _binned(b), centres, around, reach)
    shared = values[0, 0] - 1
    return best, (values[best] - 1) / shared - 1 if shared > 1e-9 else 0.0


def _best(
    a: np.ndarray, b: np.ndarray, centres: list[tuple[int, int]], around: int, reach: int
) -> tuple[tuple[int, int], dict[tuple[int, int], float]]:
    """The best shift within `around` of the centres and `reach` of none, and the value of each."""
    h, w = a.shape
    inner = a[reach : h - reach, reach : w - reach]
    values = {}
    for row, column in centres:
        for y in range(row - around, row + around + 1):
            for x in range(column - around, column + around + 1):
                if max(abs(y), abs(x)) <= reach and (y, x) not in values:
                    there = b[reach + y : h - reach + y, reach + x : w - reach + x]
                    values[y, x] = _shared(inner, there)
    return max(values, key=lambda s: (values[s], -abs(s[0]) - abs(s[1]))), values


def _shared(a: np.ndarray, b: np.ndarray) -> float:
    """The normalised mutual information of indices below BINS."""
    counts = np.bincount((a * BINS + b).ravel(), minlength=BINS * BINS).reshape(BINS, BINS)
    p = counts / counts.sum()
    joint = _entropy(p)
    return (_entropy(p.sum(0)) + _entropy(p.sum(1))) / joint if joint > 0 else 1.0


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def _edges(x: np.ndarray) -> np.ndarray:
    """The root of the gradient's length; the few strongest are cut, they would leave no bins."""
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(x.astype(np.float32), 1.0)
    strength = np.sqrt(np.hypot(ndimage.sobel(smooth, 0), ndimage.sobel(smooth, 1)))
    return np.minimum(strength, np.percentile(strength, 99.5))


def _halved(x: np.ndarray) -> np.ndarray:
    """Means of 2x2 pixels."""
    h, w = (n // 2 for n in x.shape)
    return x[: h * 2, : w * 2].reshape(h, 2, w, 2).mean((1, 3))


def _binned(x: np.ndarray) -> np.ndarray:
    """Indices 0..BINS - 1, evenly between the image's extremes."""
    low, high = float(x.min()), float(x.max())
    return np.clip((x - low) * (BINS / max(high - low, 1e-9)), 0, BINS - 1).astype(np.int64)
