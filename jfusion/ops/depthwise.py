"""Depthwise convolutions of any odd size, on images and on pixel-shuffled images.

On a CPU a channel is copied once into a buffer with a border of zeros, and each output row is a sum of
moved rows. A pixel-shuffled image (Shi et al., 2016, arXiv:1609.05158) is never built: its four phases are
four channels, and each weight of the kernel reads one of them, moved by half as much.
"""

from __future__ import annotations

from jfusion.errors import UserError, counted
from jfusion.ops.checks import check_count, check_divisible, check_float, check_shape
from jfusion.ops.kernels import Function, call_kernel, num_blocks, use_kernel
from jfusion.runtime import jt, nn

_CUDA_SIZES = (1, 3, 5, 7)  # the sizes of kernel that depthwise.cuh is compiled for
_SIZES = "x_shape0, x_shape1, x_shape2, x_shape3, "


def depthwise(x: jt.Var, weight: jt.Var, padding: int | None = None) -> jt.Var:
    """A convolution of each channel with its own kernel, with `padding` zeros around the image.

    x (N, C, H, W), weight (C, 1, K, K) -> (N, C, H + 2 padding - K + 1, W + 2 padding - K + 1). padding is
    at most K - 1; the default K // 2 keeps the size for an odd K. Raises UserError for other shapes, or
    inputs that are not both of one floating-point type.
    """
    check_float("depthwise", x=x, weight=weight)
    check_shape("depthwise", "x", x, ("N", "C", "H", "W"))
    _, c, h, w = x.shape
    check_shape(
        "depthwise", "weight", weight, (c, 1, "K", "K"), f"for an input of {counted(c, 'channel')}"
    )
    k = weight.shape[2]
    padding = k // 2 if padding is None else padding
    check_count("depthwise", "padding", padding, least=0)
    if padding >= k:
        raise UserError(
            f"depthwise: padding must be 0 to {k - 1} for a kernel of {k}, not {padding}"
        )
    if min(h, w) + 2 * padding < k:
        raise UserError(
            f"depthwise: an image of {h}x{w} with padding {padding} is smaller than the kernel, {k}x{k}"
        )
    if use_kernel(x, weight, cuda=k in _CUDA_SIZES):
        return _Depthwise()(x, weight, padding)
    return depthwise_reference(x, weight, padding)


def depthwise_reference(x: jt.Var, weight: jt.Var, padding: int) -> jt.Var:
    """`depthwise` as a stock convolution: x (N, C, H, W), weight (C, 1, K, K)."""
    return nn.conv2d(x, weight, None, 1, padding, 1, x.shape[1])


