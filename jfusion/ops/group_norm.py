"""Group normalization, with SiLU after it or not.

Jittor's own computes the variance as E[x^2] - E[x]^2, which has no correct digits when the mean is far from
zero; this subtracts the mean first.
"""

from __future__ import annotations

from jfusion.errors import UserError
from jfusion.ops.checks import check_count, check_divisible, check_float, check_shape
from jfusion.ops.kernels import Function, call_kernel, num_blocks, use_kernel
from jfusion.runtime import jt


def group_norm(
    x: jt.Var,
    groups: int,
    weight: jt.Var,
    bias: jt.Var,
    eps: float = 1e-5,
    silu: bool = False,
) -> jt.Var:
    """Normalizes each of `groups` groups of channels over its channels and pixels, with the biased variance.

    x (N, C, H, W) with C divisible by groups; weight and bias (C,), or (N, C) to scale and shift each sample
    in its own way -> (N, C, H, W). silu: the result y becomes y sigmoid(y). Raises UserError for other
    shapes, or inputs that are not all of one floating-point type.
    """
    _check("group_norm", x, groups, weight, bias)
    if not 0 < eps < float("inf"):
        raise UserError(f"group_norm: eps must be a finite number above 0, not {eps}")
    weight, bias = (v.reshape(-1, x.shape[1]) for v in (weight, bias))
    if use_kernel(x, weight, bias, cuda=True):
        return _GroupNorm(groups, eps, silu)(x, weight, bias)
    return group_norm_reference(x, groups, weight, bias, eps, silu)


def group_norm_reference(
    x: jt.Var,
    groups: int,
    weight: jt.Var,
    bias: jt.Var,
    eps: float = 1e-5,
    silu: bool = False,
) -> jt.Var:
    """`group_norm` from stock Jittor; the same shapes."""
    # rows first: a sum of all values in one float32 loses digits
    rows = x.reshape(x.shape[0], groups, -1, x.shape[3])
    centered = rows - rows.mean(3, keepdims=True).mean(2, keepdims=True)
    variance = (centered * centered).mean(3, keepdims=True).mean(2, keepdims=True)
    normal = (centered / jt.sqrt(variance + eps)).reshape(x.shape)
    weight, bias = (v.reshape(-1, x.shape[1], 1, 1) for v in (weight, bias))
    y = normal * weight + bias
    return y * jt.sigmoid(y) if silu else y


def _check(op: str, x: jt.Var, groups: int, weight: jt.Var, bias: jt.Var) -> None:
    """UserError unless the inputs are those that `group_norm` accepts."""
    check_float(op, x=x, weight=weight, bias=bias)
    check_shape(op, "x", x, ("N", "C", "H", "W"))
    n, c, _, _ = x.shape
    check_count(op, "groups", groups)
    check_divisible(op, "the channels of x", c, groups)
    for name, v in (("weight", weight), ("bias", bias)):
        if tuple(v.shape) not in ((c,), (1, c), (n, c)):
            raise UserError(
                f"{op}: {name} must be ({c},) or ({n}, {c}) for an input of {tuple(x.shape)}, "
                f"not {tuple(v.shape)}"
            )
    if weight.ndim != bias.ndim or weight.shape[0] != bias.shape[0]:
        raise UserError(
            f"{op}: weight and bias must be of one shape, not {tuple(weight.shape)} and {tuple(bias.shape)}"
        )


class _GroupNorm(Function):
    def __init__(self, groups: int, eps: float, silu: bool):
        super().__init__()
        self.settings = groups, eps, silu

    def execute(self, x: jt.Var, weight: jt.Var, bias: jt.Var) -> jt.Var:
        y, statistics = group_norm_forward(x, weight, bias, *self.settings)
        self.saved = x, weight, bias, statistics
        return y

    def grad(self, g: jt.Var) -> tuple[jt.Var, jt.Var, jt.Var]:
        return group_norm_backward(*self.saved, g, self.settings[2])


_SIZES = "x_shape0, x_shape1, (int64)x_shape2*x_shape3, statistics_shape1, "
_MODE = 'data["silu"], weight_shape0 > 1)'


