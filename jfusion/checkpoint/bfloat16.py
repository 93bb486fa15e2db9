"""bfloat16, which NumPy does not have: a number is the upper half of a float32."""

from __future__ import annotations

import numpy as np


def to_float32(raw: bytes, count: int = -1) -> np.ndarray:
    """The first `count` numbers (-1: all) of `raw`, little-endian bfloat16, as float32 (count,). Exact."""
    return (np.frombuffer(raw, "<u2", count).astype("<u4") << 16).view("<f4")
