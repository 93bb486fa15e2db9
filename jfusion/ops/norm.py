"""Layer and batch normalization.

Jittor's own compute the variance as E[x^2] - E[x]^2, which has no correct digits when the mean is far from
zero; these subtract the mean first.
"""

from __future__ import annotations

from collections.abc import Callable

from jfusion.errors import counted
from jfusion.ops.checks import check_float, check_shape, once_per_shape
from jfusion.ops.kernels import Function, call_kernel, num_blocks, use_kernel
from jfusion.runtime import jt


def channel_layer_norm(x: jt.Var, weight: jt.Var, bias: jt.Var) -> jt.Var:
    """Normalizes each pixel over its channels, with the biased variance and epsilon 1e-5 inside the root.

    x (N, C, H, W), weight and bias (C,) -> (N, C, H, W). Raises UserError for other shapes, or inputs that
    are not all of one floating-point type.
    """
    _check("channel_layer_norm", x, weight=weight, bias=bias)
    if use_kernel(x, weight, bias, cuda=True):
        return _ChannelLayerNorm()(x, weight, bias)
    return channel_layer_norm_reference(x, weight, bias)


def channel_layer_norm_reference(x: jt.Var, weight: jt.Var, bias: jt.Var) -> jt.Var:
    """`channel_layer_norm` from stock Jittor: x (N, C, H, W), weight and bias (C,)."""
    centered = x - x.mean(1, keepdims=True)
    variance = (centered * centered).mean(1, keepdims=True)
    normal = centered / jt.sqrt(variance + 1e-5)
    return normal * weight.reshape(1, -1, 1, 1) + bias.reshape(1, -1, 1, 1)


def leaky_batch_norm(
    x: jt.Var, weight: jt.Var, bias: jt.Var, mean: jt.Var, var: jt.Var, average: Callable
) -> jt.Var:
    """LeakyReLU with slope 0.2 of the batch-normalized x.

    x (N, C, H, W), weight, bias, mean and var (C,) -> (N, C, H, W). mean and var are those of the batch, over
    all processes that share it, and are passed in because the caller keeps their running averages. The
    gradient of x flows through them all the same, as they are functions of x. average: a function that takes
    a (2, C) Var and returns its mean over these processes. Epsilon is 1e-5. Raises UserError for other
    shapes, or inputs that are not all of one floating-point type.
    """
    _check("leaky_batch_norm", x, weight=weight, bias=bias, mean=mean, var=var)
    inverse = 1 / jt.sqrt(var.detach() + 1e-5)
    return _LeakyBatchNorm(average)(x, weight, bias, mean.detach(), inverse)


@once_per_shape
def _check(op: str, x: jt.Var, **per_channel: jt.Var) -> None:
    check_float(op, x=x, **per_channel)
    check_shape(op, "x", x, ("N", "C", "H", "W"))
    c = x.shape[1]
    for name, v in per_channel.items():
        check_shape(op, name, v, (c,), f"for an input of {counted(c, 'channel')}")


class _LeakyBatchNorm(Function):
    """Keeps only x for the gradient; with stock operations every intermediate result would be kept."""

    def __init__(self, average: Callable):
        self.average = average

    def execute(
        self, x: jt.Var, weight: jt.Var, bias: jt.Var, mean: jt.Var, inverse: jt.Var
    ) -> jt.Var:
        self.saved = x, weight, bias, mean, inverse
        scale = (weight * inverse).reshape(1, -1, 1, 1)
        y = (x - mean.reshape(1, -1, 1, 1)) * scale + bias.reshape(1, -1, 1, 1)
        return jt.maximum(y, 0.2 * y)

    def grad(self, g: jt.Var) -> tuple[jt.Var | None, ...]:
        x, weight, bias, mean, inverse = (
            v if v.ndim == 4 else v.reshape(1, -1, 1, 1) for v in self.saved
        )
        g = g * jt.ternary((x - mean) * inverse * weight + bias > 0, 1.0, 0.2)
        normal = (x - mean) * inverse

        def channel_mean(v: jt.Var) -> jt.Var:
            return v.mean(3).mean(2).mean(0)

        means = jt.stack([channel_mean(g), channel_mean(g * normal)], 0)
        mean_g, mean_g_normal = (v.reshape(1, -1, 1, 1) for v in self.average(means))
        d_x = weight * inverse * (g - mean_g - normal * mean_g_normal)
        pixels = x.shape[0] * x.shape[2] * x.shape[3]
        return d_x, means[1] * pixels, means[0] * pixels, None, None


class _ChannelLayerNorm(Function):
    def execute(self, x: jt.Var, weight: jt.Var, bias: jt.Var) -> jt.Var:
        y, statistics = norm_forward(x, weight, bias)
        self.saved = x, weight, statistics
        return y

    def grad(self, g: jt.Var) -> tuple[jt.Var, jt.Var, jt.Var]:
        return norm_backward(*self.saved, g)


_SIZES = "x_shape0, x_shape1, (int64)x_shape2*x_shape3"


def norm_forward(
    x: jt.Var, weight: jt.Var, bias: jt.Var, depends_on: jt.Var | None = None
) -> tuple[jt.Var, jt.Var]:
    """The kernel of `channel_layer_norm`, without its gradient.

    Returns the result (N, C, H, W), and the mean and 1/std of each pixel (N, 2, H, W). depends_on: see
    `call_kernel`.
    """
    n, _, h, w = x.shape
    return call_kernel(
        f"layer_norm_forward(x_p, weight_p, bias_p, y_p, statistics_p, {_SIZES})",
        {"x": x, "weight": weight, "bias": bias},
        {"y": x.shape, "statistics": (n, 2, h, w)},
        cpu="norm.h",
        cuda="norm.cuh",
        depends_on=depends_on,
    )


def norm_backward(
    x: jt.Var, weight: jt.Var, statistics: jt.Var, g: jt.Var
) -> tuple[jt.Var, jt.Var, jt.Var]:
    """The gradients of x, weight and bias from g (N, C, H, W), that of `norm_forward`'s result."""
    inputs = {"x": x, "weight": weight, "statistics": statistics, "g": g}
    if not jt.flags.use_cuda:
        return call_kernel(
            "layer_norm_backward(x_p, weight_p, statistics_p, g_p, d_x_p, d_weight_p, d_bias_p, "
            f"{_SIZES})",
            inputs,
            {"d_x": x.shape, "d_weight": weight.shape, "d_bias": weight.shape},
            cpu="norm.h",
        )
    c = x.shape[1]
    d_x, parts = call_kernel(
        f"layer_norm_backward(x_p, weight_p, statistics_p, g_p, d_x_p, parts_p, {_SIZES}, parts_shape0)",
        inputs,
        {"d_x": x.shape, "parts": (num_blocks(x.numel() // c), 2, c)},
        cuda="norm.cuh",
    )
    d_weight, d_bias = parts.sum(0)
    return d_x, d_weight, d_bias
