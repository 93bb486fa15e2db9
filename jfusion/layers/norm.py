"""Normalisations. Jittor's own compute the variance as E[x^2] - E[x]^2, which loses all digits when
the mean is far from zero; these subtract the mean first."""

from __future__ import annotations

from collections.abc import Callable

from jfusion.layers.cpu import HEADER, use_kernel
from jfusion.runtime import jt


def channel_layer_norm(x: jt.Var, weight: jt.Var, bias: jt.Var) -> jt.Var:
    """Normalises each pixel over its channels: biased variance, epsilon 1e-5 inside the root.

    x (N, C, H, W), weight and bias (C,).
    """
    kernel = use_kernel(x, weight, bias)
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


def group_norm(
    x: jt.Var,
    groups: int,
    weight: jt.Var,
    bias: jt.Var,
    eps: float = 1e-5,
    silu: bool = False,
) -> jt.Var:
    """Normalises each of `groups` groups of channels over its channels and pixels.

    x (N, C, H, W), weight and bias (C,), or (N, C) to scale and shift each sample in its own way;
    biased variance. silu: of the result y, y * sigmoid(y).
    """
    weight, bias = (v.reshape(-1, x.shape[1]) for v in (weight, bias))
    if use_kernel(x, weight, bias):
        return _GroupNorm(groups, eps, silu)(x, weight, bias)
    return plain_group_norm(x, groups, weight, bias, eps, silu)


def plain_group_norm(
    x: jt.Var,
    groups: int,
    weight: jt.Var,
    bias: jt.Var,
    eps: float = 1e-5,
    silu: bool = False,
) -> jt.Var:
    """The same from stock Jittor."""
    rows = x.reshape(x.shape[0], groups, -1, x.shape[3])  # first: one long float32 sum loses digits
    centred = rows - rows.mean(3, keepdims=True).mean(2, keepdims=True)
    variance = (centred * centred).mean(3, keepdims=True).mean(2, keepdims=True)
    normal = (centred / jt.sqrt(variance + eps)).reshape(x.shape)
    weight, bias = (v.reshape(-1, x.shape[1], 1, 1) for v in (weight, bias))
    y = normal * weight + bias
    return y * jt.sigmoid(y) if silu else y


def leaky_batch_norm(
    x: jt.Var, weight: jt.Var, bias: jt.Var, mean: jt.Var, var: jt.Var, average: Callable
) -> jt.Var:
    """LeakyReLU (0.2) of x, normalised by the mean and variance (C,) of its own batch.

    x (N, C, H, W), weight and bias (C,). The slope goes through mean and var too, though they are
    given. average: of a (2, C) over the processes that share the batch. Epsilon 1e-5.
    """
    inverse = 1 / jt.sqrt(var.detach() + 1e-5)
    return _LeakyBatchNorm(average)(x, weight, bias, mean.detach(), inverse)


class _LeakyBatchNorm(jt.Function):
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


class _ChannelLayerNorm(jt.Function):
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
    )
    return y, statistics


def norm_backward(
    x: jt.Var, weight: jt.Var, statistics: jt.Var, g: jt.Var
) -> tuple[jt.Var, jt.Var, jt.Var]:
    """The gradients of x, weight and bias from the slope g of the output."""
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


class _GroupNorm(jt.Function):
    def __init__(self, groups: int, eps: float, silu: bool):
        super().__init__()
        self.settings = groups, eps, silu

    def execute(self, x: jt.Var, weight: jt.Var, bias: jt.Var) -> jt.Var:
        y, statistics = group_norm_forward(x, weight, bias, *self.settings)
        self.saved = x, weight, bias, statistics
        return y

    def grad(self, g: jt.Var) -> tuple[jt.Var, jt.Var, jt.Var]:
        return group_norm_backward(*self.saved, g, *self.settings)


