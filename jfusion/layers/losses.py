"""Losses that systems share, as the authors compute them."""

from __future__ import annotations

from collections.abc import Callable

from jfusion.errors import UserError
from jfusion.ops.activation import absolute
from jfusion.ops.filters import gaussian_window, separable, sobel_magnitude, sobel_pair
from jfusion.ops.resize import pad
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
    intensity = absolute(goal - fused).mean()
    gradient = absolute(
        jt.maximum(sobel_magnitude(a), sobel_magnitude(b)) - sobel_magnitude(fused)
    ).mean()
    return intensity + gradient_weight * gradient, intensity, gradient


def guided_fusion_losses(
    a: jt.Var,
    b: jt.Var,
    fused: jt.Var,
    goal: jt.Var,
    weights: tuple[float, float, float],
    average: Callable[[jt.Var], jt.Var] = lambda v: v,
) -> dict[str, jt.Var]:
    """LFDT-Fusion's Fusion_loss: ssim, gradient, intensity, each with its weight.

    ssim = 1 - SSIM with a and with b, by their shares of the gradient; gradient = mean |max(S(a), S(b)) -
    S(fused)|; intensity = mean |fused - goal|. All (N, 1, H, W). average: of the shares, over processes.
    """
    of_a, of_b, of_f = (sobel_magnitude(x) for x in (a, b, fused))
    mean_a, mean_b = (average(_mean(x)) for x in (of_a, of_b))
    share = mean_a / jt.maximum(mean_a + mean_b, 1e-12)
    alike_a, alike_b = (_mean(ssim_map(x, fused, 11)) for x in (a, b))
    return {
        "ssim": weights[0] * (1 - share * alike_a - (1 - share) * alike_b),
        "gradient": weights[1] * _mean(absolute(jt.maximum(of_a, of_b) - of_f)),
        "intensity": weights[2] * _mean(absolute(fused - goal)),
    }


def ssim_map(x: jt.Var, y: jt.Var, size: int = 5, sigma: float = 1.5) -> jt.Var:
    """SSIM of each pixel for images in [0, 1]: Gaussian window, zero padding, population moments.

    x, y (N, 1, H, W) -> the same shape.
    """
    maps = jt.concat([x, y, x * x, y * y, x * y], 1)
    mx, my, xx, yy, xy = separable(maps, gaussian_window(size, sigma)).chunk(5, 1)
    c1, c2 = 0.01**2, 0.03**2
    numerator = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2)
    return numerator / ((mx * mx + my * my + c1) * (xx - mx * mx + yy - my * my + c2))


def reflected_ssim_map(x: jt.Var, y: jt.Var, size: int = 11, sigma: float = 1.5) -> jt.Var:
    """SSIM of each pixel as kornia computes it: Gaussian window, images reflected at the border.

    x, y (N, 1, H, W) in [0, 1], longer than size / 2 -> the same shape.
    """
    reach = size // 2
    maps = jt.concat([x, y, x * x, y * y, x * y], 1)
    filtered = separable(pad(maps, reach, "reflect"), gaussian_window(size, sigma))
    inner = filtered[:, :, reach : reach + x.shape[2], reach : reach + x.shape[3]]
    mx, my, xx, yy, xy = inner.chunk(5, 1)
    c1, c2 = 0.01**2, 0.03**2
    numerator = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2)
    return numerator / ((mx * mx + my * my + c1) * (xx - mx * mx + yy - my * my + c2))


def kornia_ssim_loss(x: jt.Var, y: jt.Var) -> jt.Var:
    """mean(clamp(1 - SSIM, 0, 1) / 2), the SSIM loss of kornia before 0.5 (CDDFuse)."""
    return _mean(jt.clamp(1 - reflected_ssim_map(x, y), 0, 1)) / 2


def halved_ssim_loss(x: jt.Var, y: jt.Var) -> jt.Var:
    """mean(clamp((1 - SSIM) / 2, 0, 1)), the SSIM loss of kornia since 0.5 (SFDFuse)."""
    return _mean(jt.clamp((1 - reflected_ssim_map(x, y)) / 2, 0, 1))


def spatial_gradient_loss(x: jt.Var, y: jt.Var) -> jt.Var:
    """Mean absolute difference of the normalised Sobel derivatives of x and y (N, 1, H, W)."""
    return _mean(absolute(sobel_pair(x) - sobel_pair(y)))


def correlation(x: jt.Var, y: jt.Var) -> jt.Var:
    """Pearson's correlation over the pixels of each channel, clamped to [-1, 1]; its mean.

    x, y (N, C, H, W). A constant channel counts 0, and has no gradient (the reference's is NaN).
    """
    means = [v.mean(3, keepdims=True).mean(2, keepdims=True) for v in (x, y)]
    pixels = x.shape[2] * x.shape[3]
    x, y = (v - m for v, m in zip((x, y), means, strict=True))
    xx, yy, xy = ((u * v).sum(3).sum(2) for u, v in ((x, x), (y, y), (x, y)))
    # what rounding leaves of a constant channel is no structure
    noise = [((1e-6 * m) ** 2).reshape(xx.shape).detach() * pixels + 1e-30 for m in means]
    seen = jt.logical_and(xx > noise[0], yy > noise[1])
    norms = jt.sqrt(jt.maximum(xx, noise[0])) * jt.sqrt(jt.maximum(yy, noise[1]))
    values = jt.clamp(xy / (1.1920929e-07 + norms), -1, 1)
    return jt.ternary(seen, values, jt.zeros_like(values)).mean()


def decomposition_loss(base: tuple[jt.Var, jt.Var], detail: tuple[jt.Var, jt.Var]) -> jt.Var:
    """cc(details)^2 / (1.01 + cc(bases)): bases alike, details unlike (CDDFuse, equation 8)."""
    return correlation(*detail) ** 2 / (1.01 + correlation(*base))


def _mean(x: jt.Var) -> jt.Var:
    """The mean, rows first: Jittor's sum over thousands of float32 values loses two digits."""
    return x.mean(-1).mean()


def lp_ssim_loss(x: jt.Var, fused: jt.Var, weight: float) -> tuple[jt.Var, jt.Var, jt.Var]:
    """FILM's Lp / SSIM loss: (sum, Lp, weighted 1 - SSIM).

    Lp is the L2 norm of x - fused over the whole batch, not a mean. x, fused (N, 1, H, W).
    """
    difference = x - fused
    lp = jt.sqrt((difference * difference).sum())
    ssim = weight * (1 - ssim_map(x, fused).mean())
    return lp + ssim, lp, ssim
