"""1x1 convolution then depthwise 3x3, alone or in a feed-forward network or bottleneck with another 1x1.

The hidden maps are four to eight times as wide as the features and are needed only a few rows at a
time. The kernels compute a few of their channels for a band of rows, use them while they are in the cache,
and never write them to memory; the gradient computes them again from the input instead of keeping them.
"""

from __future__ import annotations

from jfusion.errors import UserError, counted
from jfusion.ops.activation import gelu_gate, relu6
from jfusion.ops.checks import check_divisible, check_float, check_shape, once_per_shape
from jfusion.ops.conv import conv1x1, depthwise3x3
from jfusion.ops.depthwise import depthwise as depthwise_of_any_size
from jfusion.ops.kernels import Function, call_kernel, use_kernel
from jfusion.ops.norm import channel_layer_norm, norm_backward, norm_forward
from jfusion.ops.resize import pad
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
    x: jt.Var,
    norm: tuple[jt.Var, jt.Var] | None,
    expand: jt.Var,
    depthwise: jt.Var,
    project: jt.Var,
    *,
    added: jt.Var | None = None,
) -> jt.Var:
    """conv1x1(gelu_gate(conv3x3(conv1x1(channel_layer_norm(x))))), as in Restormer (equation 2), plus `added`.

    x (N, C, H, W), norm: weight and bias (C,), or None where x is normalized; expand (2D, C, 1, 1),
    depthwise (2D, G, 3, 3) in groups of G channels, which is 1, or 2 with an even D; project (O, D, 1, 1);
    added, such as what flows past the network, (N, O, H, W) -> (N, O, H, W). Raises UserError for other
    shapes, or inputs that are not all of one floating-point type.
    """
    optional = (*(norm or ()), *(() if added is None else (added,)))
    pair = norm or (None, None)
    _check_feed_forward("gated_feed_forward", x, *pair, expand, depthwise, project, added)
    # with groups of two, or without a normalization, the kernel has no gradient
    kernel = (depthwise.shape[1] == 1 and norm is not None) or jt.flags.no_grad
    if kernel and use_kernel(x, *optional, expand, depthwise, project):
        return _GatedFeedForward(norm is not None)(x, expand, depthwise, project, *optional)
    return gated_feed_forward_reference(x, norm, expand, depthwise, project, added=added)


def gated_feed_forward_reference(
    x: jt.Var,
    norm: tuple[jt.Var, jt.Var] | None,
    expand: jt.Var,
    depthwise: jt.Var,
    project: jt.Var,
    *,
    added: jt.Var | None = None,
) -> jt.Var:
    """`gated_feed_forward` operation by operation; the same shapes."""
    normal = x if norm is None else channel_layer_norm(x, *norm)
    if depthwise.shape[1] == 1:
        hidden = expand_depthwise_reference(normal, expand, depthwise)
        return conv1x1(gelu_gate(hidden), project, added=added)
    even, odd = _gates_of_pairs(normal, expand, depthwise)
    return conv1x1(odd, project[:, 1::2], added=conv1x1(even, project[:, 0::2], added=added))


def _gates_of_pairs(x: jt.Var, expand: jt.Var, kernel: jt.Var) -> tuple[jt.Var, jt.Var]:
    """gelu_gate(conv3x3(conv1x1(x))) where the 3x3 has groups of two: its even and its odd channels.

    They are computed apart: each grouped 3x3 is then two depthwise convolutions, and the two halves of each
    gate are adjacent in memory.
    """
    hidden = conv1x1(x, jt.concat([expand[0::2], expand[1::2]]))
    half = hidden.shape[1] // 2
    # the kernels that a channel of a pair applies to itself, and those applied to the other one
    to_itself = jt.concat([kernel[0::2, 0:1], kernel[1::2, 1:2]])
    to_other = jt.concat([kernel[1::2, 0:1], kernel[0::2, 1:2]])
    itself, other = depthwise3x3(hidden, to_itself), depthwise3x3(hidden, to_other)
    even = gelu_gate(itself[:, :half] + other[:, half:])
    odd = gelu_gate(itself[:, half:] + other[:, :half])
    return even, odd


