"""Entropy, mutual information and cross entropy."""

from __future__ import annotations

import math

import numpy as np

from jfusion.metrics.gray_image import Gray, gray_images, min_max_normalize


def entropy(
    fused: Gray, a: Gray | None = None, b: Gray | None = None, *, guard: float = 0.0
) -> float:
    """EN (bits): -sum p log2(p + guard), p the histogram of the fused image rounded to 0..255.

    fused (H, W) in 0..255; a and b do not count. Range 0..8. Higher is better. Source: Roberts et
    al. 2008; FILM's and VIFB's evaluators. FILM-Nankai adds a guard of 1e-7.
    """
    (fused,) = gray_images(fused)
    counts = np.bincount(np.round(fused.pixels).astype(np.uint8).ravel(), minlength=256)
    p = counts[counts > 0] / fused.pixels.size
    return float(-(p * np.log2(p + guard)).sum())


def mutual_information(
    fused: Gray, a: Gray, b: Gray, *, base: float = math.e, normalized: bool = False
) -> float:
    """MI (**nats**; bits with base 2): MI(fused, a) + MI(fused, b). Higher is better.

    (H, W) each, one bin per distinct value, so round images first. 0 with a constant image.
    normalized: each image is min-max normalized to 0..255 first (VIFB). Source: Qu et al. 2002;
    FILM's Evaluator takes scikit-learn's natural logarithm, FILM-Nankai bits.
    """
    fused, a, b = gray_images(fused, a, b)
    return sum(_shared(fused, source, normalized)[0] for source in (a, b)) / math.log(base)


def normalized_mutual_information(fused: Gray, a: Gray, b: Gray) -> float:
    """NMI: 2 MI(a, fused) / (H(a) + H(fused)) + the same for b. Higher is better.

    (H, W) in 0..255, min-max normalized to 0..255 first. Range 0..2; NaN where an image is constant
    but not black. Source: Hossny et al. 2008 (Q_MI in Z. Liu's toolbox, metricMI).
    """
    fused, a, b = gray_images(fused, a, b)
    total = 0.0
    for source in (a, b):
        if _stays_constant(fused) or _stays_constant(source):
            return math.nan
        shared, hx, hy = _shared(fused, source, True)
        total += 2 * shared / (hx + hy) if hx + hy else math.nan
    return total


def cross_entropy(fused: Gray, a: Gray, b: Gray) -> float:
    """CE (bits): mean over the sources of sum p log2(p / q), p the source's histogram, q the fused's.

    Bins that either image lacks are skipped, so it can be negative. (H, W) in 0..255, rounded.
    **Lower is better.** Source: Bulanon et al. 2009; VIFB.
    """
    fused, a, b = gray_images(fused, a, b)
    q = fused.get(_histogram)
    total = 0.0
    for source in (a, b):
        p = source.get(_histogram)
        both = (p > 0) & (q > 0)
        total += float((p[both] * np.log2(p[both] / q[both])).sum())
    return total / 2


def _histogram(x: np.ndarray) -> np.ndarray:
    return np.bincount(np.round(x).astype(np.uint8).ravel(), minlength=256) / x.size


def _stays_constant(x: object) -> bool:
    return bool(x.pixels.min() == x.pixels.max() != 0)


def _levels(x: np.ndarray, normalized: bool) -> tuple[np.ndarray, int]:
    """Each pixel's bin, and how many bins there are."""
    if normalized:
        x = np.zeros_like(x) if x.min() == x.max() else min_max_normalize(x)
    if x.min() >= 0 and x.max() < 256:
        whole = x.astype(np.uint8)
        if (whole == x).all():
            return whole.ravel(), 256
    _, bins = np.unique(x, return_inverse=True)
    return bins.ravel(), int(bins.max()) + 1


def _shared(x: object, y: object, normalized: bool) -> tuple[float, float, float]:
    """Mutual information and both entropies, in nats."""
    (ix, nx), (iy, ny) = x.get(_levels, normalized), y.get(_levels, normalized)
    cells = ix.astype(np.intp)
    cells *= ny
    cells += iy
    joint = np.bincount(cells, minlength=nx * ny).reshape(nx, ny) / ix.size
    px, py = joint.sum(1), joint.sum(0)
    seen = joint > 0
    shared = (joint[seen] * np.log(joint[seen] / (px[:, None] * py)[seen])).sum()
    return max(0.0, float(shared)), _entropy(px), _entropy(py)


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())
