"""Group normalisation, with SiLU if asked for. Jittor's own computes the variance as E[x^2] - E[x]^2,
which loses all digits when the mean is far from zero; this subtracts the mean first."""

from __future__ import annotations

from jfusion.ops.kernels import CUDA_HEADER, HEADER, Function, shares, use_kernel
from jfusion.runtime import jt


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
    if use_kernel(x, weight, bias, cuda=True):
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


class _GroupNorm(Function):
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
    if jt.flags.use_cuda:
        return _group_norm_forward_cuda(x, weight, bias, groups, eps, silu)
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


def _group_norm_forward_cuda(
    x: jt.Var, weight: jt.Var, bias: jt.Var, groups: int, eps: float, silu: bool
) -> tuple[jt.Var, jt.Var]:
    n = x.shape[0]
    y, statistics, _ = jt.code(
        [x.shape, [n, groups, 2], [shares(x.numel() // (n * groups)), n * groups, 3]],
        [x.dtype] * 3,
        [x, weight, bias],
        cuda_header=_GROUPS,
        data={"eps": eps, "silu": int(silu)},
        cuda_src="""
        int N = in0_shape0, C = in0_shape1, K = C/out1_shape1;
        int64_t P = (int64_t)in0_shape2*in0_shape3;
        moments<<<dim3(out2_shape1, out2_shape0), THREADS>>>(in0_p, out2_p, K*P);
        combine<<<dim3(out2_shape1), THREADS>>>(out2_p, out1_p, out2_shape0, K*P, data["eps"]);
        normalise<<<grid_for(N*C, P), THREADS>>>(in0_p, in1_p, in2_p, out1_p, out0_p, C, K, P, in1_shape0 > 1,
                                                 data["silu"]);
        """,
    )
    return y, statistics


def _group_norm_backward_cuda(
    x: jt.Var, weight: jt.Var, bias: jt.Var, statistics: jt.Var, g: jt.Var, silu: bool
) -> tuple[jt.Var, jt.Var, jt.Var]:
    """The slopes of x, and of weight and bias for each sample."""
    n, c, h, w = x.shape
    groups = statistics.shape[1]
    given = [x, weight, bias, statistics, g]
    sums = jt.code(
        [2, shares(h * w), n, c],
        x.dtype,
        given,
        cuda_header=_GROUPS,
        data={"silu": int(silu)},
        cuda_src="""
        int N = in0_shape0, C = in0_shape1, K = C/in3_shape1;
        int64_t P = (int64_t)in0_shape2*in0_shape3;
        channel_slopes<<<dim3(N*C, out_shape1), THREADS>>>(in0_p, in1_p, in2_p, in3_p, in4_p, out_p, C, K, P,
                                                           in1_shape0 > 1, data["silu"]);
        """,
    ).sum(1)
    of_groups = (sums * weight).reshape(2, n, groups, -1).sum(3) / (c // groups * h * w)
    dx = jt.code(
        x.shape,
        x.dtype,
        [*given, of_groups],
        cuda_header=_GROUPS,
        data={"silu": int(silu)},
        cuda_src="""
        int N = in0_shape0, C = in0_shape1, K = C/in3_shape1;
        int64_t P = (int64_t)in0_shape2*in0_shape3;
        input_slopes<<<grid_for(N*C, P), THREADS>>>(in0_p, in1_p, in2_p, in3_p, in4_p, in5_p, out_p, C, K, P,
                                                    in1_shape0 > 1, data["silu"]);
        """,
    )
    return dx, *sums


_GROUPS = (
    CUDA_HEADER
    + """
// A piece is a group of a sample, M values. parts (shares, N*groups, 3): count, mean, squares around it.
static __global__ void moments(const float* x, float* parts, int64_t M) {
    x += blockIdx.x*(int64_t)M;
    float count = 0, mean = 0, square = 0;
    for OWN(j, M) { count++; mean += x[j]; }
    count = block_sum(count);
    mean = block_sum(mean)/fmaxf(count, 1.f);
    for OWN(j, M) square += (x[j] - mean)*(x[j] - mean);
    square = block_sum(square);
    float* to = parts + (blockIdx.y*(int64_t)gridDim.x + blockIdx.x)*3;
    if (threadIdx.x == 0) { to[0] = count; to[1] = mean; to[2] = square; }
}
// Mean and 1/deviation of a group, from its parts.
static __global__ void combine(const float* parts, float* made, int shares, int64_t M, float eps) {
    float sum = 0, square = 0;
    for (int k = threadIdx.x; k < shares; k += THREADS) {
        const float* part = parts + (k*gridDim.x + blockIdx.x)*3;
        sum += part[0]*part[1];
    }
    float mean = block_sum(sum)/M;
    for (int k = threadIdx.x; k < shares; k += THREADS) {
        const float* part = parts + (k*gridDim.x + blockIdx.x)*3;
        square += part[2] + part[0]*(part[1] - mean)*(part[1] - mean);
    }
    square = block_sum(square);
    if (threadIdx.x == 0) { made[2*blockIdx.x] = mean; made[2*blockIdx.x + 1] = 1/sqrtf(square/M + eps); }
}
// From here a piece is a channel of a sample. own: each sample has weights of its own.
struct Channel {
    float w, b, mean, scale;
    __device__ Channel(const float* weight, const float* bias, const float* made, int C, int K, bool own) {
        int at = own ? blockIdx.x : blockIdx.x % C, g = blockIdx.x/K;
        w = weight[at]; b = bias[at]; mean = made[2*g]; scale = made[2*g + 1];
    }
    // The slope before SiLU, where the value was h before weight and bias.
    __device__ float before_silu(float slope, float h) const {
        float v = h*w + b, part = 1/(1 + expf(-fmaxf(v, -80.f)));
        return slope*part*(1 + v*(1 - part));
    }
};
static __global__ void normalise(const float* x, const float* w, const float* b, const float* made, float* y,
                                 int C, int K, int64_t P, bool own, bool silu) {
    Channel c(w, b, made, C, K, own);
    x += blockIdx.x*(int64_t)P; y += blockIdx.x*(int64_t)P;
    for OWN(j, P) {
        float v = (x[j] - c.mean)*c.scale*c.w + c.b;
        y[j] = silu ? v/(1 + expf(-fmaxf(v, -80.f))) : v;
    }
}
// parts (2, shares, N*C): sums for weight and bias.
static __global__ void channel_slopes(const float* x, const float* w, const float* b, const float* made,
                                      const float* slope, float* parts, int C, int K, int64_t P, bool own, bool silu) {
    Channel c(w, b, made, C, K, own);
    x += blockIdx.x*(int64_t)P; slope += blockIdx.x*(int64_t)P;
    float dw = 0, db = 0;
    for OWN(j, P) {
        float h = (x[j] - c.mean)*c.scale, q = silu ? c.before_silu(slope[j], h) : slope[j];
        dw += q*h; db += q;
    }
    dw = block_sum(dw); db = block_sum(db);
    parts += blockIdx.y*gridDim.x + blockIdx.x;
    if (threadIdx.x == 0) { parts[0] = dw; parts[gridDim.x*gridDim.y] = db; }
}
// of_groups (2, N*groups): means over the group of the slopes after the weights, times h and alone.
static __global__ void input_slopes(const float* x, const float* w, const float* b, const float* made,
                                    const float* slope, const float* of_groups, float* dx, int C, int K, int64_t P,
                                    bool own, bool silu) {
    Channel c(w, b, made, C, K, own);
    float turn = of_groups[blockIdx.x/K], shift = of_groups[gridDim.x/K + blockIdx.x/K];
    x += blockIdx.x*(int64_t)P; slope += blockIdx.x*(int64_t)P; dx += blockIdx.x*(int64_t)P;
    for OWN(j, P) {
        float h = (x[j] - c.mean)*c.scale, q = silu ? c.before_silu(slope[j], h) : slope[j];
        dx[j] = c.scale*(q*c.w - shift - h*turn);
    }
}
"""
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
    made = _group_norm_backward_cuda if jt.flags.use_cuda else _group_norm_backward_cpu
    dx, dw, db = made(x, weight, bias, statistics, g, silu)
    one = weight.shape[0] == 1
    return dx, *(v.sum(0, keepdims=True) if one else v for v in (dw, db))


def _group_norm_backward_cpu(
    x: jt.Var, weight: jt.Var, bias: jt.Var, statistics: jt.Var, g: jt.Var, silu: bool
) -> tuple[jt.Var, jt.Var, jt.Var]:
    """The slopes of x, and of weight and bias for each sample."""
    each = [x.shape[0], weight.shape[1]]
    return jt.code(
        [x.shape, each, each],
        [x.dtype] * 3,
        [x, weight, bias, statistics, g],
        cpu_header=HEADER,
        data={"groups": statistics.shape[1], "silu": int(silu)},
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