def group_norm_forward(
    x: jt.Var,
    weight: jt.Var,
    bias: jt.Var,
    groups: int,
    eps: float,
    silu: bool,
    after: jt.Var | None = None,
) -> tuple[jt.Var, jt.Var]:
    """The kernel of `group_norm`, without a gradient; also mean and 1 / deviation, (N, groups, 2).

    weight and bias (1 or N, C). It runs only when `after` is there, as `norm_forward`.
    """
    return jt.code(
        [x.shape, [x.shape[0], groups, 2]],
        [x.dtype] * 2,
        [x, weight, bias, *([] if after is None else [after])],
        cpu_header=HEADER,
        data={"groups": groups, "eps": eps, "silu": int(silu)},
        cpu_src="""
            int64 N = in0_shape0, C = in0_shape1, P = (int64)in0_shape2*in0_shape3;
            int64 G = data["groups"], K = C/G;
            double eps = data["eps"];
            bool silu = data["silu"] != 0;
            #pragma omp parallel for collapse(2)
            for (int64 n = 0; n < N; n++) for (int64 g = 0; g < G; g++) {
                const float* x = in0_p + (n*C + g*K)*P;
                int64 own = (in1_shape0 > 1 ? n : 0)*C + g*K;
                float* y = out0_p + (n*C + g*K)*P;
                double sum = 0, squares = 0;
                for (int64 c = 0; c < K; c++) {
                    float s = 0;
                    #pragma omp simd reduction(+:s)
                    for (int64 j = 0; j < P; j++) s += x[c*P + j];
                    sum += s;
                }
                float mean = sum/(K*P);
                for (int64 c = 0; c < K; c++) {
                    float s = 0;
                    #pragma omp simd reduction(+:s)
                    for (int64 j = 0; j < P; j++) { float d = x[c*P + j] - mean; s += d*d; }
                    squares += s;
                }
                float scale = 1/std::sqrt(squares/(K*P) + eps);
                for (int64 c = 0; c < K; c++) {
                    float w = in1_p[own + c]*scale, b = in2_p[own + c];
                    const float* from = x + c*P;
                    float* to = y + c*P;
                    #pragma omp simd
                    for (int64 j = 0; j < P; j++) to[j] = (from[j] - mean)*w + b;
                    if (!silu) continue;
                    #pragma omp simd
                    for (int64 j = 0; j < P; j++) to[j] /= 1.f + std::exp(-std::max(to[j], -80.f));
                }
                out1_p[(n*G + g)*2] = mean;
                out1_p[(n*G + g)*2 + 1] = scale;
            }
            """,
    )


def group_norm_backward(
    x: jt.Var,
    weight: jt.Var,
    bias: jt.Var,
    statistics: jt.Var,
    g: jt.Var,
    groups: int,
    eps: float,
    silu: bool,
) -> tuple[jt.Var, jt.Var, jt.Var]:
    """The slopes of x, weight and bias, from that of the result of `group_norm_forward`."""
    each = [x.shape[0], weight.shape[1]]
    dx, dw, db = jt.code(
        [x.shape, each, each],
        [x.dtype] * 3,
        [x, weight, bias, statistics, g],
        cpu_header=HEADER,
        data={"groups": groups, "eps": eps, "silu": int(silu)},
        cpu_src="""
            int64 N = in0_shape0, C = in0_shape1, P = (int64)in0_shape2*in0_shape3;
            int64 G = data["groups"], K = C/G;
            bool silu = data["silu"] != 0;
            #pragma omp parallel for collapse(2)
            for (int64 n = 0; n < N; n++) for (int64 g = 0; g < G; g++) {
                float mean = in3_p[(n*G + g)*2], scale = in3_p[(n*G + g)*2 + 1];
                const float *x = in0_p + (n*C + g*K)*P, *slope = in4_p + (n*C + g*K)*P;
                float* dx = out0_p + (n*C + g*K)*P;
                int64 own = (in1_shape0 > 1 ? n : 0)*C + g*K;
                double a = 0, b = 0;
                for (int64 c = 0; c < K; c++) {
                    float s = 0, t = 0, w = in1_p[own + c], shift = in2_p[own + c];
                    float* q = dx + c*P;  // for now: the slope before SiLU
                    if (silu) {
                        #pragma omp simd
                        for (int64 j = 0; j < P; j++) {
                            float y = (x[c*P + j] - mean)*scale*w + shift, part = 1/(1 + std::exp(-std::max(y, -80.f)));
                            q[j] = slope[c*P + j]*part*(1 + y*(1 - part));
                        }
                    } else std::copy(slope + c*P, slope + c*P + P, q);
                    #pragma omp simd reduction(+:s,t)
                    for (int64 j = 0; j < P; j++) { s += q[j]; t += q[j]*(x[c*P + j] - mean); }
                    t *= scale;
                    out2_p[n*C + g*K + c] = s; out1_p[n*C + g*K + c] = t;
                    a += (double)s*w; b += (double)t*w;
                }
                float shift = a/(K*P), turn = b/(K*P);
                for (int64 c = 0; c < K; c++) {
                    float w = in1_p[own + c];
                    #pragma omp simd
                    for (int64 j = 0; j < P; j++)
                        dx[c*P + j] = scale*(dx[c*P + j]*w - shift - (x[c*P + j] - mean)*scale*turn);
                }
            }
            """,
    )
    one = weight.shape[0] == 1
    return dx, *(v.sum(0, keepdims=True) if one else v for v in (dw, db))
