"""Attention between the channels of each head (Restormer)."""

from __future__ import annotations

from jfusion.errors import counted
from jfusion.ops.checks import check_divisible, check_float, check_shape, once_per_shape
from jfusion.ops.expand import expand_backward, expand_depthwise, expand_forward
from jfusion.ops.kernels import Function, call_kernel, num_blocks, use_kernel
from jfusion.ops.norm import channel_layer_norm, norm_backward, norm_forward
from jfusion.ops.softmax import softmax
from jfusion.runtime import jt


def channel_attention(
    x: jt.Var,
    norm: tuple[jt.Var, jt.Var],
    expand: jt.Var,
    depthwise: jt.Var,
    temperature: jt.Var,
) -> tuple[jt.Var, jt.Var]:
    """Attention between the channels of each head (Restormer, equation 1).

    x (N, I, H, W) is normalized over its channels (norm: weight and bias, (I,)); of the result,
    `expand_depthwise` makes q, k and v, C channels each; head h has the channels from h*C/heads on.
    expand (3C, I, 1, 1), depthwise (3C, 1, 3, 3); temperature (heads, 1, 1) multiplies the cosine
    similarity. Returns the result (N, C, H, W), and the weights (N, heads, C/heads, C/heads), the
    softmaxed matrix, through which no gradient flows.
    """
    _check_channel_attention(x, norm, expand, depthwise, temperature)
    if use_kernel(x, *norm, expand, depthwise, temperature):
        out, weights, *_ = _ChannelAttention()(x, *norm, expand, depthwise, temperature)
    else:
        out, weights = channel_attention_reference(x, norm, expand, depthwise, temperature)
    return out, weights.detach()


def _check_channel_attention(
    x: jt.Var,
    norm: tuple[jt.Var, jt.Var],
    expand: jt.Var,
    depthwise: jt.Var,
    temperature: jt.Var,
) -> None:
    op = "channel_attention"
    names = "norm weight", "norm bias"
    inputs = {"x": x, **dict(zip(names, norm, strict=True))}
    check_float(op, **inputs, expand=expand, depthwise=depthwise, temperature=temperature)
    check_shape(op, "x", x, ("N", "I", "H", "W"))
    channels = x.shape[1]
    reason = f"for an input of {counted(channels, 'channel')}"
    for name, vector in zip(names, norm, strict=True):
        check_shape(op, name, vector, (channels,), reason)
    check_shape(op, "expand", expand, ("3C", channels, 1, 1), reason)
    width = expand.shape[0]
    check_shape(op, "depthwise", depthwise, (width, 1, 3, 3), f"for {width} expanded channels")
    check_shape(op, "temperature", temperature, ("heads", 1, 1))
    check_divisible(op, "the channels of expand", width, 3 * temperature.shape[0])


def channel_attention_reference(
    x: jt.Var,
    norm: tuple[jt.Var, jt.Var],
    expand: jt.Var,
    depthwise: jt.Var,
    temperature: jt.Var,
) -> tuple[jt.Var, jt.Var]:
    """`channel_attention`, part by part."""
    qkv = expand_depthwise(channel_layer_norm(x, *norm), expand, depthwise)
    return _cosine_attention(qkv, temperature)


def cosine_attention(qkv: jt.Var, temperature: jt.Var) -> jt.Var:
    """`channel_attention` from q, k and v on: qkv (N, 3C, H, W) -> (N, C, H, W).

    temperature (heads, 1, 1).
    """
    _check_qkv("cosine_attention", qkv, temperature)
    return _cosine_attention(qkv, temperature)[0]


def cosine_attention_reference(qkv: jt.Var, temperature: jt.Var) -> tuple[jt.Var, jt.Var]:
    """`cosine_attention` from stock Jittor, and its weights (N, heads, C/heads, C/heads)."""
    out, weights, _ = _attend_reference(*_heads(qkv, temperature.shape[0]), temperature)
    return _joined(out, qkv), weights


def swapped_query_cosine_attention(qkv: jt.Var, temperature: jt.Var) -> jt.Var:
    """`cosine_attention` with the queries of the batch's other half, each added with unit norm.

    qkv (2N, 3C, H, W) -> (2N, C, H, W); sample i takes its queries from sample i + N (modulo 2N).
    temperature (heads, 1, 1).
    """
    op = "swapped_query_cosine_attention"
    _check_qkv(op, qkv, temperature)
    check_divisible(op, "the samples of qkv", qkv.shape[0], 2)
    if use_kernel(qkv, temperature):
        return _CosineAttention(swap_queries=True)(qkv, temperature)[0]
    return swapped_query_cosine_attention_reference(qkv, temperature)


def swapped_query_cosine_attention_reference(qkv: jt.Var, temperature: jt.Var) -> jt.Var:
    """`swapped_query_cosine_attention` from stock Jittor."""
    q, k, v = _heads(qkv, temperature.shape[0])
    half = qkv.shape[0] // 2
    out, _, unit_q = _attend_reference(jt.concat([q[half:], q[:half]]), k, v, temperature)
    return _joined(out + unit_q, qkv)


