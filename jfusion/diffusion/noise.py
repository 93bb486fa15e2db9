"""Standard normal noise as PyTorch's generator on a CPU draws it, without PyTorch.

Published images start from `torch.manual_seed(3407); torch.randn(...)`. A CUDA generator draws other
numbers, which are not reproduced here.
"""

from __future__ import annotations

import numpy as np

BLOCK = 16


class TorchNoise:
    """The draws of `torch.randn` one after another, for one seed."""

    def __init__(self, seed: int):
        self._bits = np.random.RandomState(seed)

    def normal(self, shape: tuple[int, ...]) -> np.ndarray:
        """Draws float32 values of `shape`, equal to PyTorch's within 5e-7.

        Raises ValueError for fewer than 16 values, which PyTorch draws in another way.
        """
        count = int(np.prod(shape))
        if count < BLOCK:
            raise ValueError(f"PyTorch draws fewer than {BLOCK} values in another way: {shape}")
        uniform = self._uniform(count)
        full = count // BLOCK * BLOCK
        values = np.empty(count, np.float32)
        values[:full] = _box_muller(uniform[:full])
        if count % BLOCK:
            values[-BLOCK:] = _box_muller(self._uniform(BLOCK))
        return values.reshape(shape)

    def _uniform(self, count: int) -> np.ndarray:
        raw = self._bits.randint(0, 2**32, count, np.uint32)
        return (raw & np.uint32(2**24 - 1)).astype(np.float32) * np.float32(2**-24)


def _box_muller(uniform: np.ndarray) -> np.ndarray:
    """Normal values from uniform ones in blocks of 16: the first eight give radii, the others angles."""
    a, b = uniform.reshape(-1, 2, BLOCK // 2).swapaxes(0, 1)
    radius = np.sqrt(np.float32(-2) * np.log(np.float32(1) - a))
    angle = np.float32(2 * np.pi) * b
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], 1).reshape(-1)
