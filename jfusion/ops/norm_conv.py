"""GroupNorm, SiLU, dropout and a convolution in one operator that keeps only its input for the gradient.

The results between the input and the convolution are as large as the input and quick to compute, compared
with the convolution; the gradient computes them again.
"""

from __future__ import annotations

from jfusion.errors import UserError, counted
from jfusion.ops.checks import check_count, check_divisible, check_float, check_shape
from jfusion.ops.conv import conv_backward, conv_forward, conv_reference
from jfusion.ops.group_norm import group_norm, group_norm_backward, group_norm_forward
from jfusion.ops.kernels import Function, call_kernel, use_kernel
from jfusion.runtime import jt

EPS = 1e-5


def norm_silu_conv(
    x: jt.Var,
    groups: int,
    norm: tuple[jt.Var, jt.Var],
    conv: tuple[jt.Var, jt.Var],
    drop_probability: float = 0.0,
) -> jt.Var:
    """conv(dropout(silu(group_norm(x)))) with stride 1 and zero padding.

    x (N, C, H, W); norm: weight and bias (C,); conv: weight (O, C, K, K) with K odd, and bias (O,) ->
    (N, O, H, W). Raises UserError for other shapes, or inputs that are not all of one floating-point type.
    """
    _check("norm_silu_conv", x, groups, norm, conv)
    _check_probability("norm_silu_conv", "drop_probability", drop_probability)
    scale, shift = (v.reshape(1, -1) for v in norm)
    seed = jt.rand(1) if drop_probability else jt.zeros(1)
    if not use_kernel(x, scale, conv[0]):
        y = group_norm(x, groups, scale, shift, EPS, silu=True)
        return conv_reference(_Dropout(drop_probability)(y, seed) if drop_probability else y, *conv)
    return _NormSiLUConv(groups, drop_probability)(x, scale, shift, *conv, seed)


def _check(
    op: str, x: jt.Var, groups: int, norm: tuple[jt.Var, jt.Var], conv: tuple[jt.Var, jt.Var]
) -> None:
    (scale, shift), (weight, bias) = norm, conv
    check_float(op, x=x, norm_weight=scale, norm_bias=shift, conv_weight=weight, conv_bias=bias)
    check_shape(op, "x", x, ("N", "C", "H", "W"))
    c = x.shape[1]
    check_count(op, "groups", groups)
    check_divisible(op, "the channels of x", c, groups)
    check_shape(op, "norm_weight", scale, (c,), f"for an input of {counted(c, 'channel')}")
    check_shape(op, "norm_bias", shift, (c,), f"for an input of {counted(c, 'channel')}")
    check_shape(
        op, "conv_weight", weight, ("O", c, "K", "K"), f"for an input of {counted(c, 'channel')}"
    )
    o, _, k, _ = weight.shape
    if k % 2 == 0:
        raise UserError(f"{op}: conv_weight must have kernels of an odd size, not {k} x {k}")
    check_shape(op, "conv_bias", bias, (o,), f"for an output of {counted(o, 'channel')}")


def _check_probability(op: str, name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise UserError(f"{op}: {name} must be at least 0 and below 1, not {value}")


class _NormSiLUConv(Function):
    def __init__(self, groups: int, drop_probability: float):
        super().__init__()
        self.groups, self.drop_probability = groups, drop_probability

    def execute(
        self,
        x: jt.Var,
        scale: jt.Var,
        shift: jt.Var,
        weight: jt.Var,
        bias: jt.Var,
        seed: jt.Var,
    ) -> jt.Var:
        self.saved = x, scale, shift, weight, seed
        y, _ = group_norm_forward(x, scale, shift, self.groups, EPS, silu=True)
        return conv_forward(self._dropout(y, seed), weight, bias)

    def grad(self, g: jt.Var) -> tuple[jt.Var | None, ...]:
        x, scale, shift, weight, seed = self.saved
        y, statistics = group_norm_forward(
            x, scale, shift, self.groups, EPS, silu=True, depends_on=g
        )
        d_y, d_weight, d_bias = conv_backward(self._dropout(y, seed), weight, g)
        d_y = self._dropout(d_y, seed)
        d_norm = group_norm_backward(x, scale, shift, statistics, d_y, silu=True)
        return *d_norm, d_weight, d_bias, None

    def _dropout(self, x: jt.Var, seed: jt.Var) -> jt.Var:
        return dropout(x, seed, self.drop_probability) if self.drop_probability else x


class _Dropout(Function):
    def __init__(self, probability: float):
        super().__init__()
        self.probability = probability

    def execute(self, x: jt.Var, seed: jt.Var) -> jt.Var:
        self.saved = seed
        return dropout(x, seed, self.probability)

    def grad(self, g: jt.Var) -> tuple[jt.Var, None]:
        return dropout(g, self.saved, self.probability), None


def dropout(x: jt.Var, seed: jt.Var, probability: float) -> jt.Var:
    """Sets values of x to 0 with this probability, and divides the others by 1 - probability.

    x of any shape; seed (1,) float32, which alone decides which values are dropped: the gradient takes the
    same seed, and nothing else need be kept. Raises UserError for another probability than 0 <= p < 1.
    """
    check_float("dropout", x=x)
    check_float("dropout", seed=seed)
    check_shape("dropout", "seed", seed, (1,))
    _check_probability("dropout", "probability", probability)
    return call_kernel(
        'dropout(x_p, seed_p, y_p, x->num, data["probability"])',
        {"x": x, "seed": seed},
        {"y": x.shape},
        cpu="dropout.h",
        cuda="dropout.cuh",
        data={"probability": probability},
    )