@once_per_shape
def _check_qkv(op: str, qkv: jt.Var, temperature: jt.Var) -> None:
    check_float(op, qkv=qkv, temperature=temperature)
    check_shape(op, "qkv", qkv, ("N", "3C", "H", "W"))
    check_shape(op, "temperature", temperature, ("heads", 1, 1))
    check_divisible(op, "the channels of qkv", qkv.shape[1], 3 * temperature.shape[0])


def _cosine_attention(qkv: jt.Var, temperature: jt.Var) -> tuple[jt.Var, jt.Var]:
    """The result, and the weights."""
    if use_kernel(qkv, temperature):
        return _CosineAttention()(qkv, temperature)
    width = qkv.shape[1] // 3 // temperature.shape[0]
    if use_kernel(qkv, temperature, cuda=width in _CUDA_WIDTHS):
        return _CosineAttentionCuda()(qkv, temperature)
    return cosine_attention_reference(qkv, temperature)


def _attend_reference(
    q: jt.Var, k: jt.Var, v: jt.Var, temperature: jt.Var
) -> tuple[jt.Var, jt.Var, jt.Var]:
    """The result, the weights, and the queries of unit norm; q, k, v (N, heads, C/heads, H*W)."""
    q, k = _unit(q), _unit(k)
    weights = softmax(jt.matmul(q, k.transpose(0, 1, 3, 2)) * temperature)
    return jt.matmul(weights, v), weights, q


def _unit(x: jt.Var) -> jt.Var:
    return x / jt.maximum(jt.sqrt((x * x).sum(-1, keepdims=True)), 1e-12)


