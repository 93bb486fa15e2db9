"""Color conversions of 8-bit images, in NumPy: gray, YCrCb, chroma, and the pseudo-colors "jet".

Each function says whose arithmetic it follows, since results of 8 bits depend on it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jfusion.errors import UserError


def luma(rgb: np.ndarray) -> np.ndarray:
    """0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), not rounded.

    rgb (H, W, 3) float32 -> (H, W) float32 in the same range.
    """
    r, g, b = (rgb[..., i] for i in range(3))
    return np.float32(0.299) * r + np.float32(0.587) * g + np.float32(0.114) * b


def gray(rgb: np.ndarray) -> np.ndarray:
    """The luma as FILM's reader computes it: rounded to whole numbers, halves to even.

    rgb (H, W, 3) uint8 -> (H, W) float32 with whole numbers 0..255.
    """
    out = np.empty(rgb.shape[:2], np.float32)
    for rows in _bands(*out.shape):
        out[rows] = np.round(luma(rgb[rows].astype(np.float32)))
    return out


def gray_by_pillow(rgb: np.ndarray) -> np.ndarray:
    """The luma as Pillow's `convert("L")` computes it, in whole numbers.

    rgb (H, W, 3) uint8 -> (H, W) float32 in 0..255. Differs from `gray` by one level in a few pixels.
    """
    from PIL import Image

    return np.asarray(Image.fromarray(rgb).convert("L"), np.float32)


def is_color(rgb: np.ndarray) -> bool:
    """Whether the three channels of an image (H, W, 3) differ anywhere."""
    return bool((rgb[..., :1] != rgb).any())


# ---- YCrCb, the order of OpenCV ------------------------------------------------------------------


def ycrcb(rgb: np.ndarray) -> np.ndarray:
    """Y, Cr and Cb in OpenCV's integer arithmetic: (H, W, 3) uint8 -> (H, W, 3) uint8."""
    r, g, b = (rgb[..., i].astype(np.int64) for i in range(3))
    y = _divide_by_2_14(4899 * r + 9617 * g + 1868 * b)
    cr, cb = (_divide_by_2_14((x - y) * k + (128 << 14)) for x, k in ((r, 11682), (b, 9241)))
    return np.clip(np.stack([y, cr, cb], -1), 0, 255).astype(np.uint8)


def from_ycrcb(channels: np.ndarray) -> np.ndarray:
    """OpenCV's inverse of `ycrcb`: Y, Cr, Cb (H, W, 3) uint8 -> RGB (H, W, 3) uint8."""
    y, cr, cb = (channels[..., i].astype(np.int64) for i in range(3))
    cr, cb = cr - 128, cb - 128
    g = y + _divide_by_2_14(-5636 * cb - 11698 * cr)
    rgb = np.stack([y + _divide_by_2_14(22987 * cr), g, y + _divide_by_2_14(29049 * cb)], -1)
    return np.clip(rgb, 0, 255).astype(np.uint8)


def _divide_by_2_14(x: np.ndarray) -> np.ndarray:
    """Divides by 2^14 and rounds halves up."""
    return (x + 8192) >> 14


# ---- the chroma of a fused image -----------------------------------------------------------------


def chroma(rgb: np.ndarray) -> np.ndarray:
    """Cr and Cb by OpenCV's formula for 8 bits, in float64 and rounded once at the end.

    rgb (H, W, 3) uint8 -> (2, H, W) uint8; 128 is gray.
    """
    out = np.empty((2, *rgb.shape[:2]), np.uint8)
    for rows in _bands(*rgb.shape[:2]):
        r, g, b = (rgb[rows, :, i].astype(np.float64) for i in range(3))
        y = 0.299 * r + 0.587 * g + 0.114 * b
        both = np.stack([(r - y) * 0.713 + 128, (b - y) * 0.564 + 128])
        out[:, rows] = np.clip(np.round(both), 0, 255)
    return out


