"""Attention between the pixels of a feature map, a block of queries at a time.

The matrix of all weights, L x L for each head, is never held: 128 rows of it at a time are.
"""

from __future__ import annotations

import math

from jfusion.ops.kernels import HEADER, Function, use_kernel
from jfusion.runtime import jt, nn


def pixel_attention(qkv: jt.Var, heads: int, heads_first: bool) -> jt.Var:
    """softmax(q^T k / sqrt(d)) v for each head, d = C / heads.

    qkv (N, 3C, H, W) -> (N, C, H, W). heads_first: the channels are head 0's q, k, v, head 1's q,
    k, v, and so on; otherwise all q, all k, all v.
    """
    if use_kernel(qkv):
        return _PixelAttention(heads, heads_first)(qkv)
    return plain_pixel_attention(qkv, heads, heads_first)


def plain_pixel_attention(qkv: jt.Var, heads: int, heads_first: bool) -> jt.Var:
    """The same from stock Jittor."""
    n, c, h, w = qkv.shape
    size = c // 3 // heads
    if heads_first:
        q, k, v = qkv.reshape(n, heads, 3, size, h * w).permute(2, 0, 1, 3, 4)
    else:
        q, k, v = qkv.reshape(n, 3, heads, size, h * w).permute(1, 0, 2, 3, 4)
    weights = nn.softmax(jt.matmul(q.transpose(-1, -2), k) / math.sqrt(size), -1)
    return jt.matmul(v, weights.transpose(-1, -2)).reshape(n, c // 3, h, w)


_BLOCKS = (
    HEADER
    + """
// Rows of softmaxed weights: of the queries q (d, stride L) at p .. p+m, over all L keys.
static inline void weights_of(const float* q, const float* k, float* S, int64_t d, int64_t L, int64_t p,
                              int64_t m) {
    dnnl_sgemm('T', 'N', m, L, d, 1/std::sqrt((float)d), q + p, L, k, L, 0.f, S, L);
    for (int64_t i = 0; i < m; i++) {
        float *row = S + i*L, top = row[0], sum = 0;
        #pragma omp simd reduction(max:top)
        for (int64_t j = 0; j < L; j++) top = std::max(top, row[j]);
        #pragma omp simd reduction(+:sum)
        for (int64_t j = 0; j < L; j++) { row[j] = std::exp(row[j] - top); sum += row[j]; }
        sum = 1/sum;
        #pragma omp simd
        for (int64_t j = 0; j < L; j++) row[j] *= sum;
    }
}
"""
)


class _PixelAttention(Function):
    def __init__(self, heads: int, heads_first: bool):
        super().__init__()
        self.data = {"heads": heads, "heads_first": int(heads_first)}

    def execute(self, qkv: jt.Var) -> jt.Var:
        self.saved = qkv
        n, c, h, w = qkv.shape
        return jt.code(
            [n, c // 3, h, w],
            qkv.dtype,
            [qkv],
            cpu_header=_BLOCKS,
            data=self.data,
            cpu_src="""
            int64 N = in0_shape0, C = in0_shape1/3, L = (int64)in0_shape2*in0_shape3;
            int64 heads = data["heads"], d = C/heads, first = data["heads_first"];
            const int64 B = 128, blocks = (L + B - 1)/B;
            #pragma omp parallel
            {
                std::vector<float> S(std::min(B, L)*L);
                #pragma omp for collapse(3) schedule(dynamic, 1)
                for (int64 n = 0; n < N; n++) for (int64 h = 0; h < heads; h++) for (int64 t = 0; t < blocks; t++) {
                    int64 p = t*B, m = std::min(B, L - p), step = (first ? d : C)*L;
                    const float* q = in0_p + n*3*C*L + h*(first ? 3*d : d)*L;
                    const float *k = q + step, *v = k + step;
                    weights_of(q, k, S.data(), d, L, p, m);
                    dnnl_sgemm('N', 'T', d, m, L, 1.f, v, L, S.data(), L, 0.f, out_p + (n*C + h*d)*L + p, L);
                }
            }
            """,
        )

    def grad(self, g: jt.Var) -> jt.Var:
        qkv = self.saved
        return jt.code(
            qkv.shape,
            qkv.dtype,
            [qkv, g],
            cpu_header=_BLOCKS,
            data=self.data,
            cpu_src="""
            int64 N = in0_shape0, C = in0_shape1/3, L = (int64)in0_shape2*in0_shape3;
            int64 heads = data["heads"], d = C/heads, first = data["heads_first"];
            const int64 B = 128;
            #pragma omp parallel
            {
                std::vector<float> S(std::min(B, L)*L), T(std::min(B, L)*L);
                #pragma omp for collapse(2) schedule(dynamic, 1)
                for (int64 n = 0; n < N; n++) for (int64 h = 0; h < heads; h++) {
                    int64 step = (first ? d : C)*L, at = n*3*C*L + h*(first ? 3*d : d)*L;
                    const float *q = in0_p + at, *k = q + step, *v = k + step, *g = in1_p + (n*C + h*d)*L;
                    float *dq = out_p + at, *dk = dq + step, *dv = dk + step;
                    float scale = 1/std::sqrt((float)d);
                    std::fill(dk, dk + d*L, 0.f);
                    std::fill(dv, dv + d*L, 0.f);
                    for (int64 p = 0; p < L; p += B) {
                        int64 m = std::min(B, L - p);
                        weights_of(q, k, S.data(), d, L, p, m);
                        dnnl_sgemm('N', 'N', d, L, m, 1.f, g + p, L, S.data(), L, 1.f, dv, L);
                        dnnl_sgemm('T', 'N', m, L, d, 1.f, g + p, L, v, L, 0.f, T.data(), L);
                        for (int64 i = 0; i < m; i++) {
                            float *s = &S[i*L], *t = &T[i*L], dot = 0;
                            #pragma omp simd reduction(+:dot)
                            for (int64 j = 0; j < L; j++) dot += s[j]*t[j];
                            #pragma omp simd
                            for (int64 j = 0; j < L; j++) t[j] = scale*s[j]*(t[j] - dot);
                        }
                        dnnl_sgemm('N', 'T', d, m, L, 1.f, k, L, T.data(), L, 0.f, dq + p, L);
                        dnnl_sgemm('N', 'N', d, L, m, 1.f, q + p, L, T.data(), L, 1.f, dk, L);
                    }
                }
            }
            """,
        )
