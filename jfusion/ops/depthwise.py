"""Depthwise convolutions of any odd size, on images and on pixel-shuffled images.

A plane is copied once into a buffer with a border of zeros; each output row is then the sum of moved
rows, 64 pixels at a time in registers. A pixel-shuffled image (Shi et al., 2016) is never built: its
four phases are four planes, and a tap of the kernel reads one of them, moved by half as much.
"""

from __future__ import annotations

from jfusion.ops.activation import ERF
from jfusion.ops.kernels import CUDA_HEADER, Function, shares, use_kernel
from jfusion.runtime import jt, nn


def depthwise(x: jt.Var, weight: jt.Var, padding: int | None = None) -> jt.Var:
    """Each channel with its own kernel, `padding` zeros around (default K // 2: the same size).

    x (N, C, H, W), weight (C, 1, K, K) -> (N, C, H + 2 padding - K + 1, ...).
    """
    padding = weight.shape[2] // 2 if padding is None else padding
    if use_kernel(x, weight, cuda=weight.shape[2] in _CUDA_SIZES):
        return _Depthwise()(x, weight, padding)
    return plain_depthwise(x, weight, padding)


def plain_depthwise(x: jt.Var, weight: jt.Var, padding: int) -> jt.Var:
    """The same as a stock convolution."""
    return nn.conv2d(x, weight, None, 1, padding, 1, x.shape[1])


