"""What a BERT layer computes between its matrix products. For inference: there are no gradients."""

from __future__ import annotations

import math

from jfusion.errors import UserError
from jfusion.ops.checks import check_divisible, check_float, check_shape
from jfusion.ops.kernels import Function, call_kernel, use_kernel
from jfusion.runtime import jt, nn


def self_attention(qkv: jt.Var, lengths: jt.Var, heads: int) -> jt.Var:
    """Each token attends to the first `length` tokens of its sequence, scaled by 1/sqrt(d).

    qkv (N, L, 3H): queries, keys and values side by side, each in heads of d = H/heads; lengths (N,)
    int32, from 1 to L -> (N, L, H). Vaswani et al. 2017.
    """
    op = "self_attention"
    check_float(op, qkv=qkv)
    check_shape(op, "qkv", qkv, ("N", "L", "3H"))
    check_divisible(op, "the last axis of qkv", qkv.shape[2], 3 * heads)
    check_shape(op, "lengths", lengths, (qkv.shape[0],), f"for {qkv.shape[0]} sequences")
    if str(lengths.dtype) != "int32":
        raise UserError(f"{op}: lengths must be int32, not {lengths.dtype}")
    if use_kernel(qkv):
        return _SelfAttention(heads)(qkv, lengths)
    return self_attention_reference(qkv, lengths, heads)


def self_attention_reference(qkv: jt.Var, lengths: jt.Var, heads: int) -> jt.Var:
    """`self_attention` from stock Jittor."""
    n, length, width = qkv.shape
    size = width // 3 // heads
    q, k, v = qkv.reshape(n, length, 3, heads, size).permute(2, 0, 3, 1, 4)
    scores = jt.matmul(q, k.transpose(-1, -2)) / math.sqrt(size)
    seen = jt.arange(length).reshape(1, 1, 1, -1) < lengths.reshape(-1, 1, 1, 1)
    scores = jt.ternary(seen.broadcast(scores.shape), scores, jt.full_like(scores, -1e30))
    out = jt.matmul(nn.softmax(scores, -1), v)
    return out.permute(0, 2, 1, 3).reshape(n, length, width // 3)


def add_norm(
    x: jt.Var, bias: jt.Var, residual: jt.Var, weight: jt.Var, shift: jt.Var, eps: float
) -> jt.Var:
    """LayerNorm over the last axis of x + bias + residual, scaled by weight and moved by shift.

    x and residual (..., H); bias, weight and shift (H,); eps is added to the variance.
    """
    vectors = {"bias": bias, "weight": weight, "shift": shift}
    check_float("add_norm", x=x, residual=residual, **vectors)
    check_shape("add_norm", "residual", residual, x.shape, "as x is")
    for name, vector in vectors.items():
        check_shape("add_norm", name, vector, (x.shape[-1],), "for this x")
    if use_kernel(x, residual):
        return _AddNorm(eps)(x, bias, residual, weight, shift)
    return add_norm_reference(x, bias, residual, weight, shift, eps)


def add_norm_reference(
    x: jt.Var, bias: jt.Var, residual: jt.Var, weight: jt.Var, shift: jt.Var, eps: float
) -> jt.Var:
    """`add_norm` from stock Jittor."""
    total = x + bias + residual
    centered = total - total.mean(-1, keepdims=True)
    variance = (centered * centered).mean(-1, keepdims=True)
    return centered / jt.sqrt(variance + eps) * weight + shift


def bias_gelu(x: jt.Var, bias: jt.Var) -> jt.Var:
    """The exact (erf) GELU of x + bias; x (..., H), bias (H,)."""
    check_float("bias_gelu", x=x, bias=bias)
    check_shape("bias_gelu", "bias", bias, (x.shape[-1],), "for this x")
    return _BiasGelu()(x, bias) if use_kernel(x, bias) else bias_gelu_reference(x, bias)


def bias_gelu_reference(x: jt.Var, bias: jt.Var) -> jt.Var:
    """`bias_gelu` from stock Jittor."""
    return nn.gelu(x + bias)


class _Inference(Function):
    """A function without a gradient."""

    def grad(self, *_: jt.Var) -> None:
        raise NotImplementedError("the text encoder is frozen: its layers have no gradient")


class _SelfAttention(_Inference):
    def __init__(self, heads: int):
        super().__init__()
        self.heads = heads

    def execute(self, qkv: jt.Var, lengths: jt.Var) -> jt.Var:
        n, length, width = qkv.shape
        return call_kernel(
            'self_attention_forward(qkv_p, lengths_p, y_p, y_shape0, y_shape1, y_shape2, data["heads"])',
            {"qkv": qkv, "lengths": lengths},
            {"y": [n, length, width // 3]},
            cpu="bert.h",
            data={"heads": self.heads},
        )


class _AddNorm(_Inference):
    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps

    def execute(
        self, x: jt.Var, bias: jt.Var, residual: jt.Var, weight: jt.Var, shift: jt.Var
    ) -> jt.Var:
        inputs = {"x": x, "bias": bias, "residual": residual, "weight": weight, "shift": shift}
        return call_kernel(
            "add_norm_forward(x_p, bias_p, residual_p, weight_p, shift_p, y_p, x->num/bias_shape0,"
            ' bias_shape0, data["eps"])',
            inputs,
            {"y": x.shape},
            cpu="bert.h",
            data={"eps": self.eps},
        )


class _BiasGelu(_Inference):
    def execute(self, x: jt.Var, bias: jt.Var) -> jt.Var:
        return call_kernel(
            "bias_gelu_forward(x_p, bias_p, y_p, x->num/bias_shape0, bias_shape0)",
            {"x": x, "bias": bias},
            {"y": x.shape},
            cpu="bert.h",
        )
