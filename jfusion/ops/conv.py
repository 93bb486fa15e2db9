"""Convolutions that keep the size: 1x1 and KxK as matrix products, depthwise 3x3 row by row.

Jittor hands every convolution to oneDNN with a copy of source and destination into its blocked
layout. A 1x1 convolution needs no copy, a KxK one a row of patches at a time, and a depthwise one is
limited by memory. A wide 3x3 one takes Winograd's algorithm on 2x2 tiles (Lavin and Gray, 2016), four
ninths of the multiplications at less than a decimal digit of accuracy.
"""

from __future__ import annotations

from jfusion.ops.activation import plain_silu, silu_backward, silu_forward
from jfusion.ops.depthwise import depthwise
from jfusion.ops.kernels import HEADER, Function, use_kernel
from jfusion.runtime import jt, nn
from jfusion.runtime.machine import precision


def conv1x1(x: jt.Var, weight: jt.Var, bias: jt.Var | None = None) -> jt.Var:
    """x (N, C, H, W), weight (O, C, 1, 1), bias (O,) -> (N, O, H, W)."""
    if not use_kernel(x, weight):
        return plain_conv(x, weight, bias)
    return _Conv1x1()(x, weight, jt.zeros(weight.shape[0]) if bias is None else bias)


def conv(x: jt.Var, weight: jt.Var, bias: jt.Var | None = None) -> jt.Var:
    """Stride 1, zero padding K // 2. x (N, C, H, W), weight (O, C, K, K) with K odd, bias (O,)."""
    if not use_kernel(x, weight):
        return plain_conv(x, weight, bias)
    return _Conv()(x, weight, jt.zeros(weight.shape[0]) if bias is None else bias)


def silu_conv(x: jt.Var, weight: jt.Var, bias: jt.Var | None = None) -> jt.Var:
    """`conv` of x * sigmoid(x), which is made again for the gradient and not kept."""
    if not use_kernel(x, weight):
        return plain_conv(plain_silu(x), weight, bias)
    return _SiLUConv()(x, weight, jt.zeros(weight.shape[0]) if bias is None else bias)


def plain_conv(x: jt.Var, weight: jt.Var, bias: jt.Var | None = None) -> jt.Var:
    """The same as a stock convolution."""
    return _plus(_product(x, weight), bias)


def _product(x: jt.Var, weight: jt.Var) -> jt.Var:
    padding = weight.shape[2] // 2
    if precision() == "bfloat16" and jt.flags.use_cuda:
        return nn.conv2d(x.bfloat16(), weight.bfloat16(), padding=padding).float32()
    return nn.conv2d(x, weight, padding=padding)


def _plus(x: jt.Var, bias: jt.Var | None) -> jt.Var:
    # Jittor's own way cannot be compiled for a bias of one number that has just been loaded
    return x if bias is None else x + bias.reshape(1, -1, 1, 1)


def depthwise3x3(x: jt.Var, weight: jt.Var) -> jt.Var:
    """Each channel with its own kernel, zero padding 1. x (N, C, H, W), weight (C, 1, 3, 3)."""
    return _Depthwise3x3()(x, weight) if use_kernel(x, weight) else depthwise(x, weight)


_SHARES = (
    HEADER
    + """
// Pixels taken together: as many as the cache likes, fewer when threads would go without.
static inline int64_t share_of(int64_t pixels) {
    int64_t each = (pixels + omp_get_max_threads() - 1)/omp_get_max_threads();
    return std::max<int64_t>(512, std::min<int64_t>(4096, (each + 63)/64*64));
}
"""
)


