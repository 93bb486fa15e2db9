"""Flips and quarter turns of training images."""

from __future__ import annotations

import numpy as np


def flip(x: np.ndarray, mode: int) -> np.ndarray:
    """x (..., H, W) upside down (mode 0), mirrored (1) or as it is (2)."""
    return (x[..., ::-1, :], x[..., ::-1], x)[mode]


def turn(x: np.ndarray, mode: int) -> np.ndarray:
    """x (..., H, W) by 90 degrees counter-clockwise (mode 0), 180 (1), 90 clockwise (2), not at all (3)."""
    return np.rot90(x, mode + 1, axes=(-2, -1))


def flip_and_turn(rng: np.random.Generator, *images: np.ndarray) -> list[np.ndarray]:
    """The same random flip and turn of every image (..., H, W), each mode as likely as the others."""
    flipped, turned = int(rng.integers(3)), int(rng.integers(4))
    return [turn(flip(x, flipped), turned) for x in images]
