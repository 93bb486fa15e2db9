"""Fixed filters of the losses: Sobel and the Gaussian window of SSIM.

The fast forms are shifted reads that Jittor fuses into one loop; the plain ones are convolutions.
"""

from __future__ import annotations

import numpy as np

from jfusion.ops.activation import absolute
from jfusion.ops.resize import pad
from jfusion.runtime import jt, nn


def sobel_magnitude(x: jt.Var) -> jt.Var:
    """|Gx * x| + |Gy * x| with zero padding 1: cross-correlation with the 3x3 Sobel kernels.

    x (N, 1, H, W) -> the same shape.
    """

    def at(i: int, j: int) -> jt.Var:
        return x.reindex(x.shape, ["i0", "i1", f"i2+{i}", f"i3+{j}"])

    corners = at(-1, -1), at(-1, 1), at(1, -1), at(1, 1)
    gx = corners[1] - corners[0] + corners[3] - corners[2] + 2 * (at(0, 1) - at(0, -1))
    gy = corners[0] - corners[2] + corners[1] - corners[3] + 2 * (at(-1, 0) - at(1, 0))
    return absolute(gx) + absolute(gy)


def sobel_pair(x: jt.Var) -> jt.Var:
    """Derivatives along the width and the height: Sobel / 8, the border repeated.

    x (N, C, H, W) -> (N, C, 2, H, W). kornia's spatial gradient.
    """
    h, w = x.shape[2:]
    padded = pad(x, 1, "edge")

    def at(i: int, j: int) -> jt.Var:
        return padded[:, :, i : i + h, j : j + w]

    across = at(0, 2) - at(0, 0) + at(2, 2) - at(2, 0) + 2 * (at(1, 2) - at(1, 0))
    down = at(2, 0) - at(0, 0) + at(2, 2) - at(0, 2) + 2 * (at(2, 1) - at(0, 1))
    return jt.stack([across, down], 2) / 8


def plain_sobel_magnitude(x: jt.Var) -> jt.Var:
    """The same as two convolutions."""
    kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], str(x.dtype))
    kernels = jt.array(np.stack([kernel, -kernel.T])[:, None])
    return absolute(nn.conv2d(x, kernels, padding=1)).sum(1, keepdims=True)


def gaussian_window(size: int, sigma: float) -> np.ndarray:
    """`size` samples of a Gaussian about the centre, float32, with sum 1."""
    x = np.arange(size, dtype=np.float64) - (size - 1) / 2
    g = np.exp(-(x**2) / (2 * sigma**2))
    return (g / g.sum()).astype(np.float32)


def separable(x: jt.Var, window: np.ndarray) -> jt.Var:
    """Filters rows, then columns, of x (N, C, H, W) with an odd window; zero padding, same size."""
    reach = len(window) // 2
    for axis in (3, 2):
        index = ["i0", "i1", "i2", "i3"]
        out = 0
        for k, weight in enumerate(window.tolist()):
            index[axis] = f"i{axis}+{k - reach}"
            out = out + x.reindex(x.shape, index) * weight
        x = out.stop_fuse()
    return x


def plain_separable(x: jt.Var, window: np.ndarray) -> jt.Var:
    """The same as a convolution of each channel with the square window."""
    square = np.outer(window, window).astype(str(x.dtype))[None, None]
    planes = x.reshape(-1, 1, *x.shape[2:])
    return nn.conv2d(planes, jt.array(square), padding=len(window) // 2).reshape(x.shape)