class _Conv1x1(Function):
    def execute(self, x: jt.Var, weight: jt.Var, bias: jt.Var) -> jt.Var:
        self.saved = x, weight
        n, _, h, w = x.shape
        return jt.code(
            [n, weight.shape[0], h, w],
            x.dtype,
            [x, weight, bias],
            cpu_header=_SHARES,
            cpu_src="""
            int64 N = in0_shape0, C = in0_shape1, P = (int64)in0_shape2*in0_shape3, O = in1_shape0;
            const int64 B = share_of(N*P), blocks = (P + B - 1) / B;
            #pragma omp parallel for collapse(2)
            for (int64 n = 0; n < N; n++) for (int64 t = 0; t < blocks; t++) {
                int64 p = t*B, m = std::min(B, P - p);
                float* y = out_p + n*O*P + p;
                for (int64 o = 0; o < O; o++) std::fill(y + o*P, y + o*P + m, in2_p[o]);
                dnnl_sgemm('N', 'N', O, m, C, 1.f, in1_p, C, in0_p + n*C*P + p, P, 1.f, y, P);
            }
            """,
        )

    def grad(self, g: jt.Var) -> tuple[jt.Var, jt.Var, jt.Var]:
        x, weight = self.saved
        return tuple(
            jt.code(
                [x.shape, weight.shape, [weight.shape[0]]],
                [x.dtype] * 3,
                [x, weight, g],
                cpu_header=_SHARES,
                cpu_src="""
                int64 N = in0_shape0, C = in0_shape1, P = (int64)in0_shape2*in0_shape3, O = in1_shape0;
                const int64 B = share_of(N*P), blocks = (P + B - 1) / B;
                int threads = omp_get_max_threads();
                std::vector<float> dw(threads*O*C, 0.f), db(threads*O, 0.f);
                #pragma omp parallel for collapse(2) schedule(static)
                for (int64 n = 0; n < N; n++) for (int64 t = 0; t < blocks; t++) {
                    int64 p = t*B, m = std::min(B, P - p), me = omp_get_thread_num();
                    const float *g = in2_p + n*O*P + p, *x = in0_p + n*C*P + p;
                    dnnl_sgemm('T', 'N', C, m, O, 1.f, in1_p, C, g, P, 0.f, out0_p + n*C*P + p, P);
                    dnnl_sgemm('N', 'T', O, C, m, 1.f, g, P, x, P, 1.f, &dw[me*O*C], C);
                    for (int64 o = 0; o < O; o++) {
                        float s = 0;
                        #pragma omp simd reduction(+:s)
                        for (int64 j = 0; j < m; j++) s += g[o*P + j];
                        db[me*O + o] += s;
                    }
                }
                // in a fixed order: the same numbers on every run
                memset(out1_p, 0, O*C*sizeof(float)); memset(out2_p, 0, O*sizeof(float));
                for (int k = 0; k < threads; k++) {
                    for (int64 i = 0; i < O*C; i++) out1_p[i] += dw[k*O*C + i];
                    for (int64 i = 0; i < O; i++) out2_p[i] += db[k*O + i];
                }
                """,
            )
        )


_PATCHES = (
    HEADER
    + """
// Rows of pixels taken together, so that their patches stay in the cache.
static inline int64_t rows_of(int64_t C, int64_t K, int64_t H, int64_t W) {
    return std::max<int64_t>(1, std::min<int64_t>(H, (1 << 17) / (C*K*K*W + 1)));
}
// col (C*K*K, m*W): for each tap, the image x (C, H, W) moved by it, rows i0 .. i0+m-1.
static inline void patches(const float* x, float* col, int64_t C, int64_t K, int64_t H, int64_t W,
                           int64_t i0, int64_t m) {
    for (int64_t c = 0; c < C; c++) for (int64_t a = 0; a < K; a++) for (int64_t b = 0; b < K; b++) {
        float* to = col + ((c*K + a)*K + b)*m*W;
        int64_t left = K/2 - b, first = std::min(W, std::max<int64_t>(0, left));
        int64_t last = std::max(first, std::min(W, W + left));
        for (int64_t i = 0; i < m; i++, to += W) {
            int64_t row = i0 + i + a - K/2;
            if (row < 0 || row >= H) { std::fill(to, to + W, 0.f); continue; }
            const float* from = x + (c*H + row)*W - left;
            std::fill(to, to + first, 0.f);
            std::copy(from + first, from + last, to + first);
            std::fill(to + last, to + W, 0.f);
        }
    }
}
"""
)


class _Conv(Function):
    def execute(self, x: jt.Var, weight: jt.Var, bias: jt.Var) -> jt.Var:
        self.saved = x, weight
        return convolve(x, weight, bias)

    def grad(self, g: jt.Var) -> tuple[jt.Var, jt.Var, jt.Var]:
        return slopes(*self.saved, g)


