"""Phase congruency, and how much of it the fused image keeps: Qp.

Phase congruency (P. Kovesi 1999) is high where the Fourier components of an image are in phase: at edges,
lines and corners, whatever their contrast.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from jfusion.metrics.gray_image import Gray, gaussian, gray_images, valid

SCALES, ORIENTATIONS = 4, 6
SHORTEST, RATIO, BANDWIDTH = 3, 2.1, 0.55  # wavelengths of the filters, and their radial width
ANGULAR = math.pi / ORIENTATIONS / 1.2  # standard deviation of a filter in angle
NOISE, SPREAD, GAIN = (
    2.0,
    0.5,
    10,
)  # threshold in deviations; cut-off and slope of the frequency spread
EPSILON = 1e-4
FEATURE = 0.1  # phase congruency of a feature
WINDOW = gaussian(11, 1.5)


def qp(fused: Gray, a: Gray, b: Gray) -> float:
    """Qp: local correlation of phase congruency and its moments with those of the sources. Higher is better.

    (H, W) in 0..255; NaN where no source has a feature. The product of three terms: the phase congruency, its
    maximum and its minimum moment, each compared where a source has a feature with the one source, the other,
    or the stronger of both, whichever fits best. Source: Zhao, Laganiere and Liu 2007; Z. Liu's metricZhao,
    with Kovesi's phasecong3.
    """
    maps = [x.get(phase_congruency) for x in gray_images(fused, a, b)]
    pc_a, pc_b = maps[1][0], maps[2][0]
    stronger = pc_a > pc_b
    masks = [pc_a > FEATURE, pc_b > FEATURE, np.where(stronger, pc_a, pc_b) > FEATURE]
    if not masks[2].any():
        return math.nan
    product = 1.0
    for of_fused, of_a, of_b in zip(*maps, strict=True):
        sources = (of_a, of_b, np.where(stronger, of_a, of_b))
        best = np.maximum.reduce(
            [_correlation(x * mask, of_fused, mask) for x, mask in zip(sources, masks, strict=True)]
        )
        product *= float(best.sum() / masks[2].sum())
    return product


def _correlation(x: np.ndarray, y: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Local correlation of x and y in a Gaussian window of 11, zeros outside of the images and the mask."""
    mean_x, mean_y = _local(x), _local(y)
    covariance = _local(x * y) - mean_x * mean_y
    variances = (_local(x * x) - mean_x * mean_x) * (_local(y * y) - mean_y * mean_y)
    return mask * (covariance + EPSILON) / (np.sqrt(np.abs(variances)) + EPSILON)


def _local(x: np.ndarray) -> np.ndarray:
    return valid(np.pad(x, len(WINDOW) // 2), WINDOW)


def phase_congruency(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Phase congruency, and its maximum and minimum moments over the orientations: (H, W) each."""
    from scipy.fft import fft2

    spectrum = fft2(x)
    energies = amplitudes = 0.0
    moments = np.zeros((3, *x.shape))
    for i in range(ORIENTATIONS):
        energy, amplitude = _oriented(spectrum, i)
        energies, amplitudes = energies + energy, amplitudes + amplitude
        with np.errstate(divide="ignore", invalid="ignore"):
            congruency = energy / amplitude
        angle = i * math.pi / ORIENTATIONS
        c, s = congruency * math.cos(angle), congruency * math.sin(angle)
        moments += c * c, s * s, c * s
    xx, yy, xy = moments[0] / (ORIENTATIONS / 2), moments[1] / (ORIENTATIONS / 2), moments[2]
    xy = xy / ORIENTATIONS
    root = np.sqrt(xy**2 + (xx - yy) ** 2) + EPSILON
    return energies / (amplitudes + EPSILON), (yy + xx + root) / 2, (yy + xx - root) / 2


def _oriented(spectrum: np.ndarray, orientation: int) -> tuple[np.ndarray, np.ndarray]:
    """Energy above the noise, weighted by the spread of frequencies, and the sum of amplitudes."""
    from scipy.fft import ifft2

    filters, noise = _filters(spectrum.shape, orientation)
    responses = [ifft2(spectrum * f) for f in filters]
    amplitudes = [np.abs(r) for r in responses]
    amplitude, largest = np.add.reduce(amplitudes), np.maximum.reduce(amplitudes)
    total = np.add.reduce(responses)
    mean = total / (np.abs(total) + EPSILON)
    energy = np.zeros(spectrum.shape)
    for r in responses:
        energy += r.real * mean.real + r.imag * mean.imag
        energy -= np.abs(r.real * mean.imag - r.imag * mean.real)
    power = np.median(amplitudes[0] ** 2) / math.log(2) * noise
    tau = math.sqrt(power / 2)  # of the Rayleigh distribution of the noise's energy
    threshold = tau * math.sqrt(math.pi / 2) + NOISE * math.sqrt(2 - math.pi / 2) * tau
    energy = np.maximum(energy - threshold / 1.7, 0)
    width = amplitude / (largest + EPSILON) / SCALES
    return energy / (1 + np.exp((SPREAD - width) * GAIN)), amplitude


@lru_cache(maxsize=2 * ORIENTATIONS)
def _filters(shape: tuple[int, int], orientation: int) -> tuple[list[np.ndarray], float]:
    """Log-Gabor filters of each scale, and the energy of noise of power 1 at the smallest one."""
    from scipy.fft import ifft2

    y, x = (_axis(n) for n in shape)
    radius = np.hypot(y[:, None], x[None])
    radius[shape[0] // 2, shape[1] // 2] = 1  # its logarithm is finite; the filters are zero there
    theta = np.arctan2(-y[:, None], x[None])
    angle = orientation * math.pi / ORIENTATIONS
    across = np.sin(theta) * math.cos(angle) - np.cos(theta) * math.sin(angle)
    along = np.cos(theta) * math.cos(angle) + np.sin(theta) * math.sin(angle)
    angular = np.exp(-(np.arctan2(across, along) ** 2) / (2 * ANGULAR**2))
    rows, columns = ((np.arange(n) - n // 2) / n for n in shape)
    low_pass = 1 / (1 + (np.hypot(rows[:, None], columns[None]) / 0.45) ** 30)
    low_pass = np.fft.fftshift(low_pass)  # of an odd side by one place too far, as in the reference
    filters = []
    for scale in range(SCALES):
        frequency = 1 / (SHORTEST * RATIO**scale)
        radial = np.exp(-(np.log(radius / frequency) ** 2) / (2 * math.log(BANDWIDTH) ** 2))
        radial[shape[0] // 2, shape[1] // 2] = 0
        filters.append(np.fft.ifftshift(radial * angular) * low_pass)
    spatial = [ifft2(f).real * math.sqrt(f.size) for f in filters]
    squares = sum(float(np.vdot(f, f)) for f in spatial)
    products = sum(float(np.vdot(f, g)) for i, f in enumerate(spatial) for g in spatial[i + 1 :])
    return filters, (2 * squares + 4 * products) / float(np.vdot(filters[0], filters[0]))


def _axis(n: int) -> np.ndarray:
    """Frequencies of an axis with 0 in the middle, as Kovesi counts them: odd ones reach 1/2."""
    return (np.arange(n) - n // 2) / (n - 1 if n % 2 else n)
