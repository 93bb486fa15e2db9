"""Edges: how strong they are, how much of the sources' the fused image keeps, and what it invents."""

from __future__ import annotations

import numpy as np

from jfusion.metrics.gray_image import Gray, gray_images, strips


def edge_intensity(fused: Gray, a: Gray | None = None, b: Gray | None = None) -> float:
    """EI: mean Sobel strength of the fused image, its border repeated. Higher is better.

    fused (H, W) in 0..255; a and b do not count. Source: Rajalingam and Priya 2018; VIFB.
    """
    gx, gy = sobel(np.pad(gray_images(fused)[0].pixels, 1, mode="edge"))
    return float(np.sqrt(gx * gx + gy * gy).mean())


def qabf(fused: Gray, a: Gray, b: Gray) -> float:
    """Qabf: edge strength and direction kept from both sources, weighted by their strength.

    (H, W) in 0..255; range 0..1 (an identical triple gives about 0.975); NaN if both sources are
    black. Higher is better. Sobel with zero padding; equal strengths count their own value, not 1,
    as in the authors' code. Source: Xydeas and Petrovic 2000; FILM's and VIFB's evaluators.
    """
    fused, a, b = gray_images(fused, a, b)
    strength, angle = fused.get(_edges)
    preserved = weights = 0.0
    for weight, source_angle in (a.get(_edges), b.get(_edges)):
        for r in strips(fused.shape):
            q = _preserved(strength[r], angle[r], weight[r], source_angle[r])
            preserved += float(np.vdot(q, weight[r]))
        weights += float(weight.sum())
    return preserved / weights if weights else float("nan")


def _preserved(
    strength: np.ndarray, angle: np.ndarray, source: np.ndarray, source_angle: np.ndarray
) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        ratio = np.minimum(strength, source)
        ratio /= np.maximum(strength, source)
    np.copyto(ratio, strength, where=strength == source)
    by_strength = _sigmoid(ratio, 15, 0.5)
    aligned = np.abs(source_angle - angle)
    aligned *= -2 / np.pi
    aligned += 1
    by_strength *= _sigmoid(aligned, 22, 0.8)
    return np.divide(0.9994 * 0.9879, by_strength, out=by_strength)


def _sigmoid(x: np.ndarray, slope: float, middle: float) -> np.ndarray:
    """1 + exp(-slope (x - middle)), in the place of x."""
    x -= middle
    x *= -slope
    np.exp(x, out=x)
    x += 1
    return x


def _edges(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Strength and angle of the Sobel response; pi/2 where the horizontal one is zero."""
    padded = np.pad(x, 1)
    strength, angle = np.empty((2, *x.shape))  # one array: see gray_image.moments
    for rows in strips(padded.shape, 2):
        gx, gy = sobel(padded[rows])
        inner = slice(rows.start, rows.stop - 2)
        np.sqrt(gx * gx + gy * gy, out=strength[inner])
        with np.errstate(divide="ignore", invalid="ignore"):
            np.arctan(gy / gx, out=angle[inner])
        np.copyto(angle[inner], np.pi / 2, where=gx == 0)
    return strength, angle


def sobel(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right minus left, and above minus below, of an image with a border of one: (H, W) each."""
    smooth = p[:-2] + 2 * p[1:-1] + p[2:]
    gx = smooth[:, 2:] - smooth[:, :-2]
    smooth = p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]
    return gx, smooth[:-2] - smooth[2:]


def nabf(fused: Gray, a: Gray, b: Gray, *, weak: float = 0.001) -> float:
    """Nabf: edges of the fused image that neither source has (artifacts). Lower is better.

    (H, W) in 0..255; range 0..1. Sobel / 8 with the border reflected; an edge weighs strength^1.5
    from a strength of 2 on, otherwise `weak` (0 in FILM-Nankai: NaN if no source has an edge).
    Source: Shreyamsha Kumar 2013, after Petrovic and Xydeas 2005.
    """
    fused, a, b = gray_images(fused, a, b)
    strength, angle = fused.get(_reflected_edges)
    invented = np.ones(fused.shape, bool)
    lost = weights = 0.0
    for source in (a, b):
        g, source_angle = source.get(_reflected_edges)
        invented &= strength > g
        weight = np.where(g >= 2, g**1.5, weak)
        lost = lost + (1 - _petrovic(strength, angle, g, source_angle)) * weight
        weights += float(weight.sum())
    return float(lost[invented].sum()) / weights if weights else float("nan")


def _petrovic(
    strength: np.ndarray, angle: np.ndarray, source: np.ndarray, source_angle: np.ndarray
) -> np.ndarray:
    high = np.maximum(strength, source)
    ratio = np.divide(np.minimum(strength, source), high, where=high > 0, out=np.zeros_like(high))
    aligned = np.abs(np.abs(source_angle - angle) - np.pi / 2) * 2 / np.pi
    by_strength = 0.9999 / (1 + np.exp(-19 * (ratio - 0.5)))
    by_angle = 0.9995 / (1 + np.exp(-22 * (aligned - 0.5)))
    return np.sqrt(by_strength * by_angle)


def _reflected_edges(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Strength and angle, atan(horizontal / vertical gradient), of Sobel / 8."""
    gx, gy = sobel(np.pad(x, 1, mode="reflect" if min(x.shape) > 1 else "edge") / 8)
    down = 0.0 - gy  # +0, not -0, where the gradient is 0: the sign of the angle depends on it
    with np.errstate(divide="ignore", invalid="ignore"):
        angle = np.arctan(gx / down)
    angle[(gx == 0) & (gy == 0)] = 0
    return np.sqrt(gx * gx + gy * gy), angle
