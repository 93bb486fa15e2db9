"""Gaussian and Laplacian pyramids (Burt and Adelson, 1983), in NumPy and SciPy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np


def kernel(a: float) -> np.ndarray:
    """The generating kernel of the paper: c, b, a, b, c with b = 1/4 and c = 1/4 - a/2."""
    return np.array([0.25 - a / 2, 0.25, a, 0.25, 0.25 - a / 2], np.float32)


GAUSSIAN = kernel(0.4)  # the paper's "Gaussian-like" choice
BINOMIAL = kernel(0.375)  # 1 4 6 4 1 over 16, what most later code uses


def depth(height: int, width: int, levels: int) -> int:
    """The number of levels, at most `levels`, whose coarsest image is 2 pixels or more a side."""
    possible = int(np.log2(max(1, min(height, width)))) - 1
    return max(0, min(levels, possible))


def reduce(x: np.ndarray, window: np.ndarray) -> np.ndarray:
    """REDUCE of the paper: smoothed, and every second row and column. (..., H, W) -> (..., H/2, W/2)."""
    return _smooth(x, window)[..., ::2, ::2]


def expand(x: np.ndarray, height: int, width: int, window: np.ndarray) -> np.ndarray:
    """EXPAND of the paper: zeros between the pixels, smoothed, times 4. (..., h, w) -> (..., H, W)."""
    spread = np.zeros((*x.shape[:-2], height, width), np.float32)
    spread[..., ::2, ::2] = x
    # The factor is 4 inside. At a border, dividing by the sum of the weights that meet pixels of the coarse
    # image keeps a constant image constant.
    return _smooth(spread, window) / _share(height, width, window)


def gaussian(x: np.ndarray, levels: int, window: np.ndarray = GAUSSIAN) -> list[np.ndarray]:
    """The Gaussian pyramid of x (..., H, W): x itself and `levels` coarser images."""
    pyramid = [x]
    for _ in range(levels):
        pyramid.append(reduce(pyramid[-1], window))
    return pyramid


def laplacian(x: np.ndarray, levels: int, window: np.ndarray = GAUSSIAN) -> list[np.ndarray]:
    """The Laplacian pyramid of x (..., H, W): `levels` images of detail, fine to coarse, and the rest."""
    smooth = gaussian(x, levels, window)
    details = [fine - expand(coarse, *fine.shape[-2:], window) for fine, coarse in pairwise(smooth)]
    return [*details, smooth[-1]]


def collapse(pyramid: list[np.ndarray], window: np.ndarray = GAUSSIAN) -> np.ndarray:
    """The image of a Laplacian pyramid, (..., H, W): the inverse of `laplacian`."""
    x = pyramid[-1]
    for detail in reversed(pyramid[:-1]):
        x = detail + expand(x, *detail.shape[-2:], window)
    return x


def _smooth(x: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Smooths x (..., H, W) float32 along both axes; the border is mirrored at its pixels."""
    return _correlate(_correlate(x, window, -1), window, -2)


def _correlate(x: np.ndarray, window: np.ndarray, axis: int) -> np.ndarray:
    """SciPy's correlate1d in mode "mirror" for five weights, without the time that its import takes."""
    n = x.shape[axis]
    index = np.abs(np.arange(-2, n + 2))
    index = np.minimum(index % max(1, 2 * n - 2), -index % max(1, 2 * n - 2))
    padded = np.take(x, index, axis)
    rest = (slice(None),) * (-1 - axis)
    shifted = (padded[(..., slice(i, i + n), *rest)] for i in range(5))
    return sum(weight * part for weight, part in zip(window, shifted, strict=True))


def _share(height: int, width: int, window: np.ndarray) -> np.ndarray:
    """The sum of the kernel's weights that meet a pixel of the coarse image, (H, W)."""
    rows, columns = (
        _correlate((np.arange(n) % 2 == 0).astype(np.float32), window, -1) for n in (height, width)
    )
    return rows[:, None] * columns