def weighted_chroma(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The mean of two chromas, each value weighted by its distance from gray.

    a, b (2, H, W) uint8 -> (2, H, W) uint8. The rule of multi-exposure fusion (Prabhakar et al.,
    DeepFuse, ICCV 2017, equation 4); where both are gray, the result is gray.
    """
    out = np.empty_like(a)
    for rows in _bands(*a.shape[1:]):
        x, y = a[:, rows], b[:, rows]
        wa, wb = np.abs(x.astype(np.float64) - 128), np.abs(y.astype(np.float64) - 128)
        total = wa + wb
        merged = np.where(total == 0, 128, (wa * x + wb * y) / np.where(total == 0, 1, total))
        out[:, rows] = np.round(merged)
    return out


def _bands(height: int, width: int) -> Iterator[slice]:
    """Rows of about a megapixel: in float64, a large image at once would take gigabytes."""
    step = max(1, (1 << 20) // max(1, width))
    return (slice(top, top + step) for top in range(0, height, step))


def pair_chroma(a: np.ndarray | None, b: np.ndarray | None, rule: str) -> np.ndarray | None:
    """The chroma that a fused image gets: that of a, that of b, or of both ("weighted").

    a, b (H, W, 3) uint8, None for a gray one -> (2, H, W) uint8; None for gray sources, and for the
    rule "none".
    """
    sources = {"a": [a], "b": [b], "weighted": [a, b], "none": []}[rule]
    chromas = [chroma(x) for x in sources if x is not None]
    if not chromas:
        return None
    return weighted_chroma(*chromas) if len(chromas) == 2 else chromas[0]


def with_chroma(y: np.ndarray, crcb: np.ndarray) -> np.ndarray:
    """The RGB image of a luma y (H, W) and a chroma (2, H, W) uint8, by OpenCV's inverse formula.

    Where a channel would leave its range, the chroma of that pixel is reduced until it fits: clipping
    would change the luma, which is what was fused. y is uint8 or uint16; returns (H, W, 3) of its type.
    """
    top = np.iinfo(y.dtype).max
    out = np.empty((*y.shape, 3), y.dtype)
    for rows in _bands(*y.shape):
        cr, cb = (crcb[i, rows].astype(np.float64) - 128 for i in range(2))
        shift = np.stack([1.403 * cr, -0.714 * cr - 0.344 * cb, 1.773 * cb], -1) * (top / 255)
        luma = y[rows, :, None].astype(np.float64)
        rgb = np.round(luma + shift)
        outside = ((rgb < 0) | (rgb > top)).any(-1)
        rgb[outside] = np.round(_fitting(luma[outside], shift[outside], top))
        out[rows] = rgb
    return out


def _fitting(y: np.ndarray, shift: np.ndarray, top: float) -> np.ndarray:
    """The sum of y (n, 1) and as much of shift (n, 3) as stays within 0 and `top` in every channel."""
    room = np.where(shift > 0, top - y, y)
    factor = (room / np.maximum(np.abs(shift), 1e-9)).min(-1, keepdims=True)
    return np.clip(y + shift * np.minimum(factor, 1), 0, top)


# ---- pseudo-colors -------------------------------------------------------------------------------


def jet(gray: np.ndarray, background: str = "jet") -> np.ndarray:
    """Pseudo-colors: OpenCV's colormap JET. gray (H, W) uint8 -> RGB (H, W, 3) uint8.

    background "jet": 0 becomes dark blue, as in the table; "black": the blue of the lowest 32 levels
    rises from 0, so that a black background stays black (ours). Raises UserError for any other.
    """
    if background not in ("jet", "black"):
        raise UserError(f"--background must be one of jet, black, not {background!r}")
    v = np.arange(256)
    rising = [4 * v - 382, 4 * v - 128, 4 * v + 128 if background == "jet" else 8 * v]
    falling = [1148 - 4 * v, 892 - 4 * v, 638 - 4 * v]
    table = np.clip(np.minimum(rising, falling), 0, 255)
    table[2, 159] = 1  # OpenCV's table has 1 here, the formula 2
    return table.T.astype(np.uint8)[gray]
