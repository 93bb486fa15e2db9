"""Normalisations. Jittor's own compute the variance as E[x^2] - E[x]^2, which loses all digits when
the mean is far from zero; these subtract the mean first."""

from __future__ import annotations

from collections.abc import Callable

from jfusion.ops.kernels import CUDA_HEADER, HEADER, Function, shares, use_kernel
from jfusion.runtime import jt


def channel_layer_norm(x: jt.Var, weight: jt.Var, bias: jt.Var) -> jt.Var:
    """Normalises each pixel over its channels: biased variance, epsilon 1e-5 inside the root.

    x (N, C, H, W), weight and bias (C,).
    """
    kernel = use_kernel(x, weight, bias, cuda=True)
    return (
        _ChannelLayerNorm()(x, weight, bias)
        if kernel
        else plain_channel_layer_norm(x, weight, bias)
    )


def plain_channel_layer_norm(x: jt.Var, weight: jt.Var, bias: jt.Var) -> jt.Var:
    """The same from stock Jittor."""
    centred = x - x.mean(1, keepdims=True)
    variance = (centred * centred).mean(1, keepdims=True)
    normal = centred / jt.sqrt(variance + 1e-5)
    return normal * weight.reshape(1, -1, 1, 1) + bias.reshape(1, -1, 1, 1)


def leaky_batch_norm(
    x: jt.Var, weight: jt.Var, bias: jt.Var, mean: jt.Var, var: jt.Var, average: Callable
) -> jt.Var:
    """LeakyReLU (0.2) of x, normalised by the mean and variance (C,) of its own batch.

    x (N, C, H, W), weight and bias (C,). The slope goes through mean and var too, though they are
    given. average: of a (2, C) over the processes that share the batch. Epsilon 1e-5.
    """
    inverse = 1 / jt.sqrt(var.detach() + 1e-5)
    return _LeakyBatchNorm(average)(x, weight, bias, mean.detach(), inverse)


class _LeakyBatchNorm(Function):
    """Keeps x alone: with plain operations every step on the way would be kept."""

    def __init__(self, average: Callable):
        self.average = average

    def execute(
        self, x: jt.Var, weight: jt.Var, bias: jt.Var, mean: jt.Var, inverse: jt.Var
    ) -> jt.Var:
        self.saved = x, weight, bias, mean, inverse
        scale = (weight * inverse).reshape(1, -1, 1, 1)
        y = (x - mean.reshape(1, -1, 1, 1)) * scale + bias.reshape(1, -1, 1, 1)
        return jt.maximum(y, 0.2 * y)

    def grad(self, g: jt.Var) -> tuple[jt.Var | None, ...]:
        x, weight, bias, mean, inverse = (
            v if v.ndim == 4 else v.reshape(1, -1, 1, 1) for v in self.saved
        )
        g = g * jt.ternary((x - mean) * inverse * weight + bias > 0, 1.0, 0.2)
        normal = (x - mean) * inverse

        def over(v: jt.Var) -> jt.Var:
            return v.mean(3).mean(2).mean(0)

        own = jt.stack([over(g), over(g * normal)], 0)
        shared = self.average(own)
        at_g, at_normal = (v.reshape(1, -1, 1, 1) for v in shared)
        pixels = x.shape[0] * x.shape[2] * x.shape[3]
        dx = weight * inverse * (g - at_g - normal * at_normal)
        return dx, own[1] * pixels, own[0] * pixels, None, None


class _ChannelLayerNorm(Function):
    def execute(self, x: jt.Var, weight: jt.Var, bias: jt.Var) -> jt.Var:
        y, statistics = norm_forward(x, weight, bias)
        self.saved = x, weight, statistics
        return y

    def grad(self, g: jt.Var) -> tuple[jt.Var, jt.Var, jt.Var]:
        return norm_backward(*self.saved, g)


