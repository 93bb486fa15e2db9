"""Metrics that weight frequencies by the contrast sensitivity of the eye: Qcb and Qcv."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from jfusion.metrics.edges import sobel
from jfusion.metrics.gray_image import Gray, gray_images, min_max_normalize, valid

BLOCK = 16


def qcb(fused: Gray, a: Gray, b: Gray) -> float:
    """Qcb: local contrast of both sources kept, each weighted by its own. Higher is better.

    (H, W) in 0..255, min-max normalized to 0..255 first; range 0..1; NaN if an image is constant.
    Differences of Gaussians (sigma 2 and 4, 31x31, zeros outside) of band-passed images; contrast is
    masked by C^3 / (C^2 + 0.0001). Source: Chen and Blum 2009; Z. Liu's metricChenBlum, VIFB.
    """
    fused, a, b = gray_images(fused, a, b)
    f, ca, cb = (x.get(_masked_contrast) for x in (fused, a, b))
    with np.errstate(divide="ignore", invalid="ignore"):
        preserved = [np.where(c < f, c / f, f / c) for c in (ca, cb)]
        weight = ca * ca / (ca * ca + cb * cb)
        other = cb * cb / (ca * ca + cb * cb)
        return float(np.mean(weight * preserved[0] + other * preserved[1]))


def qcv(fused: Gray, a: Gray, b: Gray) -> float:
    """Qcv: visible error against both sources in blocks of 16, weighted by their edges. Lower is better.

    (H, W) in 0..255, min-max normalized to 0..255 first; NaN if an image is constant but not black,
    or both sources have no edge. Blocks at the far borders are filled with zeros. Source: Chen and
    Varshney 2007; Z. Liu's metricChen, VIFB.
    """
    fused, a, b = gray_images(fused, a, b)
    error = weights = 0.0
    for source in (a, b):
        weight = source.get(_saliency)
        difference = source.get(_seen) - fused.get(_seen)
        error += float((weight * _blocks(difference**2)).sum()) / BLOCK**2
        weights += float(weight.sum())
    return error / weights if weights else math.nan


def _seen(x: np.ndarray) -> np.ndarray:
    """The image through the eye's sensitivity; the filter is linear, so that differences may follow it."""
    return _filtered(min_max_normalize(x), _mannos_sakrison(x.shape))


def _masked_contrast(x: np.ndarray) -> np.ndarray:
    x = _filtered(min_max_normalize(x), _band_pass(x.shape))
    with np.errstate(divide="ignore", invalid="ignore"):
        contrast = np.abs(_gaussian_filtered(x, 2.0) / _gaussian_filtered(x, 4.0) - 1)
        return contrast**3 / (contrast**2 + 0.0001)


def _gaussian_filtered(x: np.ndarray, sigma: float) -> np.ndarray:
    offsets = np.arange(-15, 16)
    window = np.exp(-(offsets**2) / (2 * sigma**2)) / (math.sqrt(2 * math.pi) * sigma)
    return valid(np.pad(x, 15), tuple(window.tolist()))


def _filtered(x: np.ndarray, response: np.ndarray) -> np.ndarray:
    from scipy.fft import irfft2, rfft2

    return irfft2(rfft2(x) * response[:, : x.shape[1] // 2 + 1], x.shape)


def _frequencies(shape: tuple[int, int], unit: float) -> np.ndarray:
    """Radial frequency of each place of a spectrum, Nyquist = size / unit along each axis."""
    v, u = (2 * np.fft.fftfreq(n) * n / unit for n in shape)
    return np.sqrt(u[None, :] ** 2 + v[:, None] ** 2)


@lru_cache(maxsize=4)
def _band_pass(shape: tuple[int, int]) -> np.ndarray:
    r = _frequencies(shape, 30)
    return np.exp(-((r / 15.3870) ** 2)) - 0.7622 * np.exp(-((r / 1.3456) ** 2))


@lru_cache(maxsize=4)
def _mannos_sakrison(shape: tuple[int, int]) -> np.ndarray:
    r = _frequencies(shape, 8)
    return 2.6 * (0.0192 + 0.144 * r) * np.exp(-((0.144 * r) ** 1.1))


def _saliency(x: np.ndarray) -> np.ndarray:
    gx, gy = sobel(np.pad(min_max_normalize(x), 1))
    return _blocks((gx * gx + gy * gy) ** 2.5)


def _blocks(x: np.ndarray) -> np.ndarray:
    """Sums over blocks, the image filled with zeros to whole ones."""
    rows, columns = (-(-n // BLOCK) for n in x.shape)
    x = np.pad(x, ((0, rows * BLOCK - x.shape[0]), (0, columns * BLOCK - x.shape[1])))
    return x.reshape(rows, BLOCK, columns, BLOCK).sum((1, 3))
