"""Attention between the channels of each head (Restormer)."""

from __future__ import annotations

from jfusion.ops.expand import expand_backward, expand_depthwise, expand_forward
from jfusion.ops.kernels import CUDA_HEADER, HEADER, Function, shares, use_kernel
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
    """The same, part by part."""
    qkv = expand_depthwise(channel_layer_norm(x, *norm), expand, depthwise)
    return _cosine_attention(qkv, temperature)


def cosine_attention(qkv: jt.Var, temperature: jt.Var) -> jt.Var:
    """`channel_attention` from q, k and v on: qkv (N, 3C, H, W) -> (N, C, H, W)."""
    return _cosine_attention(qkv, temperature)[0]


def _cosine_attention(qkv: jt.Var, temperature: jt.Var) -> tuple[jt.Var, jt.Var]:
    """The result, and the softmaxed matrix."""
    if use_kernel(qkv, temperature):
        return _CosineAttention(crossed=False)(qkv, temperature)
    if use_kernel(qkv, temperature, cuda=_width(qkv, temperature) in _CUDA_WIDTHS):
        return _CosineAttentionCuda()(qkv, temperature)
    return plain_cosine_attention(qkv, temperature)


def crossed_cosine_attention(qkv: jt.Var, temperature: jt.Var) -> jt.Var:
    """`cosine_attention` with the queries of the batch's other half, each added with unit norm.

    qkv (2N, 3C, H, W) -> (2N, C, H, W); sample i takes its queries from sample i + N (modulo 2N).
    """
    if use_kernel(qkv, temperature):
        return _CosineAttention(crossed=True)(qkv, temperature)[0]
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


def _width(qkv: jt.Var, temperature: jt.Var) -> int:
    return qkv.shape[1] // 3 // temperature.shape[0]


def _unit(x: jt.Var) -> jt.Var:
    return x / jt.maximum(jt.sqrt((x * x).sum(-1, keepdims=True)), 1e-12)


class _ChannelAttention(Function):
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
        normal, statistics = norm_forward(*normed, depends_on=g)
        qkv = expand_forward(normal, *expansion)
        d_qkv, d_temperature = _attend_backward(qkv, temperature, *matrices, g)
        d_normal, *d_expansion = expand_backward(normal, *expansion, d_qkv)
        d_normed = norm_backward(*normed[:2], statistics, d_normal)
        return (*d_normed, *d_expansion, d_temperature)


class _CosineAttention(Function):
    def __init__(self, crossed: bool):
        super().__init__()
        self.crossed = crossed

    def execute(self, qkv: jt.Var, temperature: jt.Var) -> tuple[jt.Var, jt.Var]:
        out, weights, *norms = _attend(qkv, temperature, self.crossed)
        self.saved = qkv, temperature, weights, *norms
        return out, weights

    def grad(self, g: jt.Var, _: None) -> tuple[jt.Var, jt.Var]:
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


# The channels of a head that a GPU's kernels are compiled for: they hold a matrix of them in registers.
_CUDA_WIDTHS = (1, 2, 4, 8)