def norm_forward(
    x: jt.Var, weight: jt.Var, bias: jt.Var, after: jt.Var | None = None
) -> tuple[jt.Var, jt.Var]:
    """The kernel of `channel_layer_norm`, without a gradient: (result, mean and 1/std of each pixel).

    It runs only when `after` is there: a gradient that makes the result again must not do so early.
    """
    n, _, h, w = x.shape
    y, statistics = jt.code(
        [x.shape, [n, 2, h, w]],
        [x.dtype] * 2,
        [x, weight, bias, *([] if after is None else [after])],
        cpu_header=HEADER,
        cpu_src="""
        int64 N = in0_shape0, C = in0_shape1, P = (int64)in0_shape2*in0_shape3;
        const int64 B = 512, blocks = (P + B - 1) / B;
        #pragma omp parallel for collapse(2)
        for (int64 n = 0; n < N; n++) for (int64 t = 0; t < blocks; t++) {
            int64 p = t*B, m = std::min(B, P - p);
            float mean[B], scale[B], left[B];
            for (int64 j = 0; j < m; j++) mean[j] = scale[j] = 0;
            const float* x = in0_p + n*C*P + p;
            float* y = out0_p + n*C*P + p;
            for (int64 c = 0; c < C; c++) for (int64 j = 0; j < m; j++) mean[j] += x[c*P + j];
            for (int64 j = 0; j < m; j++) { mean[j] /= C; left[j] = 0; }
            for (int64 c = 0; c < C; c++) for (int64 j = 0; j < m; j++) {
                float d = x[c*P + j] - mean[j];
                left[j] += d; scale[j] += d*d;
            }
            for (int64 j = 0; j < m; j++) {
                float r = left[j]/C;  // what rounding left out of the mean: many channels
                mean[j] += r; scale[j] = 1.f / std::sqrt(scale[j]/C - r*r + 1e-5f);
            }
            for (int64 c = 0; c < C; c++) {
                float w = in1_p[c], b = in2_p[c];
                for (int64 j = 0; j < m; j++) y[c*P + j] = (x[c*P + j] - mean[j])*scale[j]*w + b;
            }
            std::copy(mean, mean + m, out1_p + n*2*P + p);
            std::copy(scale, scale + m, out1_p + n*2*P + P + p);
        }
        """,
        cuda_header=_PIXELS,
        cuda_src="""
        int C = in0_shape1;
        int64_t P = (int64_t)in0_shape2*in0_shape3;
        normalise<<<grid_for(in0_shape0, P), THREADS>>>(in0_p, in1_p, in2_p, out0_p, out1_p, C, P);
        """,
    )
    return y, statistics


_PIXELS = (
    CUDA_HEADER
    + """
// A piece is a sample, and a thread takes a pixel of it. x (N, C, P), statistics (N, 2, P).
static __global__ void normalise(const float* x, const float* w, const float* b, float* y, float* statistics,
                                 int C, int64_t P) {
    x += blockIdx.x*(int64_t)C*P; y += blockIdx.x*(int64_t)C*P; statistics += blockIdx.x*(int64_t)2*P;
    for OWN(p, P) {
        float mean = 0, left = 0, square = 0;
        for (int c = 0; c < C; c++) mean += x[c*P + p];
        mean /= C;
        for (int c = 0; c < C; c++) { float d = x[c*P + p] - mean; left += d; square += d*d; }
        left /= C;  // what rounding left out of the mean
        mean += left;
        float scale = 1/sqrtf(square/C - left*left + 1e-5f);
        for (int c = 0; c < C; c++) y[c*P + p] = (x[c*P + p] - mean)*scale*w[c] + b[c];
        statistics[p] = mean; statistics[P + p] = scale;
    }
}
static __global__ void normalise_slope(const float* x, const float* w, const float* statistics, const float* g,
                                       float* dx, int C, int64_t P) {
    int64_t at = blockIdx.x*(int64_t)C*P;
    x += at; g += at; dx += at; statistics += blockIdx.x*(int64_t)2*P;
    for OWN(p, P) {
        float mean = statistics[p], scale = statistics[P + p], a = 0, b = 0;
        for (int c = 0; c < C; c++) {
            float slope = g[c*P + p]*w[c];
            a += slope; b += slope*(x[c*P + p] - mean)*scale;
        }
        a /= C; b /= C;
        for (int c = 0; c < C; c++)
            dx[c*P + p] = scale*(g[c*P + p]*w[c] - a - (x[c*P + p] - mean)*scale*b);
    }
}
// A piece is a channel in the whole batch. parts (shares, 2, C): sums for its weight and its bias.
static __global__ void parameter_slopes(const float* x, const float* statistics, const float* g, float* parts,
                                        int N, int C, int64_t P) {
    float dw = 0, db = 0;
    for (int n = 0; n < N; n++) {
        const float *from = x + (n*C + blockIdx.x)*(int64_t)P, *slope = g + (n*C + blockIdx.x)*(int64_t)P;
        const float* mean = statistics + n*(int64_t)2*P;
        for OWN(p, P) { dw += slope[p]*(from[p] - mean[p])*mean[P + p]; db += slope[p]; }
    }
    dw = block_sum(dw); db = block_sum(db);
    if (threadIdx.x == 0) {
        parts[blockIdx.y*2*C + blockIdx.x] = dw;
        parts[blockIdx.y*2*C + C + blockIdx.x] = db;
    }
}
"""
)