def bottleneck(x: jt.Var, expand: jt.Var, depthwise: jt.Var, project: jt.Var) -> jt.Var:
    """conv1x1(relu6(depthwise3x3(relu6(conv1x1(x))))), where the 3x3 sees the image mirrored at its border.

    x (N, C, H, W), at least two pixels a side, expand (D, C, 1, 1), depthwise (D, 1, 3, 3), project
    (O, D, 1, 1) -> (N, O, H, W). Where no gradient is wanted it is one kernel. Raises UserError for other
    shapes, or inputs that are not all of one floating-point type.
    """
    check_float("bottleneck", x=x, project=project)
    _check("bottleneck", x, expand, depthwise)
    hidden = expand.shape[0]
    check_shape(
        "bottleneck", "project", project, ("O", hidden, 1, 1), f"for {hidden} expanded channels"
    )
    n, _, h, w = x.shape
    if not (jt.flags.no_grad and use_kernel(x, expand, depthwise, project)) or min(h, w) < 2:
        return bottleneck_reference(x, expand, depthwise, project)
    return call_kernel(
        "bottleneck_forward(x_p, expand_p, depthwise_p, project_p, y_p, "
        "x_shape0, x_shape1, expand_shape0, project_shape0, x_shape2, x_shape3)",
        {"x": x, "expand": expand, "depthwise": depthwise, "project": project},
        {"y": (n, project.shape[0], h, w)},
        cpu="bottleneck.h",
    )


def bottleneck_reference(x: jt.Var, expand: jt.Var, depthwise: jt.Var, project: jt.Var) -> jt.Var:
    """`bottleneck` operation by operation; the same shapes."""
    hidden = pad(relu6(conv1x1(x, expand)), 1, "reflect")
    return conv1x1(relu6(depthwise_of_any_size(hidden, depthwise, padding=0)), project)