def pixel_shuffle(x: jt.Var) -> jt.Var:
    """(N, 4C, H, W) -> (N, C, 2H, 2W); channel 4c + 2i + j goes to pixel (i, j) of its 2x2 block."""
    n, c, h, w = x.shape
    x = x.reshape(n, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(n, c // 4, 2 * h, 2 * w)


def pixel_unshuffle(x: jt.Var) -> jt.Var:
    """The inverse of `pixel_shuffle`."""
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4)
    return x.reshape(n, 4 * c, h // 2, w // 2)


def shuffled_gate(a: jt.Var, b: jt.Var, weight: jt.Var, activation: str) -> jt.Var:
    """unshuffle(depthwise(shuffle(a))) * activation(b), the activation "gelu" or "mish".

    a, b (N, 4C, H, W), weight (C, 1, K, K) -> (N, 4C, H, W).
    """
    if not use_kernel(a, b, weight):
        return plain_shuffled_gate(a, b, weight, activation)
    return _ShuffledGate(activation)(a, b, weight)


def plain_shuffled_gate(a: jt.Var, b: jt.Var, weight: jt.Var, activation: str) -> jt.Var:
    """The same from stock Jittor."""
    act = nn.gelu if activation == "gelu" else plain_mish
    filtered = plain_depthwise(pixel_shuffle(a), weight, weight.shape[2] // 2)
    return pixel_unshuffle(filtered) * act(b)


def plain_mish(x: jt.Var) -> jt.Var:
    """x tanh(softplus(x)), Misra (2019)."""
    softplus = jt.maximum(x, 0) + jt.log(1 + jt.exp(-jt.abs(x)))
    return x * jt.tanh(softplus)


_PLANES = (
    ERF
    + """
typedef float v16 __attribute__((vector_size(64), aligned(4), may_alias));
static inline v16 load(const float* p) { return *(const v16*)p; }

// The S*S phases of one channel, H x W each, with a border of R zeros and room to read beyond a row.
struct Planes {
    int64_t S, H, W, R, stride, size;
    std::vector<float> data;
    Planes(int64_t S, int64_t H, int64_t W, int64_t R) : S(S), H(H), W(W), R(R),
        stride(W + 2*R + 16), size(stride*(H + 2*R + 1)), data(S*S*size, 0.f) {}
    float* row(int64_t phase, int64_t i) { return data.data() + phase*size + (i + R)*stride + R; }
    void fill(const float* x) {
        for (int64_t p = 0; p < S*S; p++) for (int64_t i = 0; i < H; i++, x += W)
            std::copy(x, x + W, row(p, i));
    }
};
// Where each tap of a K x K kernel with `pad` zeros around reads, seen from a pixel of a phase.
static inline void taps_of(const Planes& in, int64_t phase, int64_t K, int64_t pad, int64_t* off) {
    int64_t S = in.S, i = phase/S, j = phase%S;
    for (int64_t a = 0; a < K; a++) for (int64_t b = 0; b < K; b++) {
        int64_t u = i + a - pad, v = j + b - pad, up = u & (S-1), vp = v & (S-1);
        off[a*K + b] = (up*S + vp)*in.size + (u - up)/S*in.stride + (v - vp)/S;
    }
}
// One row of W pixels: the weighted sum of the taps' rows.
static inline void filter_row(const float* at, const int64_t* off, const float* k, int64_t T,
                              int64_t W, float* out) {
    int64_t j = 0;
    for (; j + 64 <= W; j += 64) {
        v16 s0 = {}, s1 = {}, s2 = {}, s3 = {};
        for (int64_t t = 0; t < T; t++) {
            const float* p = at + off[t] + j;
            float w = k[t];
            s0 += w*load(p); s1 += w*load(p + 16); s2 += w*load(p + 32); s3 += w*load(p + 48);
        }
        *(v16*)(out + j) = s0; *(v16*)(out + j + 16) = s1;
        *(v16*)(out + j + 32) = s2; *(v16*)(out + j + 48) = s3;
    }
    for (; j < W; j += 16) {
        v16 s = {};
        for (int64_t t = 0; t < T; t++) s += k[t]*load(at + off[t] + j);
        if (j + 16 <= W) *(v16*)(out + j) = s;
        else for (int64_t m = 0; m < W - j; m++) out[j + m] = s[m];
    }
}
// Adds one row's part of the gradient of the taps: q (zeros beyond W) times the taps' rows.
static inline void gradient_row(const float* at, const int64_t* off, const float* q, int64_t T,
                                int64_t W, float* sums) {
    int64_t t = 0;
    for (; t + 7 <= T; t += 7) {
        v16* s = (v16*)(sums + 16*t);
        v16 s0 = s[0], s1 = s[1], s2 = s[2], s3 = s[3], s4 = s[4], s5 = s[5], s6 = s[6];
        for (int64_t j = 0; j < W; j += 16) {
            const float* p = at + j;
            v16 v = load(q + j);
            s0 += v*load(p + off[t]); s1 += v*load(p + off[t+1]); s2 += v*load(p + off[t+2]);
            s3 += v*load(p + off[t+3]); s4 += v*load(p + off[t+4]); s5 += v*load(p + off[t+5]);
            s6 += v*load(p + off[t+6]);
        }
        s[0] = s0; s[1] = s1; s[2] = s2; s[3] = s3; s[4] = s4; s[5] = s5; s[6] = s6;
    }
    for (; t < T; t++) {
        v16 s = load(sums + 16*t);
        for (int64_t j = 0; j < W; j += 16) s += load(q + j)*load(at + off[t] + j);
        *(v16*)(sums + 16*t) = s;
    }
}
// The sums of 16 lanes each to one number each.
static inline void totals(const float* sums, int64_t T, float* out) {
    for (int64_t t = 0; t < T; t++) {
        double s = 0;
        for (int i = 0; i < 16; i++) s += sums[16*t + i];
        out[t] = s;
    }
}
"""
)


# The sizes of kernel that a GPU's kernels are compiled for: they hold the taps in registers.
_CUDA_SIZES = (1, 3, 5, 7)
_CUDA = (
    CUDA_HEADER
    + """
// A piece is a plane: x (H, W) -> y (h, w).
template <int K> static __global__ void filter(const float* x, const float* weight, float* y, int C, int H, int W,
                                               int h, int w, int pad, bool flip) {
    x += blockIdx.x*(int64_t)H*W; y += blockIdx.x*(int64_t)h*w; weight += blockIdx.x % C*K*K;
    float k[K*K];
    #pragma unroll
    for (int t = 0; t < K*K; t++) k[t] = weight[flip ? K*K - 1 - t : t];
    for OWN(p, h*w) {
        int i = (int)p/w - pad, j = (int)p%w - pad;
        float sum = 0;
        #pragma unroll
        for (int t = 0; t < K*K; t++) {
            int u = i + t/K, v = j + t%K;
            if (u >= 0 && u < H && v >= 0 && v < W) sum += k[t]*x[u*W + v];
        }
        y[p] = sum;
    }
}
// A piece is a channel in the whole batch. parts (shares, C, K*K).
template <int K> static __global__ void weight_slopes(const float* x, const float* g, float* parts, int N, int C,
                                                      int H, int W, int h, int w, int pad) {
    float sums[K*K] = {};
    for (int n = 0; n < N; n++) {
        const float *from = x + (n*C + blockIdx.x)*(int64_t)H*W, *slope = g + (n*C + blockIdx.x)*(int64_t)h*w;
        for OWN(p, h*w) {
            int i = (int)p/w - pad, j = (int)p%w - pad;
            #pragma unroll
            for (int t = 0; t < K*K; t++) {
                int u = i + t/K, v = j + t%K;
                if (u >= 0 && u < H && v >= 0 && v < W) sums[t] += slope[p]*from[u*W + v];
            }
        }
    }
    #pragma unroll
    for (int t = 0; t < K*K; t++) {
        float sum = block_sum(sums[t]);
        if (threadIdx.x == 0) parts[(blockIdx.y*C + blockIdx.x)*K*K + t] = sum;
    }
}
#define FOR_SIZE(K, call) switch (K) { \\
    case 1: call(1); break; case 3: call(3); break; case 5: call(5); break; case 7: call(7); }
"""
)


class _Depthwise(Function):
    def execute(self, x: jt.Var, weight: jt.Var, padding: int) -> jt.Var:
        self.saved = x, weight, padding
        if jt.flags.use_cuda:
            return _filter_cuda(x, weight, padding, False)
        return _filter(x, weight, padding)

    def grad(self, g: jt.Var) -> tuple[jt.Var, jt.Var, None]:
        x, weight, padding = self.saved
        reach = weight.shape[2] - 1 - padding
        if jt.flags.use_cuda:
            return _filter_cuda(g, weight, reach, True), _slopes_cuda(x, weight, g, padding), None
        return _filter(g, weight[:, :, ::-1, ::-1], reach), _slopes(x, weight, g, padding), None


def _slopes(x: jt.Var, weight: jt.Var, g: jt.Var, padding: int) -> jt.Var:
    return jt.code(
        weight.shape,
        x.dtype,
        [x, g],
        cpu_header=_PLANES,
        data={"pad": padding},
        cpu_src="""
            int64 N = in0_shape0, C = in0_shape1, H = in0_shape2, W = in0_shape3, K = out_shape2;
            int64 h = in1_shape2, w = in1_shape3, pad = data["pad"], T = K*K;
            #pragma omp parallel
            {
                Planes x(1, H, W, pad), g(1, h, w, 0);
                std::vector<int64_t> off(T);
                std::vector<float> sums(16*T);
                taps_of(x, 0, K, pad, off.data());
                #pragma omp for
                for (int64 c = 0; c < C; c++) {
                    std::fill(sums.begin(), sums.end(), 0.f);
                    for (int64 n = 0; n < N; n++) {
                        x.fill(in0_p + (n*C + c)*H*W);
                        g.fill(in1_p + (n*C + c)*h*w);
                        for (int64 i = 0; i < h; i++)
                            gradient_row(x.row(0, i), off.data(), g.row(0, i), T, w, sums.data());
                    }
                    totals(sums.data(), T, out_p + c*T);
                }
            }
            """,
    )


def _filter(x: jt.Var, weight: jt.Var, padding: int) -> jt.Var:
    n, c, h, w = x.shape
    more = 2 * padding - weight.shape[2] + 1
    return jt.code(
        [n, c, h + more, w + more],
        x.dtype,
        [x, weight],
        cpu_header=_PLANES,
        data={"pad": padding},
        cpu_src="""
        int64 N = in0_shape0, C = in0_shape1, H = in0_shape2, W = in0_shape3, K = in1_shape2;
        int64 h = out_shape2, w = out_shape3, pad = data["pad"], T = K*K;
        #pragma omp parallel
        {
            Planes x(1, H, W, pad);
            std::vector<int64_t> off(T);
            taps_of(x, 0, K, pad, off.data());
            #pragma omp for
            for (int64 p = 0; p < N*C; p++) {
                x.fill(in0_p + p*H*W);
                for (int64 i = 0; i < h; i++)
                    filter_row(x.row(0, i), off.data(), in1_p + (p % C)*T, T, w, out_p + (p*h + i)*w);
            }
        }
        """,
    )


def _filter_cuda(x: jt.Var, weight: jt.Var, padding: int, flip: bool) -> jt.Var:
    n, c, h, w = x.shape
    more = 2 * padding - weight.shape[2] + 1
    return jt.code(
        [n, c, h + more, w + more],
        x.dtype,
        [x, weight],
        cuda_header=_CUDA,
        data={"pad": padding, "flip": int(flip)},
        cuda_src="""
        dim3 grid = grid_for(in0_shape0*in0_shape1, out_shape2*out_shape3);
        #define RUN(K) filter<K><<<grid, THREADS>>>(in0_p, in1_p, out_p, in0_shape1, in0_shape2, in0_shape3, \\
            out_shape2, out_shape3, data["pad"], data["flip"])
        FOR_SIZE(in1_shape2, RUN)
        """,
    )


def _slopes_cuda(x: jt.Var, weight: jt.Var, g: jt.Var, padding: int) -> jt.Var:
    parts = jt.code(
        [shares(g.numel() // g.shape[1]), *weight.shape],
        x.dtype,
        [x, g],
        cuda_header=_CUDA,
        data={"pad": padding},
        cuda_src="""
        dim3 grid(out_shape1, out_shape0);
        #define RUN(K) weight_slopes<K><<<grid, THREADS>>>(in0_p, in1_p, out_p, in0_shape0, in0_shape1, \\
            in0_shape2, in0_shape3, in1_shape2, in1_shape3, data["pad"])
        FOR_SIZE(out_shape3, RUN)
        """,
    )
    return parts.sum(0)


# activation(x), and its derivative
_ACTIVATIONS = {
    "gelu": """
static inline float act(float x) { return 0.5f*x*(1.f + erf_fast(x*0.70710678f)); }
static inline float slope(float x) {
    return 0.5f*(1.f + erf_fast(x*0.70710678f)) + x*0.39894228f*std::exp(-0.5f*x*x);
}
""",
    "mish": """
static inline float act(float x) {
    float e = std::exp(std::min(x, 20.f)), n = e*(e + 2.f);
    return x*n/(n + 2.f);
}
static inline float slope(float x) {
    float e = std::exp(std::min(x, 20.f)), n = e*(e + 2.f), r = 1.f/(n + 2.f);
    return n*r + 4.f*x*e/(1.f + e)*r*(n + 1.f)*r;  // (n + 1)*4/(n + 2)^2 is 1 - tanh^2
}
""",
}


class _ShuffledGate(Function):
    def __init__(self, activation: str):
        super().__init__()
        self.header = _PLANES + _ACTIVATIONS[activation]

    def execute(self, a: jt.Var, b: jt.Var, weight: jt.Var) -> jt.Var:
        self.saved = a, b, weight
        return jt.code(
            a.shape,
            a.dtype,
            [a, b, weight],
            cpu_header=self.header,
            cpu_src="""
            int64 N = in0_shape0, C = in2_shape0, H = in0_shape2, W = in0_shape3, K = in2_shape2;
            int64 T = K*K;
            #pragma omp parallel
            {
                Planes a(2, H, W, (K/2 + 1)/2);
                std::vector<int64_t> off(4*T);
                for (int64 p = 0; p < 4; p++) taps_of(a, p, K, K/2, &off[p*T]);
                #pragma omp for
                for (int64 c = 0; c < N*C; c++) {
                    a.fill(in0_p + c*4*H*W);
                    for (int64 p = 0; p < 4; p++) for (int64 i = 0; i < H; i++) {
                        int64 at = ((c*4 + p)*H + i)*W;
                        const float* b = in1_p + at;
                        float* y = out_p + at;
                        filter_row(a.row(0, i), &off[p*T], in2_p + (c % C)*T, T, W, y);
                        #pragma omp simd
                        for (int64 j = 0; j < W; j++) y[j] *= act(b[j]);
                    }
                }
            }
            """,
        )

    def grad(self, g: jt.Var) -> tuple[jt.Var, jt.Var, jt.Var]:
        a, b, weight = self.saved
        return tuple(
            jt.code(
                [a.shape, a.shape, weight.shape],
                [a.dtype] * 3,
                [a, b, weight, g],
                cpu_header=self.header,
                cpu_src="""
                int64 N = in0_shape0, C = in2_shape0, H = in0_shape2, W = in0_shape3, K = in2_shape2;
                int64 T = K*K, R = (K/2 + 1)/2;
                #pragma omp parallel
                {
                    Planes a(2, H, W, R), s(2, H, W, R);  // s: the slope of the filtered planes
                    std::vector<int64_t> off(4*T);
                    std::vector<float> sums(16*T);
                    std::vector<float> flipped(T), made(W);
                    for (int64 p = 0; p < 4; p++) taps_of(a, p, K, K/2, &off[p*T]);
                    #pragma omp for
                    for (int64 c = 0; c < C; c++) {
                        const float* k = in2_p + c*T;
                        for (int64 t = 0; t < T; t++) flipped[t] = k[T - 1 - t];
                        std::fill(sums.begin(), sums.end(), 0.f);
                        for (int64 n = 0; n < N; n++) {
                            int64 first = (n*C + c)*4*H*W;
                            a.fill(in0_p + first);
                            for (int64 p = 0; p < 4; p++) for (int64 i = 0; i < H; i++) {
                                int64 at = first + (p*H + i)*W;
                                const float *b = in1_p + at, *g = in3_p + at;
                                float *q = s.row(p, i), *db = out1_p + at;
                                filter_row(a.row(0, i), &off[p*T], k, T, W, made.data());
                                #pragma omp simd
                                for (int64 j = 0; j < W; j++) {
                                    q[j] = g[j]*act(b[j]);
                                    db[j] = g[j]*made[j]*slope(b[j]);
                                }
                                gradient_row(a.row(0, i), &off[p*T], q, T, W, sums.data());
                            }
                            for (int64 p = 0; p < 4; p++) for (int64 i = 0; i < H; i++)
                                filter_row(s.row(0, i), &off[p*T], flipped.data(), T, W,
                                           out0_p + first + (p*H + i)*W);
                        }
                        totals(sums.data(), T, out2_p + c*T);
                    }
                }
                """,
            )
        )
