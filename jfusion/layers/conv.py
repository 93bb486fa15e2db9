"""Convolutions that keep the size: 1x1 and KxK as matrix products, depthwise 3x3 row by row.

Jittor hands every convolution to oneDNN with a copy of source and destination into its blocked
layout, and lets it choose Winograd's algorithm, which costs a digit of accuracy. A 1x1 convolution
needs no copy, a KxK one a row of patches at a time, and a depthwise one is limited by memory.
"""

from __future__ import annotations

from jfusion.layers.cpu import HEADER, use_kernel
from jfusion.runtime import jt, nn


def conv1x1(x: jt.Var, weight: jt.Var, bias: jt.Var | None = None) -> jt.Var:
    """x (N, C, H, W), weight (O, C, 1, 1), bias (O,) -> (N, O, H, W)."""
    if not use_kernel(x, weight):
        return plain_conv1x1(x, weight, bias)
    return _Conv1x1()(x, weight, jt.zeros(weight.shape[0]) if bias is None else bias)


def plain_conv1x1(x: jt.Var, weight: jt.Var, bias: jt.Var | None = None) -> jt.Var:
    """The same as a stock convolution."""
    return nn.conv2d(x, weight, bias)


def conv(x: jt.Var, weight: jt.Var, bias: jt.Var | None = None) -> jt.Var:
    """Stride 1, zero padding K // 2. x (N, C, H, W), weight (O, C, K, K) with K odd, bias (O,)."""
    if not use_kernel(x, weight):
        return plain_conv(x, weight, bias)
    out = _Conv()(x, weight)
    return out if bias is None else out + bias.reshape(1, -1, 1, 1)


def plain_conv(x: jt.Var, weight: jt.Var, bias: jt.Var | None = None) -> jt.Var:
    """The same as a stock convolution."""
    return nn.conv2d(x, weight, bias, padding=weight.shape[2] // 2)


def depthwise3x3(x: jt.Var, weight: jt.Var) -> jt.Var:
    """Each channel with its own kernel, zero padding 1. x (N, C, H, W), weight (C, 1, 3, 3)."""
    return _Depthwise3x3()(x, weight) if use_kernel(x, weight) else plain_depthwise3x3(x, weight)


def plain_depthwise3x3(x: jt.Var, weight: jt.Var) -> jt.Var:
    """The same as nine shifted products."""
    n, c, h, w = x.shape
    out = 0
    for i in range(3):
        for j in range(3):
            moved = x.reindex([n, c, h, w], ["i0", "i1", f"i2+{i - 1}", f"i3+{j - 1}"])
            out = out + moved * weight[:, 0, i, j].reshape(1, c, 1, 1)
    return out


class _Conv1x1(jt.Function):
    def execute(self, x: jt.Var, weight: jt.Var, bias: jt.Var) -> jt.Var:
        self.saved = x, weight
        n, _, h, w = x.shape
        return jt.code(
            [n, weight.shape[0], h, w],
            x.dtype,
            [x, weight, bias],
            cpu_header=HEADER,
            cpu_src="""
            int64 N = in0_shape0, C = in0_shape1, P = (int64)in0_shape2*in0_shape3, O = in1_shape0;
            const int64 B = 4096, blocks = (P + B - 1) / B;
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
                cpu_header=HEADER,
                cpu_src="""
                int64 N = in0_shape0, C = in0_shape1, P = (int64)in0_shape2*in0_shape3, O = in1_shape0;
                const int64 B = 4096, blocks = (P + B - 1) / B;
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


class _Conv(jt.Function):
    def execute(self, x: jt.Var, weight: jt.Var) -> jt.Var:
        self.saved = x, weight
        return _convolve(x, weight)

    def grad(self, g: jt.Var) -> tuple[jt.Var, jt.Var]:
        x, weight = self.saved
        turned = weight.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
        dw = jt.code(
            weight.shape,
            x.dtype,
            [x, g],
            cpu_header=_PATCHES,
            cpu_src="""
            int64 N = in0_shape0, C = in0_shape1, H = in0_shape2, W = in0_shape3, O = in1_shape1;
            int64 K = out_shape2, P = H*W, R = rows_of(C, K, H, W), D = C*K*K;
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
            }
            memset(out_p, 0, O*D*sizeof(float));
            for (int k = 0; k < threads; k++) for (int64 j = 0; j < O*D; j++) out_p[j] += dw[k*O*D + j];
            """,
        )
        return _convolve(g, turned), dw


def _convolve(x: jt.Var, weight: jt.Var) -> jt.Var:
    n, _, h, w = x.shape
    return jt.code(
        [n, weight.shape[0], h, w],
        x.dtype,
        [x, weight],
        cpu_header=_PATCHES,
        cpu_src="""
        int64 N = in0_shape0, C = in0_shape1, H = in0_shape2, W = in0_shape3, O = in1_shape0;
        int64 K = in1_shape2, P = H*W, R = rows_of(C, K, H, W), D = C*K*K;
        #pragma omp parallel
        {
            std::vector<float> col(D*R*W);
            #pragma omp for collapse(2) schedule(static)
            for (int64 n = 0; n < N; n++) for (int64 i = 0; i < H; i += R) {
                int64 m = std::min(R, H - i);
                patches(in0_p + n*C*P, col.data(), C, K, H, W, i, m);
                dnnl_sgemm('N', 'N', O, m*W, D, 1.f, in1_p, D, col.data(), m*W, 0.f, out_p + n*O*P + i*W, P);
            }
        }
        """,
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


class _Depthwise3x3(jt.Function):
    def execute(self, x: jt.Var, weight: jt.Var) -> jt.Var:
        self.saved = x, weight
        return _depthwise(x, weight, flip=False)

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
        return _depthwise(g, weight, flip=True), dw


def _depthwise(x: jt.Var, weight: jt.Var, flip: bool) -> jt.Var:
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