@once_per_shape
def _check_feed_forward(
    op: str,
    x: jt.Var,
    norm_weight: jt.Var | None,
    norm_bias: jt.Var | None,
    expand: jt.Var,
    depthwise: jt.Var,
    project: jt.Var,
    added: jt.Var | None,
) -> None:
    pair = {"norm_weight": norm_weight, "norm_bias": norm_bias} if norm_weight is not None else {}
    check_float(op, x=x, **pair, expand=expand, depthwise=depthwise, project=project)
    check_shape(op, "depthwise", depthwise, ("2D", "G", 3, 3))
    groups = depthwise.shape[1]
    if groups not in (1, 2):
        raise UserError(f"{op}: depthwise must have groups of 1 or 2 channels, not of {groups}")
    _check(op, x, expand, depthwise, groups)
    (n, c, h, w), hidden = x.shape, expand.shape[0]
    for name, vector in pair.items():
        check_shape(op, name, vector, (c,), f"for an input of {counted(c, 'channel')}")
    check_divisible(op, "the channels of expand", hidden, 2 * groups)
    expected = ("O", hidden // 2, 1, 1)
    check_shape(op, "project", project, expected, f"for {hidden} expanded channels")
    if added is not None:
        check_float(op, x=x, added=added)
        check_shape(op, "added", added, (n, project.shape[0], h, w), "for this result")


@once_per_shape
def _check(op: str, x: jt.Var, expand: jt.Var, depthwise: jt.Var, groups: int = 1) -> None:
    """UserError unless the shapes are those that `expand_depthwise` accepts."""
    check_float(op, x=x, expand=expand, depthwise=depthwise)
    check_shape(op, "x", x, ("N", "C", "H", "W"))
    c = x.shape[1]
    check_shape(op, "expand", expand, ("D", c, 1, 1), f"for an input of {counted(c, 'channel')}")
    d = expand.shape[0]
    check_shape(op, "depthwise", depthwise, (d, groups, 3, 3), f"for {d} expanded channels")


class _ExpandDepthwise(Function):
    def execute(self, x: jt.Var, expand: jt.Var, depthwise: jt.Var) -> jt.Var:
        self.saved = x, expand, depthwise
        return expand_forward(x, expand, depthwise)

    def grad(self, g: jt.Var) -> tuple[jt.Var, jt.Var, jt.Var]:
        return expand_backward(*self.saved, g)


_SIZES = "x_shape0, x_shape1, expand_shape0, x_shape2, x_shape3)"


def expand_forward(
    x: jt.Var, expand: jt.Var, depthwise: jt.Var, norm: tuple[jt.Var, jt.Var] | None = None
) -> jt.Var:
    """The kernel of `expand_depthwise`, without its gradient; the same shapes.

    norm: weight and bias (C,) of the `channel_layer_norm` of x that comes first.
    """
    n, _, h, w = x.shape
    before = {} if norm is None else {"weight": norm[0], "bias": norm[1]}
    names = "weight_p, bias_p" if before else "nullptr, nullptr"
    return call_kernel(
        f"expand_depthwise_forward(x_p, {names}, expand_p, depthwise_p, y_p, {_SIZES}",
        {"x": x, **before, "expand": expand, "depthwise": depthwise},
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
    """With a normalization or without; what is to be added may come last."""

    def __init__(self, normalizes: bool):
        super().__init__()
        self.normalizes = normalizes

    def execute(
        self, x: jt.Var, expand: jt.Var, depthwise: jt.Var, project: jt.Var, *optional: jt.Var
    ) -> jt.Var:
        names = ("weight", "bias") if self.normalizes else ()
        self.adds = len(optional) > len(names)
        names = (*names, "added") if self.adds else names
        weights = {"expand": expand, "depthwise": depthwise, "project": project}
        self.saved = (x, *optional[:2]), tuple(weights.values())
        n, _, h, w = x.shape
        pair = "weight_p, bias_p" if self.normalizes else "nullptr, nullptr"
        return call_kernel(
            f"gated_feed_forward(x_p, {pair}, expand_p, depthwise_p, project_p, "
            f"{'added_p' if self.adds else 'nullptr'}, y_p, "
            "x_shape0, x_shape1, project_shape1, depthwise_shape1, project_shape0, x_shape2, x_shape3)",
            {"x": x, **weights, **dict(zip(names, optional, strict=True))},
            {"y": (n, project.shape[0], h, w)},
            cpu="expand.h",
        )

    def grad(self, g: jt.Var) -> tuple[jt.Var, ...]:
        normed, weights = self.saved
        normal, statistics = norm_forward(*normed, depends_on=g)
        d_normal, *d_weights = _feed_forward_backward(normal, *weights, g)
        d_x, *d_norm = norm_backward(*normed[:2], statistics, d_normal)
        return (d_x, *d_weights, *d_norm, *([g] if self.adds else []))


def _feed_forward_backward(
    x: jt.Var, expand: jt.Var, depthwise: jt.Var, project: jt.Var, g: jt.Var
) -> tuple[jt.Var, ...]:
    """The gradients, from the normalized x and g, of x and of the three weights."""
    weights = {"expand": expand, "depthwise": depthwise, "project": project}
    return call_kernel(
        "gated_feed_forward_backward(x_p, expand_p, depthwise_p, project_p, g_p, "
        "d_x_p, d_expand_p, d_depthwise_p, d_project_p, "
        "x_shape0, x_shape1, project_shape1, project_shape0, x_shape2, x_shape3)",
        {"x": x, **weights, "g": g},
        {"d_x": x.shape, **{f"d_{name}": v.shape for name, v in weights.items()}},
        cpu="expand.h",
    )
