"""Structural similarity."""

from __future__ import annotations

import math

import numpy as np

from jfusion.metrics.gray_image import (
    Gray,
    GrayImage,
    gaussian,
    gray_images,
    local_products,
    moments,
    uniform,
    valid,
)

FLAT, GAUSSIAN = uniform(7), gaussian(11, 1.5)
SHORT = gaussian(7, 1.5)  # of Qy
# FILM-Nankai's window is made in float32, which moves its SSIM in the fifth digit.
_RAW = np.exp(-((np.arange(11) - 5.0) ** 2) / 4.5).astype(np.float32)
_RAW[[0, -1]] = np.nextafter(_RAW[[0, -1]], np.float32(1))  # float32's own exp rounds these two up
GAUSSIAN_FLOAT32 = tuple((_RAW / np.float32(_RAW.sum(dtype=np.float64))).astype(float).tolist())
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # weights of MS-SSIM, Wang et al. 2003


def ssim(
    fused: Gray,
    a: Gray,
    b: Gray,
    *,
    data_range: float = 255.0,
    window: tuple[float, ...] = FLAT,
) -> float:
    """SSIM(fused, a) + SSIM(fused, b). Higher is better; 2 for identical images.

    **7x7 uniform** window with sample covariance (scikit-image's default), or `GAUSSIAN`: Gaussian, 11
    wide, sigma 1.5, population moments (VIFB, FILM-Nankai); K1 = 0.01, K2 = 0.03; only complete
    windows count. data_range is 255 in FILM's Evaluator; CDDFuse's leaves it out, and scikit-image
    then took 2 for float images: its values are not comparable. (H, W) in 0..255; NaN where a side
    is shorter than the window. Source: Wang et al. 2004.
    """
    fused, a, b = gray_images(fused, a, b)
    return sum(_mean_ssim(source, fused, data_range, window) for source in (a, b))


def truth_ssim(fused: Gray, truth: Gray) -> float:
    """SSIM against a ground truth (7x7 uniform window, data range 255). 1 if equal; (H, W)."""
    fused, truth = gray_images(fused, truth)
    return _mean_ssim(truth, fused, 255.0, FLAT)


def ms_ssim(fused: Gray, a: Gray, b: Gray, *, window: tuple[float, ...] = GAUSSIAN) -> float:
    """MS_SSIM(fused, a) + MS_SSIM(fused, b). Higher is better; 2 for identical images.

    Five scales (Gaussian window of 11, sigma 1.5, data range 255), each contrast term clamped at 0 and
    raised to its weight; between scales 2x2 means, with a border of zeros where a side is odd. (H, W)
    in 0..255; NaN where a side is not longer than 160. Source: Wang et al. 2003; FILM-Nankai.
    """
    fused, a, b = gray_images(fused, a, b)
    if min(fused.shape) <= (len(window) - 1) * 2 ** (len(SCALES) - 1):
        return math.nan
    return sum(_ms_ssim(source, fused, window) for source in (a, b))


def qy(fused: Gray, a: Gray, b: Gray) -> float:
    """Qy (Q_Y): local SSIM with the sources, where they agree weighted by variance, else the better one.

    (H, W) in 0..255; range -1..1; higher is better. Gaussian window of 7, sigma 1.5, SSIM with constants of
    2e-16; the sources agree where their SSIM is 0.75 or more. NaN where both are black. Where images are flat
    the value is rounding noise, as in the reference. Source: Yang et al. 2008; Z. Liu's metricYang.
    """
    fused, a, b = gray_images(fused, a, b)
    if min(fused.shape) < len(SHORT):
        return math.nan
    constants = (2e-16, 2e-16)
    variance_a, variance_b = (x.get(moments, SHORT)[1] for x in (a, b))
    with_a, with_b = (_ssim_map(x, fused, SHORT, constants) for x in (a, b))
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = variance_a / (variance_a + variance_b)
    agree = _ssim_map(a, b, SHORT, constants) >= 0.75
    weighted = (weight * with_a + (1 - weight) * with_b) * agree
    return float((weighted + np.maximum(with_a, with_b) * ~agree).mean())


