"""1x1 convolution then depthwise 3x3, alone or followed by the GELU gate and another 1x1.

The hidden maps are four to eight times as wide as the features and are needed only a few rows at a
time. The kernels compute a few of their channels for a band of rows, use them while they are in the cache,
and never write them to memory; the gradient computes them again from the input instead of keeping them.
"""

from __future__ import annotations

from jfusion.errors import counted
from jfusion.ops.activation import gelu_gate
from jfusion.ops.checks import check_divisible, check_float, check_shape, once_per_shape
from jfusion.ops.conv import conv1x1, depthwise3x3
from jfusion.ops.kernels import Function, call_kernel, use_kernel
from jfusion.ops.norm import channel_layer_norm, norm_backward, norm_forward
from jfusion.runtime import jt


def expand_depthwise(x: jt.Var, expand: jt.Var, depthwise: jt.Var) -> jt.Var:
    """depthwise3x3(conv1x1(x)): x (N, C, H, W), expand (D, C, 1, 1), depthwise (D, 1, 3, 3) -> (N, D, H, W).

    Raises UserError for other shapes, or inputs that are not all of one floating-point type.
    """
    _check("expand_depthwise", x, expand, depthwise)
    if use_kernel(x, expand, depthwise):
        return _ExpandDepthwise()(x, expand, depthwise)
    return expand_depthwise_reference(x, expand, depthwise)


def expand_depthwise_reference(x: jt.Var, expand: jt.Var, depthwise: jt.Var) -> jt.Var:
    """`expand_depthwise` in two operations; the same shapes."""
    return depthwise3x3(conv1x1(x, expand), depthwise)


