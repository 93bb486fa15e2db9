"""What a BERT layer does between its matrix products. For inference: there are no gradients."""

from __future__ import annotations

import math

from jfusion.ops.activation import ERF
from jfusion.ops.kernels import HEADER, Function, use_kernel
from jfusion.runtime import jt, nn


def self_attention(qkv: jt.Var, lengths: jt.Var, heads: int) -> jt.Var:
    """Each token attends to the first `length` tokens of its sequence, scaled by 1/sqrt(d).

    qkv (N, L, 3H): queries, keys and values side by side, each in heads of d = H/heads; lengths (N,)
    int32, at least 1 -> (N, L, H). Vaswani et al. 2017.
    """
    if use_kernel(qkv):
        return _SelfAttention(heads)(qkv, lengths)
    return plain_self_attention(qkv, lengths, heads)


def plain_self_attention(qkv: jt.Var, lengths: jt.Var, heads: int) -> jt.Var:
    """The same from stock Jittor."""
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
    """LayerNorm over the last axis of x + bias + residual; x (..., H), the vectors (H,)."""
    if use_kernel(x, residual):
        return _AddNorm(eps)(x, bias, residual, weight, shift)
    return plain_add_norm(x, bias, residual, weight, shift, eps)


def plain_add_norm(
    x: jt.Var, bias: jt.Var, residual: jt.Var, weight: jt.Var, shift: jt.Var, eps: float
) -> jt.Var:
    """The same from stock Jittor."""
    total = x + bias + residual
    centred = total - total.mean(-1, keepdims=True)
    variance = (centred * centred).mean(-1, keepdims=True)
    return centred / jt.sqrt(variance + eps) * weight + shift


def bias_gelu(x: jt.Var, bias: jt.Var) -> jt.Var:
    """The exact (erf) GELU of x + bias; x (..., H), bias (H,)."""
    return _BiasGelu()(x, bias) if use_kernel(x, bias) else plain_bias_gelu(x, bias)


def plain_bias_gelu(x: jt.Var, bias: jt.Var) -> jt.Var:
    """The same from stock Jittor."""
    return nn.gelu(x + bias)


class _Inference(Function):
    def grad(self, *_: jt.Var) -> None:
        raise NotImplementedError("the text encoder is frozen: its layers have no gradient")


class _SelfAttention(_Inference):
    def __init__(self, heads: int):
        self.heads = heads

    def execute(self, qkv: jt.Var, lengths: jt.Var) -> jt.Var:
        n, length, width = qkv.shape
        return jt.code(
            [n, length, width // 3],
            qkv.dtype,
            [qkv, lengths],
            cpu_header=HEADER,
            data={"heads": self.heads},
            cpu_src="""
            int64 N = in0_shape0, L = in0_shape1, W = in0_shape2, H = W/3, heads = data["heads"];
            int64 d = H/heads;
            float scale = 1.f/std::sqrt((float)d);
            #pragma omp parallel
            {
                std::vector<float> scores(L*L);
                #pragma omp for collapse(2) schedule(dynamic, 1)
                for (int64 n = 0; n < N; n++)
                for (int64 h = 0; h < heads; h++) {
                    const float* q = in0_p + n*L*W + h*d;
                    int64 seen = in1_p[n];
                    dnnl_sgemm('N', 'T', L, seen, d, scale, q, W, q + H, W, 0.f, scores.data(), seen);
                    for (int64 i = 0; i < L; i++) {
                        float *s = scores.data() + i*seen, top = s[0], sum = 0;
                        #pragma omp simd reduction(max:top)
                        for (int64 j = 0; j < seen; j++) top = s[j] > top ? s[j] : top;
                        #pragma omp simd reduction(+:sum)
                        for (int64 j = 0; j < seen; j++) { s[j] = std::exp(s[j] - top); sum += s[j]; }
                        for (int64 j = 0; j < seen; j++) s[j] /= sum;
                    }
                    dnnl_sgemm('N', 'N', L, d, seen, 1.f, scores.data(), seen, q + 2*H, W, 0.f,
                               out_p + n*L*H + h*d, H);
                }
            }
            """,
        )


class _AddNorm(_Inference):
    def __init__(self, eps: float):
        self.eps = eps

    def execute(self, x: jt.Var, bias: jt.Var, residual: jt.Var, weight: jt.Var, shift: jt.Var):
        return jt.code(
            x.shape,
            x.dtype,
            [x, bias, residual, weight, shift],
            cpu_header=HEADER,
            data={"eps": self.eps},
            cpu_src="""
            int64 H = in1_shape0, rows = in0->num / H;
            float eps = data["eps"];
            #pragma omp parallel for
            for (int64 r = 0; r < rows; r++) {
                const float *x = in0_p + r*H, *z = in2_p + r*H;
                float *y = out_p + r*H, mean = 0, square = 0;
                #pragma omp simd reduction(+:mean)
                for (int64 i = 0; i < H; i++) { y[i] = x[i] + in1_p[i] + z[i]; mean += y[i]; }
                mean /= H;
                #pragma omp simd reduction(+:square)
                for (int64 i = 0; i < H; i++) { y[i] -= mean; square += y[i]*y[i]; }
                float scale = 1.f/std::sqrt(square/H + eps);
                #pragma omp simd
                for (int64 i = 0; i < H; i++) y[i] = y[i]*scale*in3_p[i] + in4_p[i];
            }
            """,
        )


class _BiasGelu(_Inference):
    def execute(self, x: jt.Var, bias: jt.Var) -> jt.Var:
        return jt.code(
            x.shape,
            x.dtype,
            [x, bias],
            cpu_header=ERF,
            cpu_src="""
            int64 H = in1_shape0, rows = in0->num / H;
            #pragma omp parallel for
            for (int64 r = 0; r < rows; r++) {
                const float* x = in0_p + r*H;
                float* y = out_p + r*H;
                #pragma omp simd
                for (int64 i = 0; i < H; i++) {
                    float v = x[i] + in1_p[i];
                    y[i] = 0.5f*v*(1.f + erf_fast(v*0.70710678f));
                }
            }
            """,
        )
