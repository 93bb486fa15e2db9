"""BT.601's studio range, as DDFM's code has it: luminance and chroma of images in Jittor."""

from __future__ import annotations

import numpy as np

from jfusion.ops.conv import conv1x1
from jfusion.runtime import jt

# RGB in [0, 1] -> Y, Cb, Cr in [0, 255]
TO_YCBCR = np.array(
    [[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]
)
OFFSET = np.array([16.0, 128.0, 128.0])


def to_ycbcr(rgb: jt.Var) -> jt.Var:
    """Y, Cb, Cr of BT.601's studio range divided by 255: rgb (N, 3, H, W) -> the same shape.

    The formula is that of values in [0, 1]; the authors apply it to [-1, 1] (sic).
    """
    return conv1x1(rgb, *_affine(TO_YCBCR / 255, OFFSET / 255))


def from_ycbcr(channels: jt.Var) -> jt.Var:
    """The inverse of `to_ycbcr`."""
    inverse = np.linalg.inv(TO_YCBCR)
    return conv1x1(channels, *_affine(255 * inverse, -inverse @ OFFSET))


def luminance(rgb: jt.Var) -> jt.Var:
    """0.299 R + 0.587 G + 0.114 B: (N, 3, H, W) -> (N, 1, H, W)."""
    red, green, blue = rgb.chunk(3, 1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _affine(matrix: np.ndarray, offset: np.ndarray) -> tuple[jt.Var, jt.Var]:
    values = (matrix[:, :, None, None], offset)
    return tuple(jt.array(v.astype(np.float32)).stop_grad() for v in values)