class _SiLUConv(Function):
    def execute(self, x: jt.Var, weight: jt.Var, bias: jt.Var) -> jt.Var:
        self.saved = x, weight
        return convolve(silu_forward(x), weight, bias)

    def grad(self, g: jt.Var) -> tuple[jt.Var, jt.Var, jt.Var]:
        x, weight = self.saved
        slope, dw, db = slopes(silu_forward(x, after=g), weight, g)
        return silu_backward(x, slope), dw, db


def slopes(x: jt.Var, weight: jt.Var, g: jt.Var) -> tuple[jt.Var, jt.Var, jt.Var]:
    """Of a convolution's input, weight and bias, from that of its result."""
    dw, db = jt.code(
        [weight.shape, [weight.shape[0]]],
        [x.dtype] * 2,
        [x, g],
        cpu_header=_PATCHES,
        cpu_src="""
            int64 N = in0_shape0, C = in0_shape1, H = in0_shape2, W = in0_shape3, O = in1_shape1;
            int64 K = out0_shape2, P = H*W, R = rows_of(C, K, H, W), D = C*K*K;
            int threads = omp_get_max_threads();
            std::vector<float> dw(threads*O*D, 0.f);
            #pragma omp parallel
            {
                std::vector<float> col(D*R*W);
                float* mine = &dw[omp_get_thread_num()*O*D];
                #pragma omp for collapse(2) schedule(static)
                for (int64 n = 0; n < N; n++) for (int64 i = 0; i < H; i += R) {
                    int64 m = std::min(R, H - i);
                    patches(in0_p + n*C*P, col.data(), C, K, H, W, i, m);
                    dnnl_sgemm('N', 'T', O, D, m*W, 1.f, in1_p + n*O*P + i*W, P, col.data(), m*W, 1.f, mine, D);
                }
                #pragma omp for
                for (int64 o = 0; o < O; o++) {
                    double sum = 0;
                    for (int64 n = 0; n < N; n++) for (int64 i = 0; i < H; i++) {
                        const float* g = in1_p + ((n*O + o)*H + i)*W;
                        float s = 0;
                        #pragma omp simd reduction(+:s)
                        for (int64 j = 0; j < W; j++) s += g[j];
                        sum += s;
                    }
                    out1_p[o] = sum;
                }
            }
            memset(out0_p, 0, O*D*sizeof(float));
            for (int k = 0; k < threads; k++) for (int64 j = 0; j < O*D; j++) out0_p[j] += dw[k*O*D + j];
            """,
    )
    turned = weight.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
    return convolve(g, turned, jt.zeros(weight.shape[1]), True), dw, db


def convolve(x: jt.Var, weight: jt.Var, bias: jt.Var, slope: bool = False) -> jt.Var:
    """The kernel of `conv`, without a gradient; slope: it makes one."""
    n, c, h, w = x.shape
    o, _, k, _ = weight.shape
    return jt.code(
        [n, o, h, w],
        x.dtype,
        [x, weight, bias],
        **_algorithm(k, min(o, c), n, h * w, slope),
    )


def _algorithm(size: int, width: int, images: int, pixels: int, slope: bool) -> dict[str, str]:
    """Header and source: Winograd's for many pixels, otherwise what reads the kernels once.

    Winograd's not on the way to a loss: its rounding would show in it. In the slopes it does not.
    """
    many = images * pixels >= max(1024, 2 * width)
    if (slope or jt.flags.no_grad) and size == 3 and width >= 16 and many:
        return {"cpu_header": _WINOGRAD, "cpu_src": _BY_TILES}
    if width >= 128 and pixels <= 2048:
        return {"cpu_header": _PATCHES, "cpu_src": _BY_CHANNELS}
    return {"cpu_header": _PATCHES, "cpu_src": _BY_ROWS}


_BY_ROWS = """
int64 N = in0_shape0, C = in0_shape1, H = in0_shape2, W = in0_shape3, O = in1_shape0;
int64 K = in1_shape2, P = H*W, R = rows_of(C, K, H, W), D = C*K*K;
#pragma omp parallel
{
    std::vector<float> col(D*R*W);
    #pragma omp for collapse(2) schedule(static)
    for (int64 n = 0; n < N; n++) for (int64 i = 0; i < H; i += R) {
        int64 m = std::min(R, H - i);
        float* y = out_p + n*O*P + i*W;
        for (int64 o = 0; o < O; o++) std::fill(y + o*P, y + o*P + m*W, in2_p[o]);
        patches(in0_p + n*C*P, col.data(), C, K, H, W, i, m);
        dnnl_sgemm('N', 'N', O, m*W, D, 1.f, in1_p, D, col.data(), m*W, 1.f, y, P);
    }
}
"""

