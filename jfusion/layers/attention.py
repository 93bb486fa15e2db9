"""Attention over channels (Restormer) and from text to image tokens (FILM)."""

from __future__ import annotations

from jfusion.layers.cpu import HEADER, use_kernel
from jfusion.layers.expand import expand_backward, expand_forward, plain_expand_depthwise
from jfusion.layers.matmul import linear, matmul
from jfusion.layers.norm import norm_backward, norm_forward, plain_channel_layer_norm
from jfusion.runtime import jt, nn


def softmax(x: jt.Var) -> jt.Var:
    """Softmax over the last axis."""
    return _Softmax()(x) if use_kernel(x) else plain_softmax(x)


def plain_softmax(x: jt.Var) -> jt.Var:
    """The same from stock Jittor (its sums over thousands of values lose two digits in float32)."""
    e = jt.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class _Softmax(jt.Function):
    def execute(self, x: jt.Var) -> jt.Var:
        self.saved = jt.code(
            x.shape,
            x.dtype,
            [x],
            cpu_header=HEADER,
            cpu_src="""
            int64 S = in0->shape[in0->shape.size() - 1], rows = in0->num / S;
            #pragma omp parallel for
            for (int64 r = 0; r < rows; r++) {
                const float* x = in0_p + r*S;
                float *y = out_p + r*S, top = x[0], sum = 0;
                #pragma omp simd reduction(max:top)
                for (int64 j = 0; j < S; j++) top = x[j] > top ? x[j] : top;
                #pragma omp simd reduction(+:sum)
                for (int64 j = 0; j < S; j++) { float e = std::exp(x[j] - top); y[j] = e; sum += e; }
                for (int64 j = 0; j < S; j++) y[j] /= sum;
            }
            """,
        )
        return self.saved

    def grad(self, g: jt.Var) -> jt.Var:
        return jt.code(
            g.shape,
            g.dtype,
            [self.saved, g],
            cpu_header=HEADER,
            cpu_src="""
            int64 S = in0->shape[in0->shape.size() - 1], rows = in0->num / S;
            #pragma omp parallel for
            for (int64 r = 0; r < rows; r++) {
                const float *y = in0_p + r*S, *g = in1_p + r*S;
                float *dx = out_p + r*S, dot = 0;
                #pragma omp simd reduction(+:dot)
                for (int64 j = 0; j < S; j++) dot += y[j]*g[j];
                for (int64 j = 0; j < S; j++) dx[j] = y[j]*(g[j] - dot);
            }
            """,
        )


# ---- channel attention -------------------------------------------------------------------------


def channel_attention(
    x: jt.Var,
    norm: tuple[jt.Var, jt.Var],
    expand: jt.Var,
    depthwise: jt.Var,
    temperature: jt.Var,
) -> tuple[jt.Var, jt.Var]:
    """Attention between the channels of each head (Restormer, equation 1).

    x (N, I, H, W) is normalised over its channels (norm: weight and bias, (I,)); of the result,
    `expand_depthwise` makes q, k and v, C channels each; head h owns channels h*C/heads onwards.
    expand (3C, I, 1, 1), depthwise (3C, 1, 3, 3); temperature (heads, 1, 1) multiplies the cosine
    similarity. Returns the result (N, C, H, W) and the softmaxed
    (N, heads, C/heads, C/heads) matrix, which is to look at: no gradient flows through it.
    """
    if use_kernel(x, *norm, expand, depthwise, temperature):
        out, weights, *_ = _ChannelAttention()(x, *norm, expand, depthwise, temperature)
    else:
        out, weights = plain_channel_attention(x, norm, expand, depthwise, temperature)
    return out, weights.detach()


def plain_channel_attention(
    x: jt.Var,
    norm: tuple[jt.Var, jt.Var],
    expand: jt.Var,
    depthwise: jt.Var,
    temperature: jt.Var,
) -> tuple[jt.Var, jt.Var]:
    """The same from stock Jittor."""
    qkv = plain_expand_depthwise(plain_channel_layer_norm(x, *norm), expand, depthwise)
    return plain_cosine_attention(qkv, temperature)


def cosine_attention(qkv: jt.Var, temperature: jt.Var) -> jt.Var:
    """`channel_attention` from q, k and v on: qkv (N, 3C, H, W) -> (N, C, H, W)."""
    if use_kernel(qkv, temperature):
        return _CosineAttention(crossed=False)(qkv, temperature)
    return plain_cosine_attention(qkv, temperature)[0]


