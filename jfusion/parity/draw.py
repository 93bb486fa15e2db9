"""Weights and images that are drawn from their names, so that two processes and two years have the same.

The rule is that of the golden fixtures (tests/golden/recipe.py), in which a parameter of the authors'
network has the same value as here.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np


def generator(name: str) -> np.random.RandomState:
    """A generator of its own for each name; NumPy keeps the stream of RandomState for good."""
    return np.random.RandomState(zlib.crc32(f"golden/{name}".encode()))


def weight(name: str, shape: Iterable[int]) -> np.ndarray:
    """A parameter by the authors' name, float32.

    Matrices and kernels keep the variance; scales and variances are near 1, biases and means small,
    negative-side factors of PReLU near 0.25.
    """
    shape = tuple(shape)
    leaf, values = name.rsplit(".", 1)[-1], generator(name).standard_normal(shape)
    if leaf == "running_var":
        values = 1 + 0.1 * np.abs(values)
    elif leaf == "running_mean" or "bias" in leaf:
        values = 0.1 * values
    elif "weight" in leaf and len(shape) >= 2 and np.prod(shape[1:]) > 1:
        values = values / np.sqrt(np.prod(shape[1:]))
    elif shape == (1,):
        values = 0.25 + 0.05 * values
    else:
        values = 1 + 0.1 * values
    return np.ascontiguousarray(values, np.float32)


def image(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A smooth random image of `shape` (..., H, W), float32 in [0, 1]: three octaves of noise."""
    state, (*lead, h, w) = generator(name), shape
    images = np.zeros((int(np.prod(lead)), h, w))
    for count, gain in ((4, 1.0), (12, 0.5), (48, 0.25)):
        points = np.arange(count)
        ys, xs = np.linspace(0, count - 1, h), np.linspace(0, count - 1, w)
        for one in images:
            grid = state.uniform(size=(count, count))
            rows = np.stack([np.interp(xs, points, row) for row in grid])
            one += gain * np.stack([np.interp(ys, points, column) for column in rows.T], 1)
    images -= images.min((1, 2), keepdims=True)
    images /= images.max((1, 2), keepdims=True)
    return np.ascontiguousarray(images.reshape(shape), np.float32)