# Few pixels and many channels: the kernels are most of the traffic, so each thread takes its own.
_BY_CHANNELS = """
int64 N = in0_shape0, C = in0_shape1, H = in0_shape2, W = in0_shape3, O = in1_shape0;
int64 K = in1_shape2, P = H*W, D = C*K*K;
int64 part = (O + omp_get_max_threads() - 1)/omp_get_max_threads();
std::vector<float> col(D*P);
#pragma omp parallel
for (int64 n = 0; n < N; n++) {
    #pragma omp for
    for (int64 c = 0; c < C; c++)
        patches(in0_p + (n*C + c)*P, &col[c*K*K*P], 1, K, H, W, 0, H);
    #pragma omp for
    for (int64 o = 0; o < O; o += part) {
        int64 m = std::min(part, O - o);
        float* y = out_p + (n*O + o)*P;
        for (int64 i = 0; i < m; i++) std::fill(y + i*P, y + i*P + P, in2_p[o + i]);
        dnnl_sgemm('N', 'N', m, P, D, 1.f, in1_p + o*D, D, col.data(), P, 1.f, y, P);
    }
}
"""

_BY_TILES = """
winograd(in0_p, in1_p, in2_p, out_p, in0_shape0, in0_shape1, out_shape1, in0_shape2, in0_shape3);
"""

