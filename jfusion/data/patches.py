"""Square patches of a pair, as the training sets of CDDFuse and SFDFuse hold them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def patches(
    a: np.ndarray, b: np.ndarray, side: int, stride: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same square windows of both images (H, W), row by row; a rest at the border is left out."""
    for row in range(0, a.shape[0] - side + 1, stride):
        for column in range(0, a.shape[1] - side + 1, stride):
            window = slice(row, row + side), slice(column, column + side)
            yield a[window], b[window]


def low_contrast(patch: np.ndarray) -> bool:
    """Whether (p90 - p10) / p90 < 0.1, with the 10th and the 90th percentile of the values.

    False for an all-black patch, as in CDDFuse's script (0/0).
    """
    low, high = np.percentile(patch, (10, 90))
    return bool(high != 0 and (high - low) / high < 0.1)