def _heads(qkv: jt.Var, heads: int) -> jt.Var:
    """(N, 3C, H, W) -> (3, N, heads, C/heads, H*W)."""
    n, c, h, w = qkv.shape
    return qkv.reshape(n, 3, heads, c // 3 // heads, h * w).transpose(1, 0, 2, 3, 4)


def _joined(x: jt.Var, qkv: jt.Var) -> jt.Var:
    """(N, heads, C/heads, H*W) -> (N, C, H, W), as qkv is."""
    n, c, h, w = qkv.shape
    return x.reshape(n, c // 3, h, w)


class _ChannelAttention(Function):
    """`channel_attention`; the kernels are in channel_attention.h.

    The gradient computes the normalized x and q, k, v again: together they are four times as large as x.
    """

    def execute(
        self,
        x: jt.Var,
        weight: jt.Var,
        bias: jt.Var,
        expand: jt.Var,
        depthwise: jt.Var,
        temperature: jt.Var,
    ) -> tuple[jt.Var, ...]:
        qkv = expand_forward(x, expand, depthwise, (weight, bias))
        out, *matrices = _attend(qkv, temperature)
        self.saved = (x, weight, bias), (expand, depthwise), temperature, matrices
        return out, *matrices

    def grad(self, g: jt.Var, *_: None) -> tuple[jt.Var, ...]:
        normed, expansion, temperature, matrices = self.saved
        normal, statistics = norm_forward(*normed, depends_on=g)
        qkv = expand_forward(normal, *expansion)
        d_qkv, d_temperature = _attend_backward(qkv, temperature, *matrices, g)
        d_normal, *d_expansion = expand_backward(normal, *expansion, d_qkv)
        d_normed = norm_backward(*normed[:2], statistics, d_normal)
        return (*d_normed, *d_expansion, d_temperature)


class _CosineAttention(Function):
    def __init__(self, swap_queries: bool = False):
        super().__init__()
        self.swap_queries = swap_queries

    def execute(self, qkv: jt.Var, temperature: jt.Var) -> tuple[jt.Var, jt.Var]:
        out, weights, *norms = _attend(qkv, temperature, self.swap_queries)
        self.saved = qkv, temperature, weights, *norms
        return out, weights

    def grad(self, g: jt.Var, _: None) -> tuple[jt.Var, jt.Var]:
        return _attend_backward(*self.saved, g, self.swap_queries)


def _attend(qkv: jt.Var, temperature: jt.Var, swap_queries: bool = False) -> tuple[jt.Var, ...]:
    """The result, the weights, the cosines, and the norms of q and k."""
    n, c, h, w = qkv.shape
    heads = temperature.shape[0]
    d = c // 3 // heads
    return call_kernel(
        "cosine_attention_forward(qkv_p, temperature_p, y_p, weights_p, cosine_p, norms_p, qkv_shape0,"
        ' weights_shape1, weights_shape2, qkv_shape2*qkv_shape3, data["swap_queries"] != 0)',
        {"qkv": qkv, "temperature": temperature},
        {
            "y": [n, c // 3, h, w],
            "weights": [n, heads, d, d],
            "cosine": [n, heads, d, d],
            "norms": [n, heads, 2, d],
        },
        cpu="channel_attention.h",
        data={"swap_queries": int(swap_queries)},
    )


def _attend_backward(
    qkv: jt.Var,
    temperature: jt.Var,
    weights: jt.Var,
    cosine: jt.Var,
    norms: jt.Var,
    g: jt.Var,
    swap_queries: bool = False,
) -> tuple[jt.Var, jt.Var]:
    """The gradients of qkv and temperature, from g, the gradient of the result."""
    matrices = {"weights": weights, "cosine": cosine, "norms": norms}
    d_qkv, d_temperature = call_kernel(
        "cosine_attention_backward(qkv_p, temperature_p, weights_p, cosine_p, norms_p, g_p, d_qkv_p,"
        " d_temperature_p, qkv_shape0, weights_shape1, weights_shape2, qkv_shape2*qkv_shape3,"
        ' data["swap_queries"] != 0)',
        {"qkv": qkv, "temperature": temperature, **matrices, "g": g},
        {"d_qkv": qkv.shape, "d_temperature": [qkv.shape[0], temperature.shape[0]]},
        cpu="channel_attention.h",
        data={"swap_queries": int(swap_queries)},
    )
    return d_qkv, d_temperature.sum(0).reshape(temperature.shape)


# The channels of a head that the CUDA kernels are compiled for: they hold a matrix of them in registers.
_CUDA_WIDTHS = (1, 2, 4, 8)


class _CosineAttentionCuda(Function):
    """q, k and v are read where they are; their products go through small matrices, one for each head."""

    def execute(self, qkv: jt.Var, temperature: jt.Var) -> tuple[jt.Var, jt.Var]:
        n, c, h, w = qkv.shape
        gram, squares = _head_products(qkv, qkv, (0, 1), temperature.shape[0])
        norms = jt.maximum(jt.sqrt(squares), 1e-12)
        cosine = gram / (norms[:, :, 0].unsqueeze(3) * norms[:, :, 1].unsqueeze(2))
        weights = softmax(cosine * temperature)
        out = call_kernel(
            "mix_values_forward(qkv_p, weights_p, y_p, qkv_shape0, weights_shape1, weights_shape2,"
            " (int64_t)qkv_shape2*qkv_shape3)",
            {"qkv": qkv, "weights": weights},
            {"y": [n, c // 3, h, w]},
            cuda="channel_attention.cuh",
        )
        self.saved = qkv, temperature, weights, cosine, norms
        return out, weights

    def grad(self, g: jt.Var, _: None) -> tuple[jt.Var, jt.Var]:
        qkv, temperature, weights, cosine, norms = self.saved
        d_weights, _ = _head_products(g, qkv, (0, 2), temperature.shape[0])
        d_logit = weights * (d_weights - (weights * d_weights).sum(3, keepdims=True))
        d_cosine = d_logit * temperature
        norm_q, norm_k = norms[:, :, 0].unsqueeze(3), norms[:, :, 1].unsqueeze(2)
        # what the norms add to the gradients of q and k; a norm at its lower bound is a constant
        q_scale = -(d_cosine * cosine).sum(3, keepdims=True) / (norm_q * norm_q) * (norm_q > 1e-12)
        k_scale = -(d_cosine * cosine).sum(2, keepdims=True) / (norm_k * norm_k) * (norm_k > 1e-12)
        d_gram = d_cosine / (norm_q * norm_k)
        one_pixel = qkv.shape[2] * qkv.shape[3] == 1
        if one_pixel:  # divided by its norm it is its sign: no gradient
            d_gram, q_scale, k_scale = (jt.zeros(x.shape) for x in (d_gram, q_scale, k_scale))
        inputs = {"qkv": qkv, "g": g, "weights": weights, "d_gram": d_gram}
        d_qkv = call_kernel(
            "mix_values_backward(qkv_p, g_p, weights_p, d_gram_p, q_scale_p, k_scale_p, d_qkv_p,"
            " qkv_shape0, weights_shape1, weights_shape2, (int64_t)qkv_shape2*qkv_shape3)",
            {**inputs, "q_scale": q_scale, "k_scale": k_scale},
            {"d_qkv": qkv.shape},
            cuda="channel_attention.cuh",
        )
        return d_qkv, (d_logit * cosine).sum(3).sum(2).sum(0).reshape(temperature.shape)


def _head_products(
    x: jt.Var, y: jt.Var, parts: tuple[int, int], heads: int
) -> tuple[jt.Var, jt.Var]:
    """The products (N, heads, d, d) of each head's channels in two maps, and their squares.

    y (N, 3C, H, W), x the same or (N, C, H, W); parts: which C channels of each, 0 the first. The squares
    are (N, heads, 2, d), those of x and those of y.
    """
    n, c, h, w = y.shape
    d = c // 3 // heads
    sums = call_kernel(
        'int64_t C = y_shape1/3, P = (int64_t)y_shape2*y_shape3; head_products(x_p + (int64_t)data["x"]*C*P,'
        ' y_p + (int64_t)data["y"]*C*P, sums_p, sums_shape0, sums_shape1, sums_shape2, sums_shape4, P,'
        " x_shape1, y_shape1)",
        {"x": x, "y": y},
        {"sums": [num_blocks(h * w), n, heads, d + 2, d]},
        cuda="channel_attention.cuh",
        data={"x": parts[0], "y": parts[1]},
    ).sum(0)
    return sums[:, :, :d], sums[:, :, d:]