_WINOGRAD = (
    HEADER
    + """
// U[4i+j][o][c]: the kernels, transformed on both axes.
static inline void transform_kernels(const float* w, float* U, int64_t O, int64_t C) {
    #pragma omp for
    for (int64_t p = 0; p < O*C; p++) {
        const float* k = w + p*9;
        float t[4][3];
        for (int j = 0; j < 3; j++) {
            float a = k[j], b = k[3 + j], c = k[6 + j];
            t[0][j] = a; t[1][j] = (a + b + c)/2; t[2][j] = (a - b + c)/2; t[3][j] = c;
        }
        for (int i = 0; i < 4; i++) {
            float a = t[i][0], b = t[i][1], c = t[i][2];
            float r[4] = {a, (a + b + c)/2, (a - b + c)/2, c};
            for (int j = 0; j < 4; j++) U[(4*i + j)*O*C + p] = r[j];
        }
    }
}
// One row of tiles of one channel: V[4i+j][tile], from the image rows 2r-1 .. 2r+2.
static inline void transform_row(const float* x, float* V, int64_t step, int64_t r, int64_t H, int64_t W,
                                 int64_t tiles, float* even, float* odd) {
    const float* rows[4];
    std::vector<float> zero(W, 0.f);
    for (int i = 0; i < 4; i++) {
        int64_t at = 2*r - 1 + i;
        rows[i] = at >= 0 && at < H ? x + at*W : zero.data();
    }
    const int first[4] = {0, 1, 2, 1}, second[4] = {2, 2, 1, 3};
    const float sign[4] = {-1, 1, -1, -1};
    for (int i = 0; i < 4; i++) {
        const float *a = rows[first[i]], *b = rows[second[i]];
        float s = sign[i];
        // even[j], odd[j]: the padded row (a zero on the left) at 2j and 2j + 1
        int64_t inner = std::min(tiles, (W - 1)/2);
        even[0] = 0; odd[0] = a[0] + s*b[0];
        for (int64_t j = 1; j <= inner; j++) {
            even[j] = a[2*j - 1] + s*b[2*j - 1];
            odd[j] = a[2*j] + s*b[2*j];
        }
        for (int64_t j = inner + 1; j <= tiles; j++) {
            even[j] = 2*j - 1 < W ? a[2*j - 1] + s*b[2*j - 1] : 0.f;
            odd[j] = 0;
        }
        float *v0 = V + 4*i*step, *v1 = v0 + step, *v2 = v1 + step, *v3 = v2 + step;
        #pragma omp simd
        for (int64_t j = 0; j < tiles; j++) {
            v0[j] = even[j] - even[j + 1]; v1[j] = odd[j] + even[j + 1];
            v2[j] = even[j + 1] - odd[j]; v3[j] = odd[j] - odd[j + 1];
        }
    }
}
// One row of tiles of one output channel, from M[4i+j][tile].
static inline void restore_row(const float* M, int64_t step, float bias, float* y, int64_t r, int64_t H,
                               int64_t W, int64_t tiles, float* made) {
    for (int half = 0; half < 2 && 2*r + half < H; half++) {
        float *left = made, *right = made + tiles;
        float s = half ? -1 : 1;
        const float *a = M + (half ? 4 : 0)*step, *b = M + (half ? 8 : 4)*step, *c = M + (half ? 12 : 8)*step;
        #pragma omp simd
        for (int64_t j = 0; j < tiles; j++) {
            float m0 = a[j] + s*b[j] + s*c[j], m1 = a[j + step] + s*b[j + step] + s*c[j + step];
            float m2 = a[j + 2*step] + s*b[j + 2*step] + s*c[j + 2*step];
            float m3 = a[j + 3*step] + s*b[j + 3*step] + s*c[j + 3*step];
            left[j] = m0 + m1 + m2 + bias; right[j] = m1 - m2 - m3 + bias;
        }
        float* out = y + (2*r + half)*W;
        for (int64_t j = 0; j < W/2; j++) { out[2*j] = left[j]; out[2*j + 1] = right[j]; }
        if (W % 2) out[W - 1] = left[W/2];
    }
}
static inline void winograd(const float* x, const float* w, const float* bias, float* y, int64_t N, int64_t C,
                            int64_t O, int64_t H, int64_t W) {
    int64_t down = (H + 1)/2, tiles = (W + 1)/2, all = N*down;  // rows of tiles, over the whole batch
    int64_t rows = std::max<int64_t>(1, std::min(all, (1 << 22)/(16*(C + O)*tiles))), T = rows*tiles;
    std::vector<float> U(16*O*C), V(16*C*T), M(16*O*T);
    #pragma omp parallel
    {
        std::vector<float> buffer(2*tiles + 2);
        float* half = buffer.data() + tiles + 1;
        transform_kernels(w, U.data(), O, C);
        for (int64_t r0 = 0; r0 < all; r0 += rows) {
            int64_t m = std::min(rows, all - r0), t = m*tiles;
            #pragma omp for
            for (int64_t c = 0; c < C; c++) for (int64_t r = r0; r < r0 + m; r++)
                transform_row(x + (r/down*C + c)*H*W, &V[c*t + (r - r0)*tiles], C*t, r % down, H, W, tiles,
                              buffer.data(), half);
            #pragma omp for schedule(dynamic, 1)
            for (int64_t k = 0; k < 16; k++)
                dnnl_sgemm('N', 'N', O, t, C, 1.f, &U[k*O*C], C, &V[k*C*t], t, 0.f, &M[k*O*t], t);
            #pragma omp for
            for (int64_t o = 0; o < O; o++) for (int64_t r = r0; r < r0 + m; r++)
                restore_row(&M[o*t + (r - r0)*tiles], O*t, bias[o], y + (r/down*O + o)*H*W, r % down, H, W, tiles,
                            buffer.data());
        }
    }
}
"""
)


