"""How far the fused image is from its sources, or from a ground truth."""

from __future__ import annotations

import numpy as np

from jfusion.metrics.gray_image import Gray, GrayImage, gray_images, strips


def mse(fused: Gray, a: Gray, b: Gray, *, unit: bool = False) -> float:
    """MSE: the mean of the two mean squared errors, on the scale 0..255. Lower is better.

    (H, W) each. unit: on the scale 0..1 (FILM-Nankai). Source: FILM's Evaluator.
    """
    fused, a, b = gray_images(fused, a, b)
    total = sum(_squared(x, fused) / fused.pixels.size for x in (a, b)) / 2
    return total / 255**2 if unit else total


def rmse(fused: Gray, a: Gray, b: Gray) -> float:
    """RMSE of VIFB: the mean over the sources of sqrt(sum of squared errors) / (H W). Lower is better.

    The root is taken **before** the division, so it shrinks with the size of the image: compare
    images of one size only. (H, W) in 0..255. Source: VIFB, metricsRmse.m.
    """
    fused, a, b = gray_images(fused, a, b)
    return sum(np.sqrt(_squared(x, fused)) / fused.pixels.size for x in (a, b)) / 2


def psnr(fused: Gray, a: Gray, b: Gray, *, peak: float | None = None) -> float:
    """PSNR (dB): 10 log10(peak^2 / MSE). Higher is better.

    The peak is the **maximum of the fused image** (FILM's Evaluator) unless given. FILM-Nankai takes
    20 log10(255 / sqrt(MSE on 0..1)), a peak of 255^2: 48.13 dB more than with 255. +inf for
    identical images, NaN if they are also black. (H, W) in 0..255.
    """
    (fused,) = gray_images(fused)
    peak = fused.pixels.max() if peak is None else peak
    return _decibels(peak, mse(fused, a, b))


def psnr_of_rmse(fused: Gray, a: Gray, b: Gray) -> float:
    """PSNR of VIFB (dB): 20 log10(255 / sqrt(RMSE)) with VIFB's RMSE in the place of the MSE. Higher.

    (H, W) in 0..255. Source: VIFB, metricsPsnr.m.
    """
    return _decibels(255, rmse(fused, a, b))


def truth_psnr(fused: Gray, truth: Gray) -> float:
    """PSNR (dB) against a ground truth, with a peak of 255. Higher is better; (H, W) in 0..255."""
    fused, truth = gray_images(fused, truth)
    return _decibels(255, _squared(truth, fused) / fused.pixels.size)


def correlation(fused: Gray, a: Gray, b: Gray) -> float:
    """CC: the mean of Pearson's correlation of each source with the fused image. Higher is better.

    (H, W) each; range -1..1; NaN where one of the three is constant. Source: FILM's Evaluator.
    """
    fused, a, b = gray_images(fused, a, b)
    return (_pearson(a, fused) + _pearson(b, fused)) / 2


def sum_of_correlations_of_differences(fused: Gray, a: Gray, b: Gray) -> float:
    """SCD: corr(a, fused - b) + corr(b, fused - a). Higher is better.

    (H, W) each; range -2..2; NaN where a source or a difference is constant. Source: Aslantas and
    Bendes 2015; FILM's Evaluator.
    """
    fused, a, b = gray_images(fused, a, b)
    return _with_difference(a, fused, b) + _with_difference(b, fused, a)


def _squared(x: GrayImage, y: GrayImage) -> float:
    d = x.pixels - y.pixels
    return float(np.vdot(d, d))


def _decibels(peak: float, error: float) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(10 * np.log10(np.float64(peak) ** 2 / np.float64(error)))


def _pearson(x: GrayImage, y: GrayImage) -> float:
    (x, xx), (y, yy) = x.get(_centered), y.get(_centered)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.vdot(x, y) / np.sqrt(np.float64(xx * yy)))


def _with_difference(x: GrayImage, fused: GrayImage, other: GrayImage) -> float:
    """Pearson's correlation of x and fused - other."""
    x, xx = x.get(_centered)
    parts = list(strips(x.shape))
    mean = sum(float((fused.pixels[r] - other.pixels[r]).sum()) for r in parts) / x.size
    xd = dd = 0.0
    for r in parts:
        d = fused.pixels[r] - other.pixels[r]
        d -= mean
        xd, dd = xd + float(np.vdot(x[r], d)), dd + float(np.vdot(d, d))
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(xd / np.sqrt(np.float64(xx * dd)))


def _centered(x: np.ndarray) -> tuple[np.ndarray, float]:
    x = x - x.mean()
    return x, float(np.vdot(x, x))
