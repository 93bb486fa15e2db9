"""Losses that systems share, as the authors compute them.

Every mean is taken over the rows first: Jittor's sum over thousands of float32 values loses two
digits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jfusion.errors import UserError
from jfusion.ops.activation import absolute
from jfusion.ops.filters import gaussian_window, separable, sobel_magnitude, sobel_pair
from jfusion.ops.resize import pad
from jfusion.runtime import jt


def fusion_loss(
    a: jt.Var, b: jt.Var, fused: jt.Var, gradient_weight: float
) -> tuple[jt.Var, jt.Var, jt.Var]:
    """Returns FILM's Fusionloss as three scalars: total, intensity and gradient (FILM, equation 6).

    intensity = mean |max(a, b) - fused| and gradient = mean |max(S(a), S(b)) - S(fused)|, where S is
    the sum of the absolute Sobel responses; total = intensity + gradient_weight * gradient. CDDFuse
    and SFDFuse train their second phase with it.

    a (N, C, H, W), of which only the first channel counts; b and fused (N, 1, H, W); all in [0, 1].
    Raises UserError for more channels of b or fused.
    """
    a = a[:, :1]
    if b.shape[1] != 1 or fused.shape[1] != 1:
        raise UserError(
            f"the fusion loss needs single-channel images, not {b.shape} and {fused.shape}"
        )
    intensity = _mean(absolute(jt.maximum(a, b) - fused))
    target = jt.maximum(sobel_magnitude(a), sobel_magnitude(b))
    gradient = _mean(absolute(target - sobel_magnitude(fused)))
    return intensity + gradient_weight * gradient, intensity, gradient


def guided_fusion_losses(
    a: jt.Var,
    b: jt.Var,
    fused: jt.Var,
    target: jt.Var,
    weights: tuple[float, float, float],
    average: Callable[[jt.Var], jt.Var] = lambda v: v,
) -> dict[str, jt.Var]:
    """Returns LFDT-Fusion's Fusion_loss as scalars "ssim", "gradient" and "intensity", weighted.

    ssim = 1 - w SSIM(a, fused) - (1 - w) SSIM(b, fused), w = mean S(a) / (mean S(a) + mean S(b));
    gradient = mean |max(S(a), S(b)) - S(fused)|; intensity = mean |fused - target|; S is the sum of
    the absolute Sobel responses.

    a, b, fused, target (N, 1, H, W) in [0, 1]; weights: those of the three, in this order; average:
    the mean of a scalar over the processes that share the batch.
    """
    sobel_a, sobel_b, sobel_fused = (sobel_magnitude(x) for x in (a, b, fused))
    mean_a, mean_b = (average(_mean(x)) for x in (sobel_a, sobel_b))
    weight_a = mean_a / jt.maximum(mean_a + mean_b, 1e-12)
    ssim_a, ssim_b = (_mean(ssim_map(x, fused, 11)) for x in (a, b))
    return {
        "ssim": weights[0] * (1 - weight_a * ssim_a - (1 - weight_a) * ssim_b),
        "gradient": weights[1] * _mean(absolute(jt.maximum(sobel_a, sobel_b) - sobel_fused)),
        "intensity": weights[2] * _mean(absolute(fused - target)),
    }


def lp_ssim_loss(x: jt.Var, fused: jt.Var, weight: float) -> tuple[jt.Var, jt.Var, jt.Var]:
    """Returns FILM's Lp / SSIM loss as three scalars: their sum, Lp, and weight * (1 - SSIM).

    Lp is the L2 norm of x - fused over the whole batch, not a mean. x, fused (N, 1, H, W) in
    [0, 1].
    """
    difference = x - fused
    lp = jt.sqrt((difference * difference).sum(-1).sum())
    ssim = weight * (1 - _mean(ssim_map(x, fused)))
    return lp + ssim, lp, ssim


def mean_squared_error(x: jt.Var, y: jt.Var) -> jt.Var:
    """Returns mean (x - y)^2, a scalar; x, y of one shape."""
    return _mean((x - y) ** 2)


# ---- structural similarity ---------------------------------------------------------------------


def ssim_map(x: jt.Var, y: jt.Var, size: int = 5, sigma: float = 1.5) -> jt.Var:
    """Computes the SSIM of each pixel: Gaussian window, zero padding, population moments.

    x, y (N, 1, H, W) in [0, 1] -> the same shape, in [-1, 1].
    """
    return _ssim(*separable(_moments(x, y), gaussian_window(size, sigma)).chunk(5, 1))


def reflected_ssim_map(x: jt.Var, y: jt.Var, size: int = 11, sigma: float = 1.5) -> jt.Var:
    """Computes the SSIM of each pixel as kornia does: Gaussian window, reflection padding.

    x, y (N, 1, H, W) in [0, 1], each side longer than size / 2 -> the same shape, in [-1, 1].
    """
    radius = size // 2
    h, w = x.shape[2:]
    filtered = separable(pad(_moments(x, y), radius, "reflect"), _kornia_window(size, sigma))
    return _ssim(*filtered[:, :, radius : radius + h, radius : radius + w].chunk(5, 1))


def _kornia_window(size: int, sigma: float) -> np.ndarray:
    """A Gaussian window that is normalized in float32, as kornia's.

    Its sum is 3e-8 short of 1 for the default size, which moves the SSIM loss by 1e-6.
    """
    x = np.arange(size) - size // 2
    window = np.exp(np.float32(-(x**2) / (2 * sigma**2)), dtype=np.float64).astype(np.float32)
    return window / window.sum(dtype=np.float64).astype(np.float32)


def _moments(x: jt.Var, y: jt.Var) -> jt.Var:
    """What a window averages for the SSIM of x and y (N, 1, H, W): (N, 5, H, W)."""
    return jt.concat([x, y, x * x, y * y, x * y], 1)


def _ssim(mx: jt.Var, my: jt.Var, xx: jt.Var, yy: jt.Var, xy: jt.Var) -> jt.Var:
    """SSIM (Wang et al., 2004, equation 13) from the windows' averages of x, y, x^2, y^2 and xy."""
    c1, c2 = 0.01**2, 0.03**2
    numerator = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2)
    return numerator / ((mx * mx + my * my + c1) * (xx - mx * mx + yy - my * my + c2))


