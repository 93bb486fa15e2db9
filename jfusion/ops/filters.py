"""Fixed filters of the losses: Sobel and the Gaussian window of SSIM.

Their fast forms are shifted reads that Jittor fuses into one loop; the references are convolutions.
"""

from __future__ import annotations

import numpy as np

from jfusion.errors import UserError
from jfusion.ops.activation import absolute
from jfusion.ops.checks import check_float, check_shape
from jfusion.ops.resize import pad
from jfusion.runtime import jt, nn


def sobel_magnitude(x: jt.Var) -> jt.Var:
    """|Gx * x| + |Gy * x| with zero padding 1: cross-correlation with the 3x3 Sobel kernels.

    x (N, 1, H, W) -> the same shape.
    """
    check_float("sobel_magnitude", x=x)
    check_shape("sobel_magnitude", "x", x, ("N", 1, "H", "W"))

    def at(i: int, j: int) -> jt.Var:
        return x.reindex(x.shape, ["i0", "i1", f"i2+{i}", f"i3+{j}"])

    corners = at(-1, -1), at(-1, 1), at(1, -1), at(1, 1)
    gx = corners[1] - corners[0] + corners[3] - corners[2] + 2 * (at(0, 1) - at(0, -1))
    gy = corners[0] - corners[2] + corners[1] - corners[3] + 2 * (at(-1, 0) - at(1, 0))
    return absolute(gx) + absolute(gy)


def sobel_pair(x: jt.Var) -> jt.Var:
    """Derivatives along the width and the height: Sobel / 8, the border repeated.

    x (N, C, H, W) -> (N, C, 2, H, W). It is kornia's `spatial_gradient`.
    """
    check_float("sobel_pair", x=x)
    check_shape("sobel_pair", "x", x, ("N", "C", "H", "W"))
    h, w = x.shape[2:]
    padded = pad(x, 1, "edge")

    def at(i: int, j: int) -> jt.Var:
        return padded[:, :, i : i + h, j : j + w]

    across = at(0, 2) - at(0, 0) + at(2, 2) - at(2, 0) + 2 * (at(1, 2) - at(1, 0))
    down = at(2, 0) - at(0, 0) + at(2, 2) - at(0, 2) + 2 * (at(2, 1) - at(0, 1))
    return jt.stack([across, down], 2) / 8


def sobel_magnitude_reference(x: jt.Var) -> jt.Var:
    """`sobel_magnitude` as two convolutions."""
    kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], str(x.dtype))
    kernels = jt.array(np.stack([kernel, -kernel.T])[:, None])
    return absolute(nn.conv2d(x, kernels, padding=1)).sum(1, keepdims=True)


def gaussian_window(size: int, sigma: float) -> np.ndarray:
    """`size` samples of a Gaussian about the center, (size,) float32, with sum 1."""
    x = np.arange(size, dtype=np.float64) - (size - 1) / 2
    g = np.exp(-(x**2) / (2 * sigma**2))
    return (g / g.sum()).astype(np.float32)


def separable(x: jt.Var, window: np.ndarray) -> jt.Var:
    """Filters the rows, then the columns, of x (N, C, H, W) with a window of odd length.

    The padding is zero, and the shape stays.
    """
    check_float("separable", x=x)
    check_shape("separable", "x", x, ("N", "C", "H", "W"))
    window = np.asarray(window, np.float64)
    if np.ndim(window) != 1 or len(window) % 2 == 0:
        raise UserError(f"separable: window must be one axis of odd length, not {np.shape(window)}")
    padding = len(window) // 2
    for axis in (3, 2):
        index = ["i0", "i1", "i2", "i3"]
        out = 0
        for k, weight in enumerate(window.tolist()):
            index[axis] = f"i{axis}+{k - padding}"
            out = out + x.reindex(x.shape, index) * weight
        x = out.stop_fuse()
    return x


def separable_reference(x: jt.Var, window: np.ndarray) -> jt.Var:
    """`separable` as a convolution of each channel with the square window."""
    square = np.outer(window, window).astype(str(x.dtype))[None, None]
    channels = x.reshape(-1, 1, *x.shape[2:])
    return nn.conv2d(channels, jt.array(square), padding=len(window) // 2).reshape(x.shape)
