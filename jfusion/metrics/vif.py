"""Visual information fidelity for fusion."""

from __future__ import annotations

import math

import numpy as np

from jfusion.metrics.plane import Gray, gaussian, planes, valid

NOISE, EPS = 2.0, 1e-10
SHORTEST = 41  # a shorter side leaves nothing at the fourth scale


def viff(fused: Gray, a: Gray, b: Gray, *, guard: bool = True) -> float:
    """VIF: VIF(a, fused) + VIF(b, fused), pixel domain, four scales. Higher is better.

    (H, W) in 0..255; a source that is constant counts 1 (without the guard, as in FILM-Nankai, the
    sum is NaN); NaN where a side is shorter than 41. Source: Sheikh and Bovik 2006, Han et al. 2013;
    FILM's Evaluator (its "VIFF", the papers' "VIF").
    """
    fused, a, b = planes(fused, a, b)
    if min(fused.shape) < SHORTEST:
        return math.nan
    total = 0.0
    for source in (a, b):
        kept = whole = 0.0
        for x, y in zip(source.get(_pyramid), fused.get(_pyramid), strict=True):
            k, w = _information(x, y)
            kept, whole = kept + k, whole + w
        total += kept / whole if whole else (1.0 if guard else math.nan)
    return total


class _Scale:
    """One scale of an image: its pixels, local mean and variance, and its window."""

    def __init__(self, x: np.ndarray, window: tuple[float, ...]):
        self.pixels, self.window = x, window
        self.mean = valid(x, window)
        self.variance = np.maximum(valid(x * x, window) - self.mean * self.mean, 0)


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
    covariance = valid(source.pixels * fused.pixels, source.window)
    covariance -= source.mean * fused.mean
    v1, v2 = source.variance, fused.variance
    gain = covariance / (v1 + EPS)
    rest = v2 - gain * covariance
    # The Evaluator's order, which later steps depend on. Where the source is flat it also sets its
    # variance to 0: that only changes the sum below by less than 1e-10 a pixel, but it is done.
    flat = v1 < EPS
    if flat.any():
        gain[flat], rest[flat] = 0, v2[flat]
        v1 = np.where(flat, 0, v1)
    flat = v2 < EPS
    gain[flat], rest[flat] = 0, 0
    negative = gain < 0
    rest[negative], gain[negative] = v2[negative], 0
    np.maximum(rest, EPS, out=rest)
    kept = np.log10(1 + gain * gain * v1 / (rest + NOISE)).sum()
    return float(kept), float(np.log10(1 + v1 / NOISE).sum())
