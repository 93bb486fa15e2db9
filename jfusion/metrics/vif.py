"""Visual information fidelity for fusion."""

from __future__ import annotations

import math

import numpy as np

from jfusion.metrics.gray_image import Gray, gaussian, gray_images, local_products, moments, valid

NOISE, EPS = 2.0, 1e-10
SHORTEST = 41  # a shorter side leaves nothing at the fourth scale


def viff(fused: Gray, a: Gray, b: Gray, *, guard: bool = True) -> float:
    """VIF: VIF(a, fused) + VIF(b, fused), pixel domain, four scales. Higher is better.

    (H, W) in 0..255; a source that is constant counts 1 (without the guard, as in FILM-Nankai, the
    sum is NaN); NaN where a side is shorter than 41. Source: Sheikh and Bovik 2006, Han et al. 2013;
    FILM's Evaluator (its "VIFF", the papers' "VIF").
    """
    fused, a, b = gray_images(fused, a, b)
    if min(fused.shape) < SHORTEST:
        return math.nan
    total = 0.0
    for source in (a, b):
        preserved = available = 0.0
        for x, y in zip(source.get(_pyramid), fused.get(_pyramid), strict=True):
            k, w = _information(x, y)
            preserved, available = preserved + k, available + w
        total += preserved / available if available else (1.0 if guard else math.nan)
    return total


class _Scale:
    """One scale of an image: its pixels, local mean and variance, and its window."""

    def __init__(self, x: np.ndarray, window: tuple[float, ...]):
        self.pixels, self.window = x, window
        self.mean, self.variance = moments(x, window)
        np.maximum(self.variance, 0, out=self.variance)


def _pyramid(x: np.ndarray) -> list[_Scale]:
    scales = []
    for scale in (1, 2, 3, 4):
        side = 2 ** (5 - scale) + 1
        window = gaussian(side, side / 5)
        if scale > 1:
            x = valid(x, window, step=2)
        scales.append(_Scale(x, window))
    return scales


def _information(source: _Scale, fused: _Scale) -> tuple[float, float]:
    """What the fused image keeps of the source's information at one scale, and all of it."""
    preserved = total = 0.0
    for rows, product in local_products(source.pixels, fused.pixels, source.window):
        (m1, v1), (m2, v2) = ((x.mean[rows], x.variance[rows]) for x in (source, fused))
        gain, rest, v1 = _channel(product - m1 * m2, v1, v2)
        preserved += float(np.log10(1 + gain * gain * v1 / (rest + NOISE)).sum())
        total += float(np.log10(1 + v1 / NOISE).sum())
    return preserved, total


def _channel(
    covariance: np.ndarray, v1: np.ndarray, v2: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gain and noise of the channel from source to fused, and the source's variance.

    The cases in the Evaluator's order, which the later ones depend on.
    """
    gain = covariance / (v1 + EPS)
    rest = v2 - gain * covariance
    flat = v1 < EPS
    if flat.any():
        gain[flat], rest[flat] = 0, v2[flat]
        v1 = np.where(flat, 0, v1)
    flat = v2 < EPS
    if flat.any():
        gain[flat], rest[flat] = 0, 0
    negative = gain < 0
    np.copyto(rest, v2, where=negative)
    np.copyto(gain, 0, where=negative)
    return gain, np.maximum(rest, EPS, out=rest), v1
