"""Entropy and mutual information."""

from __future__ import annotations

import numpy as np


def entropy(fused: np.ndarray, a: np.ndarray | None = None, b: np.ndarray | None = None) -> float:
    """EN (bits): entropy of the histogram of the fused image rounded to 0..255. Higher is better.

    fused (H, W); a and b do not count. Range 0..8. Source: Roberts et al. 2008; FILM's Evaluator.
    """
    counts = np.bincount(np.round(fused).astype(np.uint8).ravel(), minlength=256)
    p = counts[counts > 0] / fused.size
    return float(-(p * np.log2(p)).sum())


def mutual_information(fused: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """MI (**nats**): MI(fused, a) + MI(fused, b). Higher is better.

    (H, W), one bin per distinct value, so round images first. 0 with a constant image. Source: Qu
    et al. 2002; FILM's Evaluator, which takes scikit-learn's natural logarithm (others use log2).
    """
    return sum(_shared(fused, source) for source in (a, b))


def _shared(x: np.ndarray, y: np.ndarray) -> float:
    _, ix = np.unique(x, return_inverse=True)
    _, iy = np.unique(y, return_inverse=True)
    nx, ny = int(ix.max()) + 1, int(iy.max()) + 1
    joint = np.bincount(ix.ravel() * ny + iy.ravel(), minlength=nx * ny).reshape(nx, ny) / x.size
    outer = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    return max(0.0, float((joint[seen] * np.log(joint[seen] / outer[seen])).sum()))