def group_norm_forward(
    x: jt.Var,
    weight: jt.Var,
    bias: jt.Var,
    groups: int,
    eps: float,
    silu: bool,
    depends_on: jt.Var | None = None,
) -> tuple[jt.Var, jt.Var]:
    """The kernel of `group_norm`, without its gradient; weight and bias (1, C) or (N, C).

    Returns the result (N, C, H, W), and the mean and 1/std of each group (N, groups, 2). depends_on: see
    `call_kernel`.
    """
    n = x.shape[0]
    inputs = {"x": x, "weight": weight, "bias": bias}
    outputs = {"y": x.shape, "statistics": (n, groups, 2)}
    data = {"eps": eps, "silu": silu}
    if not jt.flags.use_cuda:
        return call_kernel(
            "group_norm_forward(x_p, weight_p, bias_p, y_p, statistics_p, "
            f'{_SIZES}data["eps"], {_MODE}',
            inputs,
            outputs,
            cpu="group_norm.h",
            data=data,
            depends_on=depends_on,
        )
    blocks = num_blocks(x.numel() // (n * groups))
    y, statistics, _ = call_kernel(
        "group_norm_forward(x_p, weight_p, bias_p, y_p, statistics_p, parts_p, "
        f'{_SIZES}parts_shape0, data["eps"], {_MODE}',
        inputs,
        {**outputs, "parts": (blocks, n * groups, 3)},
        cuda="group_norm.cuh",
        data=data,
        depends_on=depends_on,
    )
    return y, statistics


def group_norm_backward(
    x: jt.Var, weight: jt.Var, bias: jt.Var, statistics: jt.Var, g: jt.Var, silu: bool
) -> tuple[jt.Var, jt.Var, jt.Var]:
    """The gradients of x, weight and bias from g (N, C, H, W), that of `group_norm_forward`'s result."""
    backward = _backward_cuda if jt.flags.use_cuda else _backward
    inputs = {"x": x, "weight": weight, "bias": bias, "statistics": statistics, "g": g}
    d_x, *per_sample = backward(inputs, silu)
    if weight.shape[0] == 1:
        per_sample = [v.sum(0, keepdims=True) for v in per_sample]
    return d_x, *per_sample


def _backward(inputs: dict[str, jt.Var], silu: bool) -> tuple[jt.Var, jt.Var, jt.Var]:
    """The gradients of x, and of weight and bias for each sample (N, C)."""
    x = inputs["x"]
    return call_kernel(
        "group_norm_backward(x_p, weight_p, bias_p, statistics_p, g_p, d_x_p, d_weight_p, d_bias_p, "
        f"{_SIZES}{_MODE}",
        inputs,
        {"d_x": x.shape, "d_weight": x.shape[:2], "d_bias": x.shape[:2]},
        cpu="group_norm.h",
        data={"silu": silu},
    )


def _backward_cuda(inputs: dict[str, jt.Var], silu: bool) -> tuple[jt.Var, jt.Var, jt.Var]:
    """The gradients of x, and of weight and bias for each sample (N, C)."""
    x, groups = inputs["x"], inputs["statistics"].shape[1]
    n, c, h, w = x.shape
    d_weight_and_bias = call_kernel(
        "group_norm_backward_weight(x_p, weight_p, bias_p, statistics_p, g_p, parts_p, "
        f"{_SIZES}parts_shape1, {_MODE}",
        inputs,
        {"parts": (2, num_blocks(h * w), n, c)},
        cuda="group_norm.cuh",
        data={"silu": silu},
    ).sum(1)
    sums = (d_weight_and_bias * inputs["weight"]).reshape(2, n, groups, -1).sum(3)
    d_x = call_kernel(
        "group_norm_backward_x(x_p, weight_p, bias_p, statistics_p, g_p, means_p, d_x_p, "
        f"{_SIZES}{_MODE}",
        {**inputs, "means": sums / (c // groups * h * w)},
        {"d_x": x.shape},
        cuda="group_norm.cuh",
        data={"silu": silu},
    )
    return d_x, *d_weight_and_bias
