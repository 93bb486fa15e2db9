"""Feature mutual information (FMI): what small neighborhoods of the sources and the fused share."""

from __future__ import annotations

import math

import numpy as np

from jfusion.metrics.gray_image import Gray, gray_images

SIDE = 3
COUNT = SIDE**2
ROWS = 1 << 16  # windows handled at once


def fmi_pixel(fused: Gray, a: Gray, b: Gray) -> float:
    """FMI of the pixels: mean normalized mutual information of 3x3 windows. Higher is better.

    (H, W); range 0..1; NaN where a side is shorter than 3. Toolboxes that call the reference without
    naming a feature measure edges under this name, which is another number. Not quite symmetric in
    the sources: as in the reference, b is compared with the fused window that the comparison with a has
    normalized. Source: Haghighat and Razian 2014 (Fast-FMI).
    """
    return _fmi(*(x.pixels for x in gray_images(fused, a, b)))


def fmi_dct(fused: Gray, a: Gray, b: Gray) -> float:
    """FMI of the cosine transforms of the whole images; otherwise as `fmi_pixel`."""
    from scipy.fft import dctn

    return _fmi(*(dctn(x.pixels, norm="ortho") for x in gray_images(fused, a, b)))


def _fmi(fused: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    if min(fused.shape) < SIDE:
        return math.nan
    f, a, b = (_windows(x) for x in (fused, a, b))
    total = 0.0
    for start in range(0, f.shape[1], ROWS):
        part = slice(start, start + ROWS)
        total += _pair(a[:, part], b[:, part], f[:, part])
    return total / f.shape[1] / 2


def _pair(a: np.ndarray, b: np.ndarray, f: np.ndarray) -> float:
    same = (a == f).all(0)
    normalized = _normalized(f)
    of_a = np.where(same, 1.0, _shared(_normalized(a), normalized))
    met = np.where(same, f, normalized)
    of_b = np.where((b == met).all(0), 1.0, _shared(_normalized(b), normalized))
    return float(of_a.sum() + of_b.sum())


def _windows(x: np.ndarray) -> np.ndarray:
    """The window of each inner pixel, column by column as MATLAB counts: (9, windows)."""
    view = np.lib.stride_tricks.sliding_window_view(x, (SIDE, SIDE))
    return np.ascontiguousarray(view.transpose(3, 2, 0, 1).reshape(COUNT, -1))


def _normalized(x: np.ndarray) -> np.ndarray:
    """Each window, min-max normalized to 0..1; a flat one becomes ones."""
    low, high = x.min(0), x.max(0)
    flat = low == high
    return np.where(flat, 1.0, (x - low) / np.where(flat, 1, high - low))


def _sum(x: np.ndarray) -> np.ndarray:
    """Along the first axis, one after the other: the result for flat windows depends on the last digit."""
    total = x[0].copy()
    for row in x[1:]:
        total += row
    return total


def _shared(a: np.ndarray, f: np.ndarray) -> np.ndarray:
    """Normalized mutual information of two distributions over the places of a window."""
    a, f = (x / _column_sum(x) for x in (a, f))
    a_sum, f_sum = np.cumsum(a, 0), np.cumsum(f, 0)
    c = _correlation(a, f)
    spread = _deviation(a) * _deviation(f)
    positive = c >= 0
    bound = np.where(positive, np.minimum(f_sum[:, None], a_sum[None]), 0)
    np.copyto(bound, np.maximum(f_sum[:, None] + a_sum[None] - 1, 0), where=~positive)
    covariance = (bound - f_sum[:, None] * a_sum[None]).sum((0, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where((c == 0) | (spread == 0), 0, c / (covariance / spread))
    joint = np.diff(np.diff(bound, axis=0, prepend=0), axis=1, prepend=0)
    joint = share * joint + (1 - share) * f[:, None] * a[None]
    joint_entropy = _entropy(joint.reshape(COUNT**2, -1))
    a_entropy, f_entropy = _entropy(a), _entropy(f)
    shared = a_entropy + f_entropy - joint_entropy
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(shared == 0, 0, 2 * shared / (a_entropy + f_entropy))


def _column_sum(x: np.ndarray) -> np.ndarray:
    return _sum(np.stack([_sum(x[i : i + SIDE]) for i in range(0, COUNT, SIDE)]))


def _correlation(a: np.ndarray, f: np.ndarray) -> np.ndarray:
    a, f = (x - _sum(x) / COUNT for x in (a, f))
    af = _sum(a * f)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(af == 0, 0, af / np.sqrt(_sum(a * a) * _sum(f * f)))


def _deviation(p: np.ndarray) -> np.ndarray:
    place = np.arange(1.0, COUNT + 1)[:, None]
    mean = _sum(place * p)
    return np.sqrt(np.maximum(_sum(place**2 * p) - mean**2, 0))


def _entropy(p: np.ndarray) -> np.ndarray:
    """In bits; of negative entries, which rounding makes, the real part as MATLAB takes it."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return -np.where(p == 0, 0, p * np.log2(np.abs(p))).sum(0)
