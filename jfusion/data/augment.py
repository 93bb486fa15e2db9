"""Random flips and rotations by 90 degrees, the augmentation of training images."""

from __future__ import annotations

import numpy as np


def flip(x: np.ndarray, mode: int) -> np.ndarray:
    """Flips x (..., H, W) upside down (mode 0), mirrors it (mode 1) or returns it unchanged (mode 2)."""
    return (x[..., ::-1, :], x[..., ::-1], x)[mode]


def rotate90(x: np.ndarray, mode: int) -> np.ndarray:
    """Rotates x (..., H, W) counter-clockwise by 90 (mode 0), 180 (1), 270 (2) or 360 degrees (3)."""
    return np.rot90(x, mode + 1, axes=(-2, -1))


def flip_and_rotate(rng: np.random.Generator, *images: np.ndarray) -> list[np.ndarray]:
    """The same random flip and rotation of every image (..., H, W); all modes are equally likely."""
    flip_mode, rotation = int(rng.integers(3)), int(rng.integers(4))
    return [rotate90(flip(x, flip_mode), rotation) for x in images]
