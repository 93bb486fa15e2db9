"""Attention between the pixels of a feature map, a block of queries at a time.

The matrix of all weights, L x L for each head, is never held: 128 rows of it at a time are.
"""

from __future__ import annotations

import math

from jfusion.ops.checks import check_count, check_divisible, check_float, check_shape
from jfusion.ops.kernels import Function, call_kernel, use_kernel
from jfusion.runtime import jt, nn


def pixel_attention(qkv: jt.Var, heads: int, heads_first: bool) -> jt.Var:
    """softmax(q^T k / sqrt(d)) v for each head, d = C / heads (Vaswani et al., 2017).

    qkv (N, 3C, H, W) -> (N, C, H, W). heads_first: the channels are head 0's q, k, v, head 1's q,
    k, v, and so on; otherwise all q, all k, all v.
    """
    check_float("pixel_attention", qkv=qkv)
    check_shape("pixel_attention", "qkv", qkv, ("N", "3C", "H", "W"))
    check_count("pixel_attention", "heads", heads)
    check_divisible("pixel_attention", "the channels of qkv", qkv.shape[1], 3 * heads)
    if use_kernel(qkv):
        return _PixelAttention(heads, heads_first)(qkv)
    return pixel_attention_reference(qkv, heads, heads_first)


def pixel_attention_reference(qkv: jt.Var, heads: int, heads_first: bool) -> jt.Var:
    """`pixel_attention` from stock Jittor."""
    n, c, h, w = qkv.shape
    size = c // 3 // heads
    if heads_first:
        q, k, v = qkv.reshape(n, heads, 3, size, h * w).permute(2, 0, 1, 3, 4)
    else:
        q, k, v = qkv.reshape(n, 3, heads, size, h * w).permute(1, 0, 2, 3, 4)
    weights = nn.softmax(jt.matmul(q.transpose(-1, -2), k) / math.sqrt(size), -1)
    return jt.matmul(v, weights.transpose(-1, -2)).reshape(n, c // 3, h, w)


class _PixelAttention(Function):
    def __init__(self, heads: int, heads_first: bool):
        super().__init__()
        self.data = {"heads": heads, "heads_first": int(heads_first)}

    def execute(self, qkv: jt.Var) -> jt.Var:
        self.saved = qkv
        n, c, h, w = qkv.shape
        return call_kernel(
            "pixel_attention_forward(qkv_p, y_p, y_shape0, y_shape1, y_shape2*y_shape3,"
            ' data["heads"], data["heads_first"] != 0)',
            {"qkv": qkv},
            {"y": [n, c // 3, h, w]},
            cpu="pixel_attention.h",
            data=self.data,
        )

    def grad(self, g: jt.Var) -> jt.Var:
        qkv = self.saved
        return call_kernel(
            "pixel_attention_backward(qkv_p, g_p, d_qkv_p, g_shape0, g_shape1, g_shape2*g_shape3,"
            ' data["heads"], data["heads_first"] != 0)',
            {"qkv": qkv, "g": g},
            {"d_qkv": qkv.shape},
            cpu="pixel_attention.h",
            data=self.data,
        )