def qw(fused: Gray, a: Gray, b: Gray) -> float:
    """Qw (Q_W): local SSIM with the sources, weighted by their variances and by the larger of the two.

    (H, W) in 0..255; range -1..1; higher is better. Gaussian window of 11, sigma 1.5. The weighted fusion
    quality index of Piella and Heijmans 2003; Z. Liu's metricPeilla with sw = 2.
    """
    fused, a, b = gray_images(fused, a, b)
    if min(fused.shape) < len(GAUSSIAN):
        return math.nan
    constants = ((0.01 * 255) ** 2, (0.03 * 255) ** 2)
    variances = np.stack([x.get(moments, GAUSSIAN)[1] for x in (a, b)])
    variances = variances + 0.5 * (variances.sum(0) == 0)
    with_a, with_b = (_ssim_map(x, fused, GAUSSIAN, constants) for x in (a, b))
    weight, saliency = variances[0] / variances.sum(0), variances.max(0)
    values = weight * with_a + (1 - weight) * with_b
    return float((saliency * values).sum() / saliency.sum())


def qe(fused: Gray, a: Gray, b: Gray) -> float:
    """Qe (Q_E): Qw of the images times Qw of their edges, so that edges count twice. Higher is better.

    (H, W) in 0..255; range -1..1. Edges are the strengths of Prewitt's filter, zeros outside. The
    edge-dependent fusion quality index of Piella and Heijmans 2003 with alpha = 1; Z. Liu's metricPeilla with
    sw = 3, which reads the result of sw = 2 without computing it: it is given that result here.
    """
    images = gray_images(fused, a, b)
    return qw(*images) * qw(*(x.get(_prewitt) for x in images))


def _prewitt(x: np.ndarray) -> GrayImage:
    """Strength of the edges; the strength of a step of 1 is 3."""
    p = np.pad(x, 1)
    down, across = p[:-2] + p[1:-1] + p[2:], p[:, :-2] + p[:, 1:-1] + p[:, 2:]
    return GrayImage(np.hypot(down[:, 2:] - down[:, :-2], across[2:] - across[:-2]))


def _ssim_map(
    x: GrayImage, y: GrayImage, window: tuple[float, ...], constants: tuple[float, float]
) -> np.ndarray:
    """SSIM at each place of the window, with population moments."""
    (mean_x, variance_x), (mean_y, variance_y) = (i.get(moments, window) for i in (x, y))
    c1, c2 = constants
    covariance = valid(x.pixels * y.pixels, window) - mean_x * mean_y
    above = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return above / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))


def _mean_ssim(x: GrayImage, y: GrayImage, data_range: float, window: tuple[float, ...]) -> float:
    if min(x.shape) < len(window):
        return math.nan
    sample = len(FLAT) ** 2 / (len(FLAT) ** 2 - 1) if window == FLAT else 1.0
    return _mean_terms(x, y, window, sample, data_range)[1]


def _mean_terms(
    x: GrayImage, y: GrayImage, window: tuple[float, ...], sample: float, data_range: float
) -> tuple[float, float]:
    """The means of SSIM's contrast-structure term, and of its product with the luminance term."""
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    (mean_x, variance_x), (mean_y, variance_y) = (i.get(moments, window) for i in (x, y))
    sums = np.zeros(2)
    for rows, product in local_products(x.pixels, y.pixels, window):
        mx, my = mean_x[rows], mean_y[rows]
        mxy = mx * my
        luminance = (2 * mxy + c1) / (mx * mx + my * my + c1)
        contrast = (2 * sample * (product - mxy) + c2) / (
            sample * (variance_x[rows] + variance_y[rows]) + c2
        )
        sums += contrast.sum(), np.vdot(contrast, luminance)
    return tuple(sums / mean_x.size)


def _ms_ssim(x: GrayImage, y: GrayImage, window: tuple[float, ...]) -> float:
    product = 1.0
    for scale, weight in enumerate(SCALES):
        last = scale == len(SCALES) - 1
        value = _mean_terms(x, y, window, 1.0, 255.0)[last]
        product *= max(value, 0.0) ** weight
        x, y = x.get(_halved), y.get(_halved)
    return product


def _halved(x: np.ndarray) -> GrayImage:
    height, width = x.shape
    x = np.pad(x, ((height % 2,) * 2, (width % 2,) * 2))
    x = x[: x.shape[0] // 2 * 2, : x.shape[1] // 2 * 2]
    return GrayImage((x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4)