def crossed_cosine_attention(qkv: jt.Var, temperature: jt.Var) -> jt.Var:
    """`cosine_attention` with the queries of the batch's other half, each added with unit norm.

    qkv (2N, 3C, H, W) -> (2N, C, H, W); sample i takes its queries from sample i + N (modulo 2N).
    """
    if use_kernel(qkv, temperature):
        return _CosineAttention(crossed=True)(qkv, temperature)
    return plain_crossed_cosine_attention(qkv, temperature)


def plain_cosine_attention(qkv: jt.Var, temperature: jt.Var) -> tuple[jt.Var, jt.Var]:
    """The same from stock Jittor, and the softmaxed matrix."""
    q, k, v = _heads(qkv, temperature.shape[0])
    q, k = _unit(q), _unit(k)
    weights = softmax(jt.matmul(q, k.transpose(0, 1, 3, 2)) * temperature)
    n, c, h, w = qkv.shape
    return jt.matmul(weights, v).reshape(n, c // 3, h, w), weights


def plain_crossed_cosine_attention(qkv: jt.Var, temperature: jt.Var) -> jt.Var:
    """The same from stock Jittor."""
    n, c, h, w = qkv.shape
    q, k, v = _heads(qkv, temperature.shape[0])
    q = jt.concat([q[n // 2 :], q[: n // 2]])
    q, k = _unit(q), _unit(k)
    weights = softmax(jt.matmul(q, k.transpose(0, 1, 3, 2)) * temperature)
    return (jt.matmul(weights, v) + q).reshape(n, c // 3, h, w)


def _heads(qkv: jt.Var, heads: int) -> jt.Var:
    n, c, h, w = qkv.shape
    return qkv.reshape(n, 3, heads, c // 3 // heads, h * w).transpose(1, 0, 2, 3, 4)


def _unit(x: jt.Var) -> jt.Var:
    return x / jt.maximum(jt.sqrt((x * x).sum(-1, keepdims=True)), 1e-12)


class _ChannelAttention(jt.Function):
    """The Gram matrix of q and k is divided by their norms, so normalised q and k are never written;
    sums over pixels are taken in blocks and added in double precision. The gradient makes the
    normalised x and q, k, v again: together they are four times as large as x."""

    def execute(
        self,
        x: jt.Var,
        weight: jt.Var,
        bias: jt.Var,
        expand: jt.Var,
        depthwise: jt.Var,
        temperature: jt.Var,
    ) -> tuple[jt.Var, ...]:
        normal, _ = norm_forward(x, weight, bias)
        out, *matrices = _attend(expand_forward(normal, expand, depthwise), temperature)
        self.saved = (x, weight, bias), (expand, depthwise), temperature, matrices
        return out, *matrices

    def grad(self, g: jt.Var, *_: None) -> tuple[jt.Var, ...]:
        normed, expansion, temperature, matrices = self.saved
        normal, statistics = norm_forward(*normed, after=g)
        qkv = expand_forward(normal, *expansion)
        d_qkv, d_temperature = _attend_backward(qkv, temperature, *matrices, g)
        d_normal, *d_expansion = expand_backward(normal, *expansion, d_qkv)
        d_normed = norm_backward(*normed[:2], statistics, d_normal)
        return (*d_normed, *d_expansion, d_temperature)


class _CosineAttention(jt.Function):
    def __init__(self, crossed: bool):
        super().__init__()
        self.crossed = crossed

    def execute(self, qkv: jt.Var, temperature: jt.Var) -> jt.Var:
        out, *matrices = _attend(qkv, temperature, self.crossed)
        self.saved = qkv, temperature, *matrices
        return out

    def grad(self, g: jt.Var) -> tuple[jt.Var, jt.Var]:
        return _attend_backward(*self.saved, g, self.crossed)


def _attend(qkv: jt.Var, temperature: jt.Var, crossed: bool = False) -> tuple[jt.Var, ...]:
    """Result, softmaxed matrix, cosines, and the norms of q and k."""
    n, c, h, w = qkv.shape
    heads = temperature.shape[0]
    d = c // 3 // heads
    return tuple(
        jt.code(
            [[n, c // 3, h, w], [n, heads, d, d], [n, heads, d, d], [n, heads, 2, d]],
            [qkv.dtype] * 4,
            [qkv, temperature],
            cpu_header=HEADER,
            data={"crossed": int(crossed)},
            cpu_src="""
            int64 N = in0_shape0, C = in0_shape1/3, P = (int64)in0_shape2*in0_shape3;
            int64 heads = in1_shape0, d = C/heads;
            bool crossed = data["crossed"] != 0;
            const int64 B = 4096;
            #pragma omp parallel for collapse(2) schedule(dynamic, 1)
            for (int64 n = 0; n < N; n++) for (int64 i = 0; i < heads; i++) {
                const float* q = in0_p + ((crossed ? (n + N/2) % N : n)*3*C + i*d)*P;
                const float *k = in0_p + (n*3*C + C + i*d)*P, *v = k + C*P;
                float *A = out1_p + (n*heads + i)*d*d, *cosine = out2_p + (n*heads + i)*d*d;
                float *norm_q = out3_p + (n*heads + i)*2*d, *norm_k = norm_q + d;
                std::vector<double> gram(d*d, 0.0), square(2*d, 0.0);
                std::vector<float> part(d*d);
                for (int64 p = 0; p < P; p += B) {
                    int64 m = std::min(B, P - p);
                    dnnl_sgemm('N', 'T', d, d, m, 1.f, q + p, P, k + p, P, 0.f, part.data(), d);
                    for (int64 j = 0; j < d*d; j++) gram[j] += part[j];
                    for (int64 j = 0; j < 2*d; j++) {
                        const float* row = (j < d ? q + j*P : k + (j-d)*P) + p;
                        float s = 0;
                        #pragma omp simd reduction(+:s)
                        for (int64 x = 0; x < m; x++) s += row[x]*row[x];
                        square[j] += s;
                    }
                }
                for (int64 j = 0; j < 2*d; j++)
                    norm_q[j] = std::max((float)std::sqrt(square[j]), 1e-12f);
                for (int64 r = 0; r < d; r++) {
                    float top = -1e38f, sum = 0;
                    for (int64 j = 0; j < d; j++) {
                        cosine[r*d + j] = gram[r*d + j]/((double)norm_q[r]*norm_k[j]);
                        A[r*d + j] = cosine[r*d + j]*in1_p[i];
                        top = std::max(top, A[r*d + j]);
                    }
                    for (int64 j = 0; j < d; j++) sum += A[r*d + j] = std::exp(A[r*d + j] - top);
                    for (int64 j = 0; j < d; j++) A[r*d + j] /= sum;
                }
                float* y = out0_p + (n*C + i*d)*P;
                for (int64 p = 0; p < P; p += B)
                    dnnl_sgemm('N', 'N', d, std::min(B, P - p), d, 1.f, A, d, v + p, P, 0.f, y + p, P);
                if (crossed) for (int64 r = 0; r < d; r++) {
                    #pragma omp simd
                    for (int64 p = r*P; p < r*P + P; p++) y[p] += q[p]/norm_q[r];
                }
            }
            """,
        )
    )


def _attend_backward(
    qkv: jt.Var,
    temperature: jt.Var,
    weights: jt.Var,
    cosine: jt.Var,
    norms: jt.Var,
    g: jt.Var,
    crossed: bool = False,
) -> tuple[jt.Var, jt.Var]:
    d_qkv, d_temperature = jt.code(
        [qkv.shape, [qkv.shape[0], temperature.shape[0]]],
        [qkv.dtype] * 2,
        [qkv, temperature, weights, cosine, norms, g],
        cpu_header=HEADER,
        data={"crossed": int(crossed)},
        cpu_src="""
        int64 N = in0_shape0, C = in0_shape1/3, P = (int64)in0_shape2*in0_shape3;
        int64 heads = in1_shape0, d = C/heads;
        bool crossed = data["crossed"] != 0;
        const int64 B = 4096;
        #pragma omp parallel for collapse(2) schedule(dynamic, 1)
        for (int64 n = 0; n < N; n++) for (int64 i = 0; i < heads; i++) {
            int64 at_q = ((crossed ? (n + N/2) % N : n)*3*C + i*d)*P, at_k = (n*3*C + C + i*d)*P;
            const float *q = in0_p + at_q, *k = in0_p + at_k, *v = k + C*P;
            float *dq = out0_p + at_q, *dk = out0_p + at_k, *dv = dk + C*P;
            const float *A = in2_p + (n*heads + i)*d*d, *cosine = in3_p + (n*heads + i)*d*d;
            const float *norm_q = in4_p + (n*heads + i)*2*d, *norm_k = norm_q + d;
            const float* g = in5_p + (n*C + i*d)*P;
            std::vector<double> dA(d*d, 0.0);
            std::vector<float> part(d*d), gram(d*d), own_q(d*d, 0.f), own_k(d*d, 0.f);
            for (int64 p = 0; p < P; p += B) {
                int64 m = std::min(B, P - p);
                dnnl_sgemm('N', 'T', d, d, m, 1.f, g + p, P, v + p, P, 0.f, part.data(), d);
                for (int64 j = 0; j < d*d; j++) dA[j] += part[j];
            }
            double d_temperature = 0;
            for (int64 r = 0; r < d; r++) {
                double dot = 0;
                for (int64 j = 0; j < d; j++) dot += A[r*d + j]*dA[r*d + j];
                for (int64 j = 0; j < d; j++) {
                    double logit = A[r*d + j]*(dA[r*d + j] - dot), slope = logit*in1_p[i];
                    d_temperature += logit*cosine[r*d + j];
                    gram[r*d + j] = slope/((double)norm_q[r]*norm_k[j]);
                    // the norms' own share; at the lower clamp they are constants
                    if (norm_q[r] > 1e-12f)
                        own_q[r*d + r] -= slope*cosine[r*d + j]/((double)norm_q[r]*norm_q[r]);
                    if (norm_k[j] > 1e-12f)
                        own_k[j*d + j] -= slope*cosine[r*d + j]/((double)norm_k[j]*norm_k[j]);
                }
            }
            out1_p[n*heads + i] = d_temperature;
            if (crossed) for (int64 r = 0; r < d; r++) if (norm_q[r] > 1e-12f) {
                double dot = 0;  // the share of the norm in q / norm
                for (int64 p = 0; p < P; p += B) {
                    float s = 0;
                    #pragma omp simd reduction(+:s)
                    for (int64 x = p; x < std::min(p + B, P); x++) s += g[r*P + x]*q[r*P + x];
                    dot += s;
                }
                own_q[r*d + r] -= dot/((double)norm_q[r]*norm_q[r]*norm_q[r]);
            }
            for (int64 p = 0; p < P; p += B) {
                int64 m = std::min(B, P - p);
                dnnl_sgemm('N', 'N', d, m, d, 1.f, gram.data(), d, k + p, P, 0.f, dq + p, P);
                dnnl_sgemm('N', 'N', d, m, d, 1.f, own_q.data(), d, q + p, P, 1.f, dq + p, P);
                dnnl_sgemm('T', 'N', d, m, d, 1.f, gram.data(), d, q + p, P, 0.f, dk + p, P);
                dnnl_sgemm('N', 'N', d, m, d, 1.f, own_k.data(), d, k + p, P, 1.f, dk + p, P);
                dnnl_sgemm('T', 'N', d, m, d, 1.f, A, d, g + p, P, 0.f, dv + p, P);
                if (crossed) for (int64 r = 0; r < d; r++) {
                    #pragma omp simd
                    for (int64 x = p; x < p + m; x++) dq[r*P + x] += g[r*P + x]/norm_q[r];
                }
            }
        }
        """,
    )
    return d_qkv, d_temperature.sum(0).reshape(temperature.shape)


# ---- cross-attention ---------------------------------------------------------------------------


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
        """query (N, T, E), key and value (N, S, E) -> (N, T, E), weights (N, T, S) over heads' mean."""
        d = query.shape[-1]
        w, b = self.in_proj_weight, self.in_proj_bias
        packed = zip((query, key, value), (0, d, 2 * d), strict=True)
        q, k, v = (self._split(linear(x, w[i : i + d], b[i : i + d])) for x, i in packed)
        weights = softmax(matmul(q, k, tb=True) * (d // self.heads) ** -0.5)
        joined = matmul(weights, v).transpose(0, 2, 1, 3).reshape(query.shape)
        return linear(joined, self.out_proj.weight, self.out_proj.bias), weights.mean(1)

    def _split(self, x: jt.Var) -> jt.Var:
        n, t, d = x.shape
        return x.reshape(n, t, self.heads, d // self.heads).transpose(0, 2, 1, 3)

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
    """mean over queries of softmax(q_h k_h^T), times x: one row per head.

    q (N, T, D), already scaled; k (N, S, D); x (N, S, E) -> (N, heads, E). Head h owns components
    h*D/heads .. (h+1)*D/heads - 1 of q and k.
    """
    if use_kernel(q, k, x):
        return _AveragedAttention(heads)(q, k, x)
    return plain_averaged_attention(q, k, x, heads)


def plain_averaged_attention(q: jt.Var, k: jt.Var, x: jt.Var, heads: int) -> jt.Var:
    """The same from stock Jittor."""
    n, _, d = q.shape

    def split(y: jt.Var) -> jt.Var:
        return y.reshape(n, -1, heads, d // heads).transpose(0, 2, 1, 3)

    weights = softmax(jt.matmul(split(q), split(k).transpose(0, 1, 3, 2)))
    return jt.matmul(weights.mean(2), x)


class _AveragedAttention(jt.Function):
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