def kornia_ssim_loss(x: jt.Var, y: jt.Var) -> jt.Var:
    """Returns mean(clamp(1 - SSIM, 0, 1) / 2), the SSIM loss of kornia before 0.5 (CDDFuse).

    x, y (N, 1, H, W) in [0, 1] -> a scalar in [0, 0.5].
    """
    return _mean(jt.clamp(1 - reflected_ssim_map(x, y), 0, 1)) / 2


def halved_ssim_loss(x: jt.Var, y: jt.Var) -> jt.Var:
    """Returns mean(clamp((1 - SSIM) / 2, 0, 1)), the SSIM loss of kornia since 0.5 (SFDFuse).

    x, y (N, 1, H, W) in [0, 1] -> a scalar in [0, 1].
    """
    return _mean(jt.clamp((1 - reflected_ssim_map(x, y)) / 2, 0, 1))


# ---- gradients and correlation -----------------------------------------------------------------


def spatial_gradient_loss(x: jt.Var, y: jt.Var) -> jt.Var:
    """Returns the mean absolute difference of the normalized Sobel derivatives of x and y.

    x, y (N, 1, H, W) -> a scalar.
    """
    return _mean(absolute(sobel_pair(x) - sobel_pair(y)))


def correlation(x: jt.Var, y: jt.Var) -> jt.Var:
    """Returns Pearson's correlation over the pixels of a channel; the mean over all channels.

    x, y (N, C, H, W) -> a scalar in [-1, 1]. A constant channel counts as 0 and has no gradient (the
    reference's is NaN).
    """
    means = [v.mean(3, keepdims=True).mean(2, keepdims=True) for v in (x, y)]
    pixels = x.shape[2] * x.shape[3]
    x, y = (v - m for v, m in zip((x, y), means, strict=True))
    xx, yy, xy = ((u * v).sum(3).sum(2) for u, v in ((x, x), (y, y), (x, y)))
    # What rounding leaves of a constant channel is no structure.
    noise = [((1e-6 * m) ** 2).reshape(xx.shape).detach() * pixels + 1e-30 for m in means]
    varies = jt.logical_and(xx > noise[0], yy > noise[1])
    norms = jt.sqrt(jt.maximum(xx, noise[0])) * jt.sqrt(jt.maximum(yy, noise[1]))
    values = jt.clamp(xy / (1.1920929e-07 + norms), -1, 1)
    return jt.ternary(varies, values, jt.zeros_like(values)).mean()


def decomposition_loss(base: tuple[jt.Var, jt.Var], detail: tuple[jt.Var, jt.Var]) -> jt.Var:
    """Returns CC(details)^2 / (1.01 + CC(bases)): bases alike, details unlike (CDDFuse, equation 8).

    base, detail: the feature maps (N, C, H, W) of the two images.
    """
    return correlation(*detail) ** 2 / (1.01 + correlation(*base))


def _mean(x: jt.Var) -> jt.Var:
    """The mean of all values, rows first."""
    return x.mean(-1).mean()
