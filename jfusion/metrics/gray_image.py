"""A gray image together with what several metrics need of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np

TILE = 16  # rows or columns that one small matrix product filters
STRIP = 1 << 16  # pixels handled at once: temporaries that a processor's cache holds

_KEPT = threading.local()


class GrayImage:
    """A gray image (H, W) in float64; `get` computes a statistic of it once and keeps it.

    Metrics accept arrays or GrayImages. When several methods are compared, pass the same GrayImages of
    the sources to each: what depends on the sources alone is then computed once.
    """

    def __init__(self, pixels: np.ndarray):
        self.pixels = np.asarray(pixels, np.float64)
        self.shape = self.pixels.shape
        self._known: dict[Any, Any] = {}

    def get(self, compute: Callable, *arguments: Any) -> Any:
        """compute(pixels, *arguments), from memory the second time."""
        key = (compute, *arguments)
        if key not in self._known:
            self._known[key] = compute(self.pixels, *arguments)
        return self._known[key]


class ColorImage:
    """A color image as its channels R, G and B, for evaluators that treat each channel alone.

    pixels (H, W, 3) in 0..255. gray: the luma, for a comparison with a gray image.
    """

    def __init__(self, pixels: np.ndarray, gray: np.ndarray):
        self.shape = pixels.shape[:2]
        channels = [GrayImage(pixels[..., i]) for i in range(3)]
        if (pixels == pixels[..., :1]).all():
            channels = channels[:1] * 3  # what is computed of one serves the others
        self.channels = tuple(channels)
        self.gray = GrayImage(gray)

    @property
    def side_by_side(self) -> GrayImage:
        """The three channels next to each other, (H, 3 W)."""
        return GrayImage(np.hstack([channel.pixels for channel in self.channels]))


Gray = np.ndarray | GrayImage


def gray_images(*images: Gray) -> list[GrayImage]:
    """Arrays or GrayImages, all as GrayImages."""
    return [x if isinstance(x, GrayImage) else GrayImage(x) for x in images]


def valid(
    x: np.ndarray, window: tuple[float, ...], step: int = 1, out: np.ndarray | None = None
) -> np.ndarray:
    """Rows and columns filtered by `window`, only where it fits, at every `step`-th place.

    (H, W) -> ((H - n) // step + 1, (W - n) // step + 1). As products with small banded matrices,
    which a CPU does several times faster than a filter loop.
    """
    n = len(window)
    rows, columns = ((size - n) // step + 1 for size in x.shape)
    by_rows = _scratch("rows", (rows, x.shape[1]))
    out = np.empty((rows, columns)) if out is None else out
    for i in range(0, rows, TILE):
        band = _band(window, step, min(TILE, rows - i))
        np.matmul(band, x[i * step : i * step + band.shape[1]], out=by_rows[i : i + TILE])
    for j in range(0, columns, TILE):
        band = _band(window, step, min(TILE, columns - j))
        source = by_rows[:, j * step : j * step + band.shape[1]]
        np.matmul(source, band.T, out=out[:, j : j + TILE])
    return out


def moments(x: np.ndarray, window: tuple[float, ...]) -> np.ndarray:
    """Local mean and population variance where the window fits: (2, H - n + 1, W - n + 1).

    One array for both, because the system hands out a large one in larger pages, far faster.
    """
    border = len(window) - 1
    out = np.empty((2, x.shape[0] - border, x.shape[1] - border))
    valid(x, window, out=out[0])
    square = _scratch("square", x.shape)
    valid(np.multiply(x, x, out=square), window, out=out[1])
    for rows in strips(out[0].shape):
        out[1, rows] -= out[0, rows] * out[0, rows]
    return out


def local_products(
    x: np.ndarray, y: np.ndarray, window: tuple[float, ...]
) -> Iterator[tuple[slice, np.ndarray]]:
    """Local means of x y where the window fits, in strips: (rows of the result, values)."""
    product = np.multiply(x, y, out=_scratch("square", x.shape))
    shape = tuple(size - len(window) + 1 for size in x.shape)
    means = valid(product, window, out=_scratch("products", shape))
    for rows in strips(shape):
        yield rows, means[rows]


def strips(shape: tuple[int, int], overlap: int = 0) -> Iterator[slice]:
    """Rows of an image, a strip at a time, each with `overlap` rows of the next one."""
    rows = max(1, STRIP // max(1, shape[1]))
    for start in range(0, shape[0] - overlap, rows):
        yield slice(start, min(start + rows, shape[0] - overlap) + overlap)


def _scratch(name: str, shape: tuple[int, int]) -> np.ndarray:
    """Memory of this thread to compute in, kept: fresh pages cost more than what is done in them."""
    size = shape[0] * shape[1]
    buffer = getattr(_KEPT, name, None)
    if buffer is None or buffer.size < size:
        buffer = np.empty(size)
        setattr(_KEPT, name, buffer)
    return buffer[:size].reshape(shape)


@lru_cache(maxsize=256)
def _band(window: tuple[float, ...], step: int, size: int) -> np.ndarray:
    matrix = np.zeros((size, (size - 1) * step + len(window)))
    for i in range(size):
        matrix[i, i * step : i * step + len(window)] = window
    return matrix


@lru_cache(maxsize=16)
def gaussian(side: int, sigma: float) -> tuple[float, ...]:
    """A Gaussian window that sums to 1, sampled at whole numbers from its center."""
    x = np.arange(side) - side // 2
    g = np.exp(-(x**2) / (2 * sigma**2))
    return tuple((g / g.sum()).tolist())


def uniform(side: int) -> tuple[float, ...]:
    """A flat window that sums to 1."""
    return (1 / side,) * side


def min_max_normalize(x: np.ndarray) -> np.ndarray:
    """Min-max normalization to whole numbers 0..255, which VIFB and Z. Liu's toolbox do first.

    Black stays black; any other constant image becomes NaN there and here.
    """
    low, high = x.min(), x.max()
    if low == high == 0:
        return x
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.floor((x - low) / (high - low) * 255 + 0.5)