def pixel_shuffle(x: jt.Var) -> jt.Var:
    """(N, 4C, H, W) -> (N, C, 2H, 2W): channel 4c + 2i + j goes to pixel (i, j) of each 2x2 block.

    Raises UserError for another number of axes or channels.
    """
    check_shape("pixel_shuffle", "x", x, ("N", "4C", "H", "W"))
    n, c, h, w = x.shape
    check_divisible("pixel_shuffle", "the channels of x", c, 4)
    x = x.reshape(n, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(n, c // 4, 2 * h, 2 * w)


def pixel_unshuffle(x: jt.Var) -> jt.Var:
    """The inverse of `pixel_shuffle`: (N, C, 2H, 2W) -> (N, 4C, H, W).

    Raises UserError for another number of axes, or an odd height or width.
    """
    check_shape("pixel_unshuffle", "x", x, ("N", "C", "2H", "2W"))
    n, c, h, w = x.shape
    check_divisible("pixel_unshuffle", "the height of x", h, 2)
    check_divisible("pixel_unshuffle", "the width of x", w, 2)
    x = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4)
    return x.reshape(n, 4 * c, h // 2, w // 2)


def shuffled_gate(a: jt.Var, b: jt.Var, weight: jt.Var, activation: str) -> jt.Var:
    """unshuffle(depthwise(shuffle(a))) * activation(b), the activation "gelu" or "mish".

    a, b (N, 4C, H, W), weight (C, 1, K, K) with K odd -> (N, 4C, H, W). Raises UserError for other shapes or
    activations, or inputs that are not all of one floating-point type.
    """
    check_float("shuffled_gate", a=a, b=b, weight=weight)
    check_shape("shuffled_gate", "a", a, ("N", "4C", "H", "W"))
    check_shape("shuffled_gate", "b", b, tuple(a.shape), "as a is")
    channels = a.shape[1]
    check_divisible("shuffled_gate", "the channels of a", channels, 4)
    expected = (channels // 4, 1, "K", "K")
    check_shape(
        "shuffled_gate", "weight", weight, expected, f"for a of {counted(channels, 'channel')}"
    )
    if weight.shape[2] % 2 == 0:
        raise UserError(
            f"shuffled_gate: weight must have kernels of an odd size, not {weight.shape[2]}"
        )
    if activation not in _ACTIVATIONS:
        raise UserError(f"shuffled_gate: activation must be gelu or mish, not {activation!r}")
    if not use_kernel(a, b, weight):
        return shuffled_gate_reference(a, b, weight, activation)
    return _ShuffledGate(activation)(a, b, weight)


def shuffled_gate_reference(a: jt.Var, b: jt.Var, weight: jt.Var, activation: str) -> jt.Var:
    """`shuffled_gate` from stock Jittor: a, b (N, 4C, H, W), weight (C, 1, K, K)."""
    act = nn.gelu if activation == "gelu" else mish_reference
    filtered = depthwise_reference(pixel_shuffle(a), weight, weight.shape[2] // 2)
    return pixel_unshuffle(filtered) * act(b)


def mish_reference(x: jt.Var) -> jt.Var:
    """The activation x tanh(softplus(x)) from stock Jittor (Misra, 2019, arXiv:1908.08681), of any shape."""
    softplus = jt.maximum(x, 0) + jt.log(1 + jt.exp(-jt.abs(x)))
    return x * jt.tanh(softplus)


class _Depthwise(Function):
    def execute(self, x: jt.Var, weight: jt.Var, padding: int) -> jt.Var:
        self.saved = x, weight, padding
        if jt.flags.use_cuda:
            return _forward_cuda(x, weight, padding, flip=False)
        return _forward(x, weight, padding)

    def grad(self, g: jt.Var) -> tuple[jt.Var, jt.Var, None]:
        x, weight, padding = self.saved
        # the gradient of x is g filtered with the kernel rotated by 180 degrees
        rest = weight.shape[2] - 1 - padding
        if jt.flags.use_cuda:
            d_x = _forward_cuda(g, weight, rest, flip=True)
            return d_x, _backward_weight_cuda(x, weight, g, padding), None
        d_x = _forward(g, weight[:, :, ::-1, ::-1], rest)
        return d_x, _backward_weight(x, weight, g, padding), None


def _output_shape(x: jt.Var, weight: jt.Var, padding: int) -> tuple[int, ...]:
    n, c, h, w = x.shape
    more = 2 * padding - weight.shape[2] + 1
    return n, c, h + more, w + more


def _forward(x: jt.Var, weight: jt.Var, padding: int) -> jt.Var:
    return call_kernel(
        f"depthwise_forward(x_p, weight_p, y_p, {_SIZES}weight_shape2, y_shape2, y_shape3, "
        'data["padding"])',
        {"x": x, "weight": weight},
        {"y": _output_shape(x, weight, padding)},
        cpu="depthwise.h",
        data={"padding": padding},
    )


def _backward_weight(x: jt.Var, weight: jt.Var, g: jt.Var, padding: int) -> jt.Var:
    return call_kernel(
        f"depthwise_backward_weight(x_p, g_p, d_weight_p, {_SIZES}d_weight_shape2, g_shape2, g_shape3, "
        'data["padding"])',
        {"x": x, "g": g},
        {"d_weight": weight.shape},
        cpu="depthwise.h",
        data={"padding": padding},
    )


def _forward_cuda(x: jt.Var, weight: jt.Var, padding: int, flip: bool) -> jt.Var:
    return call_kernel(
        f"depthwise_forward(x_p, weight_p, y_p, {_SIZES}weight_shape2, y_shape2, y_shape3, "
        'data["padding"], data["flip"])',
        {"x": x, "weight": weight},
        {"y": _output_shape(x, weight, padding)},
        cuda="depthwise.cuh",
        data={"padding": padding, "flip": flip},
    )


def _backward_weight_cuda(x: jt.Var, weight: jt.Var, g: jt.Var, padding: int) -> jt.Var:
    parts = call_kernel(
        f"depthwise_backward_weight(x_p, g_p, parts_p, {_SIZES}parts_shape3, g_shape2, g_shape3, "
        'data["padding"], parts_shape0)',
        {"x": x, "g": g},
        {"parts": (num_blocks(g.numel() // g.shape[1]), *weight.shape)},
        cuda="depthwise.cuh",
        data={"padding": padding},
    )
    return parts.sum(0)


_ACTIVATIONS = {"gelu": "GELU", "mish": "Mish"}  # their names in shuffled_gate.h


class _ShuffledGate(Function):
    def __init__(self, activation: str):
        super().__init__()
        self.activation = _ACTIVATIONS[activation]

    def execute(self, a: jt.Var, b: jt.Var, weight: jt.Var) -> jt.Var:
        self.saved = a, b, weight
        return call_kernel(
            f"shuffled_gate_forward<{self.activation}>(a_p, b_p, weight_p, y_p, "
            "a_shape0, weight_shape0, a_shape2, a_shape3, weight_shape2)",
            {"a": a, "b": b, "weight": weight},
            {"y": a.shape},
            cpu="shuffled_gate.h",
        )

    def grad(self, g: jt.Var) -> tuple[jt.Var, jt.Var, jt.Var]:
        a, b, weight = self.saved
        return call_kernel(
            f"shuffled_gate_backward<{self.activation}>(a_p, b_p, weight_p, g_p, d_a_p, d_b_p, d_weight_p, "
            "a_shape0, weight_shape0, a_shape2, a_shape3, weight_shape2)",
            {"a": a, "b": b, "weight": weight, "g": g},
            {"d_a": a.shape, "d_b": a.shape, "d_weight": weight.shape},
            cpu="shuffled_gate.h",
        )