class _CosineAttentionCuda(Function):
    """q, k and v are read where they are; their products go through small matrices, one for each head."""

    def execute(self, qkv: jt.Var, temperature: jt.Var) -> tuple[jt.Var, jt.Var]:
        n, c, h, w = qkv.shape
        heads = temperature.shape[0]
        gram, squares = _products(qkv, qkv, (0, 1), heads)
        norms = jt.maximum(jt.sqrt(squares), 1e-12)
        cosine = gram / (norms[:, :, 0].unsqueeze(3) * norms[:, :, 1].unsqueeze(2))
        weights = softmax(cosine * temperature)
        out = jt.code(
            [n, c // 3, h, w],
            qkv.dtype,
            [qkv, weights],
            cuda_header=_HEADS,
            cuda_src="""
            int heads = in1_shape1;
            int64_t P = (int64_t)in0_shape2*in0_shape3;
            #define RUN(D) mix<D><<<grid_for(in0_shape0*heads, P), THREADS>>>(in0_p, in1_p, out_p, heads, P)
            FOR_WIDTH(in1_shape2, RUN)
            """,
        )
        self.saved = qkv, temperature, weights, cosine, norms
        return out, weights

    def grad(self, g: jt.Var, _: None) -> tuple[jt.Var, jt.Var]:
        qkv, temperature, weights, cosine, norms = self.saved
        d_weights, _ = _products(g, qkv, (0, 2), temperature.shape[0])
        logit = weights * (d_weights - (weights * d_weights).sum(3, keepdims=True))
        slope = logit * temperature
        of_q, of_k = norms[:, :, 0].unsqueeze(3), norms[:, :, 1].unsqueeze(2)
        # the norms' own share; at the lower clamp they are constants
        own_q = -(slope * cosine).sum(3, keepdims=True) / (of_q * of_q) * (of_q > 1e-12)
        own_k = -(slope * cosine).sum(2, keepdims=True) / (of_k * of_k) * (of_k > 1e-12)
        d_qkv = jt.code(
            qkv.shape,
            qkv.dtype,
            [qkv, g, weights, slope / (of_q * of_k), own_q, own_k],
            cuda_header=_HEADS,
            cuda_src="""
            int heads = in2_shape1;
            int64_t P = (int64_t)in0_shape2*in0_shape3;
            #define RUN(D) slopes<D><<<grid_for(in0_shape0*heads, P), THREADS>>>( \\
                in0_p, in1_p, in2_p, in3_p, in4_p, in5_p, out_p, heads, P)
            FOR_WIDTH(in2_shape2, RUN)
            """,
        )
        return d_qkv, (logit * cosine).sum(3).sum(2).sum(0).reshape(temperature.shape)


def _products(x: jt.Var, y: jt.Var, places: tuple[int, int], heads: int) -> tuple[jt.Var, jt.Var]:
    """Of each head's channels in two maps: the (N, heads, d, d) products, and (N, heads, 2, d) squares.

    y (N, 3C, H, W), x the same or (N, C, H, W); places: which C channels of them.
    """
    n, c, h, w = y.shape
    d = c // 3 // heads
    sums = jt.code(
        [shares(h * w), n, heads, d + 2, d],
        x.dtype,
        [x, y],
        cuda_header=_HEADS,
        data={"x": places[0], "y": places[1]},
        cuda_src="""
        int heads = out_shape2, C = in1_shape1/3;
        int64_t P = (int64_t)in0_shape2*in0_shape3;
        #define RUN(D) products<D><<<dim3(in0_shape0*heads, out_shape0), THREADS>>>( \\
            in0_p + (int64)data["x"]*C*P, in1_p + (int64)data["y"]*C*P, out_p, heads, P, in0_shape1, in1_shape1)
        FOR_WIDTH(out_shape4, RUN)
        """,
    ).sum(0)
    return sums[:, :, :d], sums[:, :, d:]


_HEADS = (
    CUDA_HEADER
    + """
// A piece is a head of a sample, of D channels; a thread takes a pixel.
template <int D> static __device__ inline void read(const float* x, int64_t P, float* to) {
    #pragma unroll
    for (int r = 0; r < D; r++) to[r] = x[r*P];
}
// x, y (N, all_x or all_y channels, P); parts (shares, N*heads, D*D products, D squares of x, D of y).
template <int D> static __global__ void products(const float* x, const float* y, float* parts, int heads, int64_t P,
                                                 int all_x, int all_y) {
    int n = blockIdx.x/heads, first = blockIdx.x%heads*D;
    x += (n*(int64_t)all_x + first)*P; y += (n*(int64_t)all_y + first)*P;
    float sums[D*D + 2*D] = {}, a[D], b[D];
    for OWN(p, P) {
        read<D>(x + p, P, a); read<D>(y + p, P, b);
        #pragma unroll
        for (int r = 0; r < D; r++) {
            #pragma unroll
            for (int j = 0; j < D; j++) sums[r*D + j] += a[r]*b[j];
            sums[D*D + r] += a[r]*a[r]; sums[D*D + D + r] += b[r]*b[r];
        }
    }
    parts += (blockIdx.y*(int64_t)gridDim.x + blockIdx.x)*(D*D + 2*D);
    #pragma unroll
    for (int k = 0; k < D*D + 2*D; k++) {
        float sum = block_sum(sums[k]);
        if (threadIdx.x == 0) parts[k] = sum;
    }
}
// y = A v
template <int D> static __global__ void mix(const float* qkv, const float* A, float* y, int heads, int64_t P) {
    int n = blockIdx.x/heads, first = blockIdx.x%heads*D, C = heads*D;
    const float* v = qkv + (n*(int64_t)3*C + 2*C + first)*P;
    y += (n*(int64_t)C + first)*P; A += blockIdx.x*D*D;
    float values[D];
    for OWN(p, P) {
        read<D>(v + p, P, values);
        #pragma unroll
        for (int r = 0; r < D; r++) {
            float sum = 0;
            #pragma unroll
            for (int j = 0; j < D; j++) sum += A[r*D + j]*values[j];
            y[r*P + p] = sum;
        }
    }
}
// dq = S k + own_q q, dk = S^T q + own_k k, dv = A^T g
template <int D> static __global__ void slopes(const float* qkv, const float* g, const float* A, const float* S,
                                               const float* own_q, const float* own_k, float* d, int heads, int64_t P) {
    int n = blockIdx.x/heads, first = blockIdx.x%heads*D, C = heads*D;
    int64_t at = (n*(int64_t)3*C + first)*P, step = (int64_t)C*P;
    g += (n*(int64_t)C + first)*P; A += blockIdx.x*D*D; S += blockIdx.x*D*D;
    own_q += blockIdx.x*D; own_k += blockIdx.x*D;
    float q[D], k[D], slope[D];
    for OWN(p, P) {
        read<D>(qkv + at + p, P, q); read<D>(qkv + at + step + p, P, k); read<D>(g + p, P, slope);
        #pragma unroll
        for (int r = 0; r < D; r++) {
            float dq = own_q[r]*q[r], dk = own_k[r]*k[r], dv = 0;
            #pragma unroll
            for (int j = 0; j < D; j++) {
                dq += S[r*D + j]*k[j]; dk += S[j*D + r]*q[j]; dv += A[j*D + r]*slope[j];
            }
            float* to = d + at + (int64_t)r*P + p;
            to[0] = dq; to[step] = dk; to[2*step] = dv;
        }
    }
}
#define FOR_WIDTH(D, call) switch (D) { \\
    case 1: call(1); break; case 2: call(2); break; case 4: call(4); break; case 8: call(8); }
"""
)