ROWS = (
    HEADER
    + """
// One row from the row above (a), itself (b) and the row below (c).
static inline void depthwise_row(const float* a, const float* b, const float* c, const float* k,
                                 float* __restrict o, int64_t W) {
    o[0] = k[1]*a[0] + k[4]*b[0] + k[7]*c[0];
    if (W > 1) {
        int64_t j = W - 1;
        o[0] += k[2]*a[1] + k[5]*b[1] + k[8]*c[1];
        o[j] = k[0]*a[j-1] + k[1]*a[j] + k[3]*b[j-1] + k[4]*b[j] + k[6]*c[j-1] + k[7]*c[j];
    }
    #pragma omp simd
    for (int64_t j = 1; j < W - 1; j++)
        o[j] = k[0]*a[j-1] + k[1]*a[j] + k[2]*a[j+1] + k[3]*b[j-1] + k[4]*b[j] + k[5]*b[j+1]
             + k[6]*c[j-1] + k[7]*c[j] + k[8]*c[j+1];
}
// Adds the gradient of the nine weights from the slope q of one row.
static inline void weight_gradient_row(const float* a, const float* b, const float* c, const float* q,
                                       float* dw, int64_t W) {
    float s0=0, s1=0, s2=0, s3=0, s4=0, s5=0, s6=0, s7=0, s8=0;
    #pragma omp simd reduction(+:s0,s1,s2,s3,s4,s5,s6,s7,s8)
    for (int64_t j = 1; j < W - 1; j++) {
        float v = q[j];
        s0 += v*a[j-1]; s1 += v*a[j]; s2 += v*a[j+1];
        s3 += v*b[j-1]; s4 += v*b[j]; s5 += v*b[j+1];
        s6 += v*c[j-1]; s7 += v*c[j]; s8 += v*c[j+1];
    }
    float v = q[0];
    s1 += v*a[0]; s4 += v*b[0]; s7 += v*c[0];
    if (W > 1) {
        s2 += v*a[1]; s5 += v*b[1]; s8 += v*c[1];
        int64_t j = W - 1;
        v = q[j];
        s0 += v*a[j-1]; s1 += v*a[j]; s3 += v*b[j-1]; s4 += v*b[j]; s6 += v*c[j-1]; s7 += v*c[j];
    }
    float s[9] = {s0, s1, s2, s3, s4, s5, s6, s7, s8};
    for (int k = 0; k < 9; k++) dw[k] += s[k];
}
// One plane. `zero` is a row of zeros that stands in above the first and below the last row.
static inline void depthwise(const float* x, const float* w, float* y, int64_t H, int64_t W,
                             const float* zero, bool flip) {
    float k[9];
    for (int i = 0; i < 9; i++) k[i] = w[flip ? 8 - i : i];
    for (int64_t i = 0; i < H; i++)
        depthwise_row(i ? x + (i-1)*W : zero, x + i*W, i + 1 < H ? x + (i+1)*W : zero, k, y + i*W, W);
}
static inline void weight_gradient(const float* x, const float* g, float* dw, int64_t H, int64_t W,
                                   const float* zero) {
    for (int64_t i = 0; i < H; i++)
        weight_gradient_row(i ? x + (i-1)*W : zero, x + i*W, i + 1 < H ? x + (i+1)*W : zero, g + i*W, dw, W);
}
"""
)


class _Depthwise3x3(Function):
    def execute(self, x: jt.Var, weight: jt.Var) -> jt.Var:
        self.saved = x, weight
        return _rows(x, weight, flip=False)

    def grad(self, g: jt.Var) -> tuple[jt.Var, jt.Var]:
        x, weight = self.saved
        dw = jt.code(
            weight.shape,
            x.dtype,
            [x, g],
            cpu_header=ROWS,
            cpu_src="""
            int64 N = in0_shape0, C = in0_shape1, H = in0_shape2, W = in0_shape3;
            std::vector<float> zero(W, 0.f);
            #pragma omp parallel for
            for (int64 c = 0; c < C; c++) {
                float* d = out_p + c*9;
                std::fill(d, d + 9, 0.f);
                for (int64 n = 0; n < N; n++) {
                    int64 at = (n*C + c)*H*W;
                    weight_gradient(in0_p + at, in1_p + at, d, H, W, zero.data());
                }
            }
            """,
        )
        return _rows(g, weight, flip=True), dw


def _rows(x: jt.Var, weight: jt.Var, flip: bool) -> jt.Var:
    return jt.code(
        x.shape,
        x.dtype,
        [x, weight],
        cpu_header=ROWS,
        data={"flip": int(flip)},
        cpu_src="""
        int64 N = in0_shape0, C = in0_shape1, H = in0_shape2, W = in0_shape3;
        bool flip = data["flip"] != 0;
        std::vector<float> zero(W, 0.f);
        #pragma omp parallel for
        for (int64 i = 0; i < N*C; i++)
            depthwise(in0_p + i*H*W, in1_p + (i % C)*9, out_p + i*H*W, H, W, zero.data(), flip);
        """,
    )
