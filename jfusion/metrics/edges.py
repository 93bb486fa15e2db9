"""How much of the sources' edges the fused image keeps."""

from __future__ import annotations

import numpy as np


def qabf(fused: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """Qabf: edge strength and direction kept from both sources, weighted by their strength.

    (H, W) in 0..255; range 0..1 (an identical triple gives about 0.975); NaN if both sources are
    black. Higher is better. Sobel with zero padding; equal strengths count their own value, not 1,
    as in the authors' code. Source: Xydeas and Petrovic 2000; FILM's Evaluator.
    """
    strength, angle = _edges(fused)
    kept, weights = 0.0, 0.0
    for source in (a, b):
        weight, source_angle = _edges(source)
        kept = kept + _preserved(strength, angle, weight, source_angle) * weight
        weights = weights + weight
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.sum(kept) / np.sum(weights))


def _preserved(
    strength: np.ndarray, angle: np.ndarray, source: np.ndarray, source_angle: np.ndarray
) -> np.ndarray:
    low, high = np.minimum(strength, source), np.maximum(strength, source)
    ratio = np.where(strength == source, strength, low / np.where(high == 0, 1, high))
    alignment = 1 - np.abs(source_angle - angle) / (np.pi / 2)
    with np.errstate(over="ignore"):
        by_strength = 0.9994 / (1 + np.exp(-15 * (ratio - 0.5)))
        by_angle = 0.9879 / (1 + np.exp(-22 * (alignment - 0.8)))
    return by_strength * by_angle


def _edges(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Strength and angle of the Sobel response; pi/2 where the horizontal one is zero."""
    p = np.pad(x, 1)
    smooth = p[:-2] + 2 * p[1:-1] + p[2:]
    gx = smooth[:, 2:] - smooth[:, :-2]
    smooth = p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]
    gy = smooth[:-2] - smooth[2:]
    angle = np.full(x.shape, np.pi / 2)
    np.arctan(np.divide(gy, gx, where=gx != 0, out=np.zeros_like(x)), where=gx != 0, out=angle)
    return np.sqrt(gx * gx + gy * gy), angle
