"""The authors' color conversions on [-1, 1], where the chroma of gray is 0.5, in NumPy."""

from __future__ import annotations

import numpy as np

from jfusion.data.h5 import Pair


def to_ycrcb(rgb: np.ndarray) -> np.ndarray:
    """RGB (..., 3, H, W) in [-1, 1] -> Y, Cr, Cb of the same shape."""
    r, g, b = (rgb[..., i, :, :] for i in range(3))
    y = np.float32(0.299) * r + np.float32(0.587) * g + np.float32(0.114) * b
    cr, cb = np.float32(0.713) * (r - y), np.float32(0.564) * (b - y)
    return np.stack([y, cr + np.float32(0.5), cb + np.float32(0.5)], -3)


def with_chroma(y: np.ndarray, crcb: np.ndarray) -> np.ndarray:
    """The RGB image (..., 3, H, W) of a luma y (..., 1, H, W) in [-1, 1] and its Cr, Cb (..., 2, H, W)."""
    y = y[..., 0, :, :]
    cr, cb = (crcb[..., i, :, :] - np.float32(0.5) for i in range(2))
    g = y - np.float32(0.714) * cr - np.float32(0.344) * cb
    return np.stack([y + np.float32(1.403) * cr, g, y + np.float32(1.773) * cb], -3)


def luma(gray: np.ndarray, rgb: np.ndarray | None) -> np.ndarray:
    """The luma (1, H, W) in [0, 1], not rounded: of the colors where the image has some, else `gray`."""
    return gray if rgb is None else (to_ycrcb(_from_uint8(rgb))[:1] + 1) / 2


def pair_chroma(pair: Pair) -> np.ndarray | None:
    """Cr and Cb that the fused image gets, (2, H, W): exact from one source, of 8 bits from both."""
    source = {"a": pair.rgb_a, "b": pair.rgb_b}.get(pair.rule)
    if source is not None:
        return to_ycrcb(_from_uint8(source))[1:]
    both = pair.chroma
    return None if both is None else (both.astype(np.float32) - 128) / 127.5 + np.float32(0.5)


def _from_uint8(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (3, H, W) float32 in [-1, 1]."""
    return np.moveaxis(rgb, 2, 0).astype(np.float32) / 255 * 2 - 1
