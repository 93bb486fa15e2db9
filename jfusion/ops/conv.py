"""Convolutions of stride 1 that keep the size: 1x1, KxK, and depthwise 3x3.

Jittor hands every convolution to oneDNN with a copy of source and destination into its blocked layout. A
1x1 convolution is a matrix product and needs no copy; a KxK one needs a few rows of patches at a time, and
a wide 3x3 one is computed by Winograd's algorithm (Lavin and Gray, 2016, arXiv:1509.09308), and so is the
gradient of its kernels. A depthwise convolution is limited by memory and goes row by row.
"""

from __future__ import annotations

from jfusion.errors import UserError, counted
from jfusion.ops.activation import silu_backward, silu_forward, silu_reference
from jfusion.ops.checks import check_float, check_shape, once_per_shape
from jfusion.ops.depthwise import depthwise
from jfusion.ops.kernels import Function, call_kernel, use_kernel
from jfusion.runtime import jt, nn
from jfusion.runtime.machine import precision


def conv1x1(
    x: jt.Var, weight: jt.Var, bias: jt.Var | None = None, *, added: jt.Var | None = None
) -> jt.Var:
    """A 1x1 convolution, plus `added`: x (N, C, H, W), weight (O, C, 1, 1), bias (O,) -> (N, O, H, W).

    added (N, O, H, W): such as what flows past a block, or another convolution's result; on a CPU the sum
    costs no pass over the memory of its own. Raises UserError for other shapes, or inputs that are not all
    of one floating-point type.
    """
    _check("conv1x1", x, weight, bias, 1, added)
    if not use_kernel(x, weight):
        y = conv_reference(x, weight, bias)
        return y if added is None else y + added
    inputs = x, weight, jt.zeros(weight.shape[0]) if bias is None else bias
    return _Conv1x1()(*inputs) if added is None else _Conv1x1()(*inputs, added)


def conv(x: jt.Var, weight: jt.Var, bias: jt.Var | None = None) -> jt.Var:
    """A convolution of stride 1 with K // 2 zeros around the image, so that its size stays.

    x (N, C, H, W), weight (O, C, K, K) with K odd, bias (O,) -> (N, O, H, W). Raises UserError for other
    shapes, or inputs that are not all of one floating-point type.
    """
    _check("conv", x, weight, bias)
    if not use_kernel(x, weight):
        return conv_reference(x, weight, bias)
    return _Conv()(x, weight, jt.zeros(weight.shape[0]) if bias is None else bias)


def silu_conv(x: jt.Var, weight: jt.Var, bias: jt.Var | None = None) -> jt.Var:
    """`conv` of x sigmoid(x). The gradient computes the activation again, so only x is kept."""
    _check("silu_conv", x, weight, bias)
    if not use_kernel(x, weight):
        return conv_reference(silu_reference(x), weight, bias)
    return _SiLUConv()(x, weight, jt.zeros(weight.shape[0]) if bias is None else bias)


def conv_reference(x: jt.Var, weight: jt.Var, bias: jt.Var | None = None) -> jt.Var:
    """`conv` and `conv1x1` as a stock convolution: x (N, C, H, W), weight (O, C, K, K), bias (O,)."""
    padding = weight.shape[2] // 2
    if precision() == "bfloat16" and jt.flags.use_cuda:
        y = nn.conv2d(x.bfloat16(), weight.bfloat16(), padding=padding).float32()
    else:
        y = nn.conv2d(x, weight, padding=padding)
    # Jittor's own bias cannot be compiled when it is a single number that has just been loaded
    return y if bias is None else y + bias.reshape(1, -1, 1, 1)


def depthwise3x3(x: jt.Var, weight: jt.Var) -> jt.Var:
    """`depthwise` with a 3x3 kernel for each channel: x (N, C, H, W), weight (C, 1, 3, 3) -> as x."""
    check_float("depthwise3x3", x=x, weight=weight)
    check_shape("depthwise3x3", "x", x, ("N", "C", "H", "W"))
    c = x.shape[1]
    check_shape(
        "depthwise3x3", "weight", weight, (c, 1, 3, 3), f"for an input of {counted(c, 'channel')}"
    )
    return _Depthwise3x3()(x, weight) if use_kernel(x, weight) else depthwise(x, weight)


@once_per_shape
def _check(
    op: str,
    x: jt.Var,
    weight: jt.Var,
    bias: jt.Var | None,
    size: int | str = "K",
    added: jt.Var | None = None,
) -> None:
    """Checks the inputs of a convolution whose kernels are size x size (a letter: any odd size)."""
    inputs = (
        {"x": x, "weight": weight} if bias is None else {"x": x, "weight": weight, "bias": bias}
    )
    check_float(op, **inputs)
    check_shape(op, "x", x, ("N", "C", "H", "W"))
    c = x.shape[1]
    check_shape(
        op, "weight", weight, ("O", c, size, size), f"for an input of {counted(c, 'channel')}"
    )
    o, _, k, _ = weight.shape
    if k % 2 == 0:
        raise UserError(f"{op}: weight must have kernels of an odd size, not {k} x {k}")
    if bias is not None:
        check_shape(op, "bias", bias, (o,), f"for an output of {counted(o, 'channel')}")
    if added is not None:
        n, _, h, w = x.shape
        check_float(op, x=x, added=added)
        check_shape(op, "added", added, (n, o, h, w), "for this result")


