"""Losses that systems share, as the authors compute them."""

from __future__ import annotations

from jfusion.errors import UserError
from jfusion.layers.filters import gaussian_window, separable, sobel_magnitude
from jfusion.runtime import jt


def fusion_loss(
    a: jt.Var, b: jt.Var, fused: jt.Var, gradient_weight: float, target: str = "max"
) -> tuple[jt.Var, jt.Var, jt.Var]:
    """FILM's Fusionloss: (total, intensity, gradient).

    intensity = mean |target - fused|, gradient = mean |max(S(a), S(b)) - S(fused)| with S the sum
    of absolute Sobel responses; total = intensity + gradient_weight * gradient. a (N, C, H, W), of
    which only the first channel counts; b and fused (N, 1, H, W). target: "max" or "mean" of a, b.
    """
    a = a[:, :1]
    if b.shape[1] != 1 or fused.shape[1] != 1:
        raise UserError(
            f"the fusion loss takes single-channel images, not {b.shape} and {fused.shape}"
        )
    goal = jt.maximum(a, b) if target == "max" else (a + b) / 2
    intensity = jt.abs(goal - fused).mean()
    gradient = jt.abs(
        jt.maximum(sobel_magnitude(a), sobel_magnitude(b)) - sobel_magnitude(fused)
    ).mean()
    return intensity + gradient_weight * gradient, intensity, gradient


def ssim_map(x: jt.Var, y: jt.Var, size: int = 5, sigma: float = 1.5) -> jt.Var:
    """SSIM of each pixel for images in [0, 1]: Gaussian window, zero padding, population moments.

    x, y (N, 1, H, W) -> the same shape.
    """
    maps = jt.concat([x, y, x * x, y * y, x * y], 1)
    mx, my, xx, yy, xy = separable(maps, gaussian_window(size, sigma)).chunk(5, 1)
    c1, c2 = 0.01**2, 0.03**2
    numerator = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2)
    return numerator / ((mx * mx + my * my + c1) * (xx - mx * mx + yy - my * my + c2))


def lp_ssim_loss(x: jt.Var, fused: jt.Var, weight: float) -> tuple[jt.Var, jt.Var, jt.Var]:
    """FILM's Lp / SSIM loss: (sum, Lp, weighted 1 - SSIM).

    Lp is the L2 norm of x - fused over the whole batch, not a mean. x, fused (N, 1, H, W).
    """
    difference = x - fused
    lp = jt.sqrt((difference * difference).sum())
    ssim = weight * (1 - ssim_map(x, fused).mean())
    return lp + ssim, lp, ssim