def norm_backward(
    x: jt.Var, weight: jt.Var, statistics: jt.Var, g: jt.Var
) -> tuple[jt.Var, jt.Var, jt.Var]:
    """The gradients of x, weight and bias from the slope g of the output."""
    if jt.flags.use_cuda:
        return _norm_backward_cuda(x, weight, statistics, g)
    return tuple(
        jt.code(
            [x.shape, weight.shape, weight.shape],
            [x.dtype] * 3,
            [x, weight, statistics, g],
            cpu_header=HEADER,
            cpu_src="""
            int64 N = in0_shape0, C = in0_shape1, P = (int64)in0_shape2*in0_shape3;
            const int64 B = 512, blocks = (P + B - 1) / B;
            int threads = omp_get_max_threads();
            std::vector<double> dw(threads*C, 0.0), db(threads*C, 0.0);
            #pragma omp parallel for collapse(2) schedule(static)
            for (int64 n = 0; n < N; n++) for (int64 t = 0; t < blocks; t++) {
                int64 p = t*B, m = std::min(B, P - p), me = omp_get_thread_num();
                const float *x = in0_p + n*C*P + p, *g = in3_p + n*C*P + p;
                const float *mean = in2_p + n*2*P + p, *scale = mean + P;
                float* dx = out0_p + n*C*P + p;
                float a[B], b[B];
                for (int64 j = 0; j < m; j++) a[j] = b[j] = 0;
                for (int64 c = 0; c < C; c++) {
                    float w = in1_p[c], sw = 0, sb = 0;
                    #pragma omp simd reduction(+:sw,sb)
                    for (int64 j = 0; j < m; j++) {
                        float gj = g[c*P + j], h = (x[c*P + j] - mean[j])*scale[j];
                        a[j] += gj*w; b[j] += gj*w*h; sw += gj*h; sb += gj;
                    }
                    dw[me*C + c] += sw; db[me*C + c] += sb;
                }
                for (int64 c = 0; c < C; c++) {
                    float w = in1_p[c];
                    for (int64 j = 0; j < m; j++) {
                        float h = (x[c*P + j] - mean[j])*scale[j];
                        dx[c*P + j] = scale[j]*(g[c*P + j]*w - a[j]/C - h*b[j]/C);
                    }
                }
            }
            for (int64 c = 0; c < C; c++) {
                double sw = 0, sb = 0;
                for (int k = 0; k < threads; k++) { sw += dw[k*C + c]; sb += db[k*C + c]; }
                out1_p[c] = sw; out2_p[c] = sb;
            }
            """,
        )
    )


def _norm_backward_cuda(
    x: jt.Var, weight: jt.Var, statistics: jt.Var, g: jt.Var
) -> tuple[jt.Var, jt.Var, jt.Var]:
    c = x.shape[1]
    dx, parts = jt.code(
        [x.shape, [shares(x.numel() // c), 2, c]],
        [x.dtype] * 2,
        [x, weight, statistics, g],
        cuda_header=_PIXELS,
        cuda_src="""
        int N = in0_shape0, C = in0_shape1;
        int64_t P = (int64_t)in0_shape2*in0_shape3;
        normalise_slope<<<grid_for(N, P), THREADS>>>(in0_p, in1_p, in2_p, in3_p, out0_p, C, P);
        parameter_slopes<<<dim3(C, out1_shape0), THREADS>>>(in0_p, in2_p, in3_p, out1_p, N, C, P);
        """,
    )
    d_weight, d_bias = parts.sum(0)
    return dx, d_weight, d_bias
