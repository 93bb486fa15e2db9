"""FILM's attention from a paragraph to an image, and its kernel."""

from __future__ import annotations

from jfusion.ops.activation import copy
from jfusion.ops.kernels import HEADER, Function, use_kernel
from jfusion.ops.matmul import linear, matmul
from jfusion.ops.softmax import softmax, softmax_forward
from jfusion.runtime import jt, nn


class CrossAttention(nn.Module):
    """Multi-head attention with PyTorch's packed parameters (`in_proj_weight`, `out_proj`).

    `execute` is the textbook form; `pooled` is what FILM consumes of it, at a fraction of the work.
    """

    def __init__(self, dim: int, heads: int = 8):
        bound = (6 / (4 * dim)) ** 0.5  # Xavier over the packed (3 dim, dim) matrix
        self.heads = heads
        self.in_proj_weight = jt.init.uniform([3 * dim, dim], "float32", -bound, bound)
        self.in_proj_bias = jt.zeros(3 * dim)
        self.out_proj = nn.Linear(dim, dim)
        self.out_proj.bias.assign(jt.zeros(dim))

    def execute(self, query: jt.Var, key: jt.Var, value: jt.Var) -> tuple[jt.Var, jt.Var]:
        """Query (N, T, E), key and value (N, S, E) -> (N, T, E), weights (N, T, S) over heads' mean."""
        d = query.shape[-1]
        w, b = self.in_proj_weight, self.in_proj_bias
        packed = zip((query, key, value), (0, d, 2 * d), strict=True)
        q, k, v = (_split(linear(x, w[i : i + d], b[i : i + d]), self.heads) for x, i in packed)
        weights = softmax(matmul(q, k, tb=True) * (d // self.heads) ** -0.5)
        return linear(
            _joined(matmul(weights, v)), self.out_proj.weight, self.out_proj.bias
        ), weights.mean(1)

    def pooled(self, query: jt.Var, tokens: jt.Var) -> jt.Var:
        """The mean of `execute(query, tokens, tokens)` over the queries: (N, T, E), (N, S, E) -> (N, E).

        Exact up to rounding, by three identities: the mean over queries commutes with everything
        after the softmax, so one averaged row of weights per head is enough; the values' projection
        commutes with the weighted sum, so it is applied once per head and not to every token; and
        the key bias cancels in the softmax.
        """
        n, _, d = query.shape
        h, dh = self.heads, d // self.heads
        w, b = self.in_proj_weight, self.in_proj_bias
        q = linear(query, w[:d], b[:d]) * dh**-0.5
        k = linear(tokens, w[d : 2 * d])
        mixed = averaged_attention(q, k, tokens, h)  # (N, h, E)
        # head i reads its own dh rows of the value projection
        values = matmul(
            mixed.transpose(1, 0, 2), w[2 * d :].reshape(h, dh, d), tb=True
        )  # (h, N, dh)
        joined = values.transpose(1, 0, 2).reshape(n, d) + b[2 * d :]
        return linear(joined, self.out_proj.weight, self.out_proj.bias)


def averaged_attention(q: jt.Var, k: jt.Var, x: jt.Var, heads: int) -> jt.Var:
    """Mean over queries of softmax(q_h k_h^T), times x: one row per head.

    q (N, T, D), already scaled; k (N, S, D); x (N, S, E) -> (N, heads, E). Head h owns components
    h*D/heads .. (h+1)*D/heads - 1 of q and k.
    """
    if use_kernel(q, k, x):
        return _AveragedAttention(heads)(q, k, x)
    if use_kernel(q, k, x, cuda=True):
        return _AveragedAttentionCuda(heads)(q, k, x)
    return plain_averaged_attention(q, k, x, heads)


def plain_averaged_attention(q: jt.Var, k: jt.Var, x: jt.Var, heads: int) -> jt.Var:
    """The same from stock Jittor."""
    weights = softmax(jt.matmul(_split(q, heads), _split(k, heads).transpose(0, 1, 3, 2)))
    return jt.matmul(weights.mean(2), x)


def _split(x: jt.Var, heads: int) -> jt.Var:
    """(N, T, D) -> (N, heads, T, D / heads)."""
    n, t, d = x.shape
    return x.reshape(n, t, heads, d // heads).transpose(0, 2, 1, 3)


def _joined(x: jt.Var) -> jt.Var:
    """The inverse of `_split`."""
    n, heads, t, d = x.shape
    return x.transpose(0, 2, 1, 3).reshape(n, t, heads * d)


class _AveragedAttentionCuda(Function):
    """The (N, heads, T, S) weights are not kept; the gradient computes them again."""

    def __init__(self, heads: int):
        super().__init__()
        self.heads = heads

    def execute(self, q: jt.Var, k: jt.Var, x: jt.Var) -> jt.Var:
        q, k, x = (v.detach() for v in (q, k, x))
        q, k = _split(q, self.heads), _split(k, self.heads)
        weights = softmax_forward(matmul(q, k, tb=True)).mean(2)
        self.saved = q, k, x, weights
        return matmul(weights, x)

    def grad(self, g: jt.Var) -> tuple[jt.Var, jt.Var, jt.Var]:
        q, k, x, weights = self.saved
        g = g.detach()
        d_weights = matmul(g, x, tb=True).unsqueeze(2)
        rows = softmax_forward(matmul(copy(q, after=g), k, tb=True))
        dot = (rows * d_weights).sum(3, keepdims=True)
        slope = rows * (d_weights - dot) / q.shape[2]
        dq, dk = matmul(slope, k), matmul(slope, q, ta=True)
        return _joined(dq), _joined(dk), matmul(weights, g, ta=True)


class _AveragedAttention(Function):
    """Queries are taken a few at a time, so that their rows of weights stay in the cache and the
    (N, heads, T, S) weights never exist; the gradient computes them again."""

    def __init__(self, heads: int):
        self.heads = heads

    def execute(self, q: jt.Var, k: jt.Var, x: jt.Var) -> jt.Var:
        n, s, _ = x.shape
        weights = jt.code(
            [n, self.heads, s],
            q.dtype,
            [q, k],
            cpu_header=_ROWS_OF_WEIGHTS,
            data={"heads": self.heads},
            cpu_src="""
            int64 h = data["heads"], N = in0_shape0, T = in0_shape1, D = in0_shape2, S = in1_shape1;
            int64 dh = D / h;
            #pragma omp parallel for collapse(2) schedule(dynamic, 1)
            for (int64 n = 0; n < N; n++) for (int64 i = 0; i < h; i++) {
                std::vector<float> P(ROWS*S);
                float* mean = out_p + (n*h + i)*S;
                std::fill(mean, mean + S, 0.f);
                for (int64 t = 0; t < T; t += ROWS) {
                    int64 m = std::min<int64>(ROWS, T - t);
                    weights(in0_p + (n*T + t)*D + i*dh, in1_p + n*S*D + i*dh, P.data(), m, S, D, dh);
                    for (int64 r = 0; r < m; r++) for (int64 j = 0; j < S; j++) mean[j] += P[r*S + j];
                }
                for (int64 j = 0; j < S; j++) mean[j] /= T;
            }
            """,
        )
        self.saved = q, k, x, weights
        return matmul(weights, x)

    def grad(self, g: jt.Var) -> tuple[jt.Var, jt.Var, jt.Var]:
        q, k, x, weights = self.saved
        d_weights = matmul(g, x, tb=True)
        dq, dk = jt.code(
            [q.shape, k.shape],
            [q.dtype] * 2,
            [q, k, d_weights],
            cpu_header=_ROWS_OF_WEIGHTS,
            data={"heads": self.heads},
            cpu_src="""
            int64 h = data["heads"], N = in0_shape0, T = in0_shape1, D = in0_shape2, S = in1_shape1;
            int64 dh = D / h;
            #pragma omp parallel for collapse(2) schedule(dynamic, 1)
            for (int64 n = 0; n < N; n++) for (int64 i = 0; i < h; i++) {
                std::vector<float> P(ROWS*S);
                const float *Q = in0_p + n*T*D + i*dh, *K = in1_p + n*S*D + i*dh;
                const float* g = in2_p + (n*h + i)*S;
                float *dQ = out0_p + n*T*D + i*dh, *dK = out1_p + n*S*D + i*dh;
                for (int64 t = 0; t < T; t += ROWS) {
                    int64 m = std::min<int64>(ROWS, T - t);
                    weights(Q + t*D, K, P.data(), m, S, D, dh);
                    for (int64 r = 0; r < m; r++) {
                        float *p = &P[r*S], dot = 0;
                        #pragma omp simd reduction(+:dot)
                        for (int64 j = 0; j < S; j++) dot += p[j]*g[j];
                        for (int64 j = 0; j < S; j++) p[j] *= (g[j] - dot)/T;
                    }
                    dnnl_sgemm('N', 'N', m, dh, S, 1.f, P.data(), S, K, D, 0.f, dQ + t*D, D);
                    dnnl_sgemm('T', 'N', S, dh, m, 1.f, P.data(), S, Q + t*D, D, t ? 1.f : 0.f, dK, D);
                }
            }
            """,
        )
        return dq, dk, matmul(weights, g, ta=True)


_ROWS_OF_WEIGHTS = (
    HEADER
    + """
static const int64_t ROWS = 16;
// P (m, S): softmax of m queries against S keys; rows of Q and K are D apart, dh long.
static inline void weights(const float* Q, const float* K, float* P, int64_t m, int64_t S,
                           int64_t D, int64_t dh) {
    dnnl_sgemm('N', 'T', m, S, dh, 1.f, Q, D, K, D, 0.f, P, S);
    for (int64_t r = 0; r < m; r++) {
        float *p = P + r*S, top = p[0], sum = 0;
        #pragma omp simd reduction(max:top)
        for (int64_t j = 0; j < S; j++) top = p[j] > top ? p[j] : top;
        #pragma omp simd reduction(+:sum)
        for (int64_t j = 0; j < S; j++) { float e = std::exp(p[j] - top); p[j] = e; sum += e; }
        float scale = 1.f / sum;
        for (int64_t j = 0; j < S; j++) p[j] *= scale;
    }
}
"""
)