def gated_feed_forward(
    x: jt.Var, norm: tuple[jt.Var, jt.Var], expand: jt.Var, depthwise: jt.Var, project: jt.Var
) -> jt.Var:
    """conv1x1(gelu_gate(depthwise3x3(conv1x1(channel_layer_norm(x))))), as in Restormer (equation 2).

    x (N, C, H, W), norm: weight and bias (C,), expand (2D, C, 1, 1), depthwise (2D, 1, 3, 3), project
    (O, D, 1, 1) -> (N, O, H, W). Raises UserError for other shapes, or inputs that are not all of one
    floating-point type.
    """
    op = "gated_feed_forward"
    weight, bias = norm
    check_float(
        op,
        x=x,
        norm_weight=weight,
        norm_bias=bias,
        expand=expand,
        depthwise=depthwise,
        project=project,
    )
    _check(op, x, expand, depthwise)
    c, hidden = x.shape[1], expand.shape[0]
    check_shape(op, "norm_weight", weight, (c,), f"for an input of {counted(c, 'channel')}")
    check_shape(op, "norm_bias", bias, (c,), f"for an input of {counted(c, 'channel')}")
    check_divisible(op, "the channels of expand", hidden, 2)
    expected = ("O", hidden // 2, 1, 1)
    check_shape(op, "project", project, expected, f"for {hidden} expanded channels")
    if use_kernel(x, *norm, expand, depthwise, project):
        return _GatedFeedForward()(x, *norm, expand, depthwise, project)
    return gated_feed_forward_reference(x, norm, expand, depthwise, project)


def gated_feed_forward_reference(
    x: jt.Var, norm: tuple[jt.Var, jt.Var], expand: jt.Var, depthwise: jt.Var, project: jt.Var
) -> jt.Var:
    """`gated_feed_forward` operation by operation; the same shapes."""
    hidden = expand_depthwise_reference(channel_layer_norm(x, *norm), expand, depthwise)
    return conv1x1(gelu_gate(hidden), project)


@once_per_shape
def _check(op: str, x: jt.Var, expand: jt.Var, depthwise: jt.Var) -> None:
    """UserError unless the shapes are those that `expand_depthwise` accepts."""
    check_float(op, x=x, expand=expand, depthwise=depthwise)
    check_shape(op, "x", x, ("N", "C", "H", "W"))
    c = x.shape[1]
    check_shape(op, "expand", expand, ("D", c, 1, 1), f"for an input of {counted(c, 'channel')}")
    d = expand.shape[0]
    check_shape(op, "depthwise", depthwise, (d, 1, 3, 3), f"for {d} expanded channels")


class _ExpandDepthwise(Function):
    def execute(self, x: jt.Var, expand: jt.Var, depthwise: jt.Var) -> jt.Var:
        self.saved = x, expand, depthwise
        return expand_forward(x, expand, depthwise)

    def grad(self, g: jt.Var) -> tuple[jt.Var, jt.Var, jt.Var]:
        return expand_backward(*self.saved, g)


_SIZES = "x_shape0, x_shape1, expand_shape0, x_shape2, x_shape3)"


def expand_forward(x: jt.Var, expand: jt.Var, depthwise: jt.Var) -> jt.Var:
    """The kernel of `expand_depthwise`, without its gradient; the same shapes."""
    n, _, h, w = x.shape
    return call_kernel(
        f"expand_depthwise_forward(x_p, expand_p, depthwise_p, y_p, {_SIZES}",
        {"x": x, "expand": expand, "depthwise": depthwise},
        {"y": (n, expand.shape[0], h, w)},
        cpu="expand.h",
    )


def expand_backward(
    x: jt.Var, expand: jt.Var, depthwise: jt.Var, g: jt.Var
) -> tuple[jt.Var, jt.Var, jt.Var]:
    """The gradients of x, expand and depthwise from g (N, D, H, W), that of `expand_forward`'s result."""
    return call_kernel(
        "expand_depthwise_backward(x_p, expand_p, depthwise_p, g_p, d_x_p, d_expand_p, d_depthwise_p, "
        + _SIZES,
        {"x": x, "expand": expand, "depthwise": depthwise, "g": g},
        {"d_x": x.shape, "d_expand": expand.shape, "d_depthwise": depthwise.shape},
        cpu="expand.h",
    )


class _GatedFeedForward(Function):
    def execute(
        self,
        x: jt.Var,
        weight: jt.Var,
        bias: jt.Var,
        expand: jt.Var,
        depthwise: jt.Var,
        project: jt.Var,
    ) -> jt.Var:
        self.saved = (x, weight, bias), (expand, depthwise, project)
        normal, _ = norm_forward(x, weight, bias)
        return _feed_forward(normal, expand, depthwise, project)

    def grad(self, g: jt.Var) -> tuple[jt.Var, ...]:
        normed, weights = self.saved
        normal, statistics = norm_forward(*normed, depends_on=g)
        d_normal, *d_weights = _feed_forward_backward(normal, *weights, g)
        return (*norm_backward(*normed[:2], statistics, d_normal), *d_weights)


_FEED_FORWARD_SIZES = "x_shape0, x_shape1, project_shape1, project_shape0, x_shape2, x_shape3)"


def _feed_forward(x: jt.Var, expand: jt.Var, depthwise: jt.Var, project: jt.Var) -> jt.Var:
    n, _, h, w = x.shape
    return call_kernel(
        f"gated_feed_forward(x_p, expand_p, depthwise_p, project_p, y_p, {_FEED_FORWARD_SIZES}",
        {"x": x, "expand": expand, "depthwise": depthwise, "project": project},
        {"y": (n, project.shape[0], h, w)},
        cpu="expand.h",
    )


def _feed_forward_backward(
    x: jt.Var, expand: jt.Var, depthwise: jt.Var, project: jt.Var, g: jt.Var
) -> tuple[jt.Var, ...]:
    weights = {"expand": expand, "depthwise": depthwise, "project": project}
    return call_kernel(
        "gated_feed_forward_backward(x_p, expand_p, depthwise_p, project_p, g_p, "
        f"d_x_p, d_expand_p, d_depthwise_p, d_project_p, {_FEED_FORWARD_SIZES}",
        {"x": x, **weights, "g": g},
        {"d_x": x.shape, **{f"d_{name}": v.shape for name, v in weights.items()}},
        cpu="expand.h",
    )