class _Conv1x1(Function):
    def execute(
        self, x: jt.Var, weight: jt.Var, bias: jt.Var, added: jt.Var | None = None
    ) -> jt.Var:
        self.saved, self.adds = (x, weight), added is not None
        n, _, h, w = x.shape
        return call_kernel(
            f"conv1x1_forward(x_p, weight_p, bias_p, {'added_p' if self.adds else 'nullptr'}, y_p, "
            "x_shape0, x_shape1, weight_shape0, (int64)x_shape2*x_shape3)",
            {"x": x, "weight": weight, "bias": bias, **({"added": added} if self.adds else {})},
            {"y": (n, weight.shape[0], h, w)},
            cpu="conv1x1.h",
        )

    def grad(self, g: jt.Var) -> tuple[jt.Var, ...]:
        x, weight = self.saved
        grads = call_kernel(
            "conv1x1_backward(x_p, weight_p, g_p, d_x_p, d_weight_p, d_bias_p, "
            "x_shape0, x_shape1, weight_shape0, (int64)x_shape2*x_shape3)",
            {"x": x, "weight": weight, "g": g},
            {"d_x": x.shape, "d_weight": weight.shape, "d_bias": (weight.shape[0],)},
            cpu="conv1x1.h",
        )
        return (*grads, g) if self.adds else grads


class _Conv(Function):
    def execute(self, x: jt.Var, weight: jt.Var, bias: jt.Var) -> jt.Var:
        self.saved = x, weight
        return conv_forward(x, weight, bias)

    def grad(self, g: jt.Var) -> tuple[jt.Var, jt.Var, jt.Var]:
        return conv_backward(*self.saved, g)


class _SiLUConv(Function):
    def execute(self, x: jt.Var, weight: jt.Var, bias: jt.Var) -> jt.Var:
        self.saved = x, weight
        return conv_forward(silu_forward(x), weight, bias)

    def grad(self, g: jt.Var) -> tuple[jt.Var, jt.Var, jt.Var]:
        x, weight = self.saved
        d_silu, d_weight, d_bias = conv_backward(silu_forward(x, depends_on=g), weight, g)
        return silu_backward(x, d_silu), d_weight, d_bias


def conv_forward(x: jt.Var, weight: jt.Var, bias: jt.Var, is_gradient: bool = False) -> jt.Var:
    """The kernel of `conv`, without its gradient.

    is_gradient: the result is itself a gradient. Wide 3x3 kernels go through Winograd's algorithm. On the way
    to a loss it keeps to its smaller tiles, since the rounding of the larger ones would show in the loss.
    """
    n, c, h, w = x.shape
    o, _, k, _ = weight.shape
    width, pixels = min(o, c), h * w
    inputs, outputs = {"x": x, "weight": weight, "bias": bias}, {"y": (n, o, h, w)}
    enough = width >= 16 and n * pixels >= max(1024, 2 * width)
    if k == 3 and enough:
        call = (
            "conv_winograd(x_p, weight_p, bias_p, y_p, "
            'x_shape0, x_shape1, weight_shape0, x_shape2, x_shape3, data["fine"])'
        )
        fine = not (is_gradient or jt.flags.no_grad)
        return call_kernel(call, inputs, outputs, cpu="winograd.h", data={"fine": fine})
    # with few pixels the weights are most of what is read, so that each should be read once
    function = "conv_by_channels" if width >= 128 and pixels <= 2048 else "conv_by_rows"
    call = (
        f"{function}(x_p, weight_p, bias_p, y_p, "
        "x_shape0, x_shape1, weight_shape0, weight_shape2, x_shape2, x_shape3)"
    )
    return call_kernel(call, inputs, outputs, cpu="conv.h")


def conv_backward(x: jt.Var, weight: jt.Var, g: jt.Var) -> tuple[jt.Var, jt.Var, jt.Var]:
    """The gradients of x, weight and bias from g (N, O, H, W), the gradient of `conv_forward`'s result."""
    n, c, h, w = x.shape
    o, _, k, _ = weight.shape
    by_winograd = k == 3 and min(o, c) >= 16 and n * h * w >= 256
    d_weight, d_bias = call_kernel(
        f"conv{'_winograd' if by_winograd else ''}_backward_weight(x_p, g_p, d_weight_p, d_bias_p, "
        f"x_shape0, x_shape1, g_shape1, {'' if by_winograd else 'd_weight_shape2, '}x_shape2, x_shape3)",
        {"x": x, "g": g},
        {"d_weight": weight.shape, "d_bias": (o,)},
        cpu="winograd.h" if by_winograd else "conv.h",
    )
    # the gradient of x is a convolution too: of g, with the kernels rotated by 180 degrees
    transposed = weight.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
    d_x = conv_forward(g, transposed, jt.zeros(weight.shape[1]), is_gradient=True)
    return d_x, d_weight, d_bias


class _Depthwise3x3(Function):
    def execute(self, x: jt.Var, weight: jt.Var) -> jt.Var:
        self.saved = x, weight
        return _depthwise3x3(x, weight, flip=False)

    def grad(self, g: jt.Var) -> tuple[jt.Var, jt.Var]:
        x, weight = self.saved
        d_weight = call_kernel(
            "depthwise3x3_backward_weight(x_p, g_p, d_weight_p, x_shape0, x_shape1, x_shape2, x_shape3)",
            {"x": x, "g": g},
            {"d_weight": weight.shape},
            cpu="depthwise3x3.h",
        )
        return _depthwise3x3(g, weight, flip=True), d_weight


def _depthwise3x3(x: jt.Var, weight: jt.Var, flip: bool) -> jt.Var:
    return call_kernel(
        'depthwise3x3_forward(x_p, weight_p, y_p, x_shape0, x_shape1, x_shape2, x_shape3, data["flip"])',
        {"x": x, "weight": weight},
        {"y": x.shape},
        cpu="depthwise3x3.h",
        data={"flip": flip},
    )
