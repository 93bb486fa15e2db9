"""1x1 convolution then depthwise 3x3, alone or followed by the GELU gate and another 1x1.

The hidden maps are four to eight times as wide as the features and are needed only a few rows at a
time. The kernels make a few channels of a band of rows, use them while they are in the cache, and
never write them to memory; the gradient makes them again from the input instead of keeping them.
"""

from __future__ import annotations

from jfusion.ops.activation import ERF, gelu_gate
from jfusion.ops.conv import ROWS, conv1x1, depthwise3x3
from jfusion.ops.kernels import Function, use_kernel
from jfusion.ops.norm import channel_layer_norm, norm_backward, norm_forward
from jfusion.runtime import jt


def expand_depthwise(x: jt.Var, expand: jt.Var, depthwise: jt.Var) -> jt.Var:
    """depthwise3x3(conv1x1(x)): x (N, C, H, W), expand (D, C, 1, 1), depthwise (D, 1, 3, 3)."""
    if use_kernel(x, expand, depthwise):
        return _ExpandDepthwise()(x, expand, depthwise)
    return plain_expand_depthwise(x, expand, depthwise)


def plain_expand_depthwise(x: jt.Var, expand: jt.Var, depthwise: jt.Var) -> jt.Var:
    """The same, part by part."""
    return depthwise3x3(conv1x1(x, expand), depthwise)


def gated_feed_forward(
    x: jt.Var, norm: tuple[jt.Var, jt.Var], expand: jt.Var, depthwise: jt.Var, project: jt.Var
) -> jt.Var:
    """conv1x1(gelu_gate(depthwise3x3(conv1x1(channel_layer_norm(x))))), as in Restormer.

    x (N, C, H, W), norm weight and bias (C,), expand (2D, C, 1, 1), depthwise (2D, 1, 3, 3), project
    (O, D, 1, 1) -> (N, O, H, W).
    """
    if use_kernel(x, *norm, expand, depthwise, project):
        return _GatedFeedForward()(x, *norm, expand, depthwise, project)
    return plain_gated_feed_forward(x, norm, expand, depthwise, project)


def plain_gated_feed_forward(
    x: jt.Var, norm: tuple[jt.Var, jt.Var], expand: jt.Var, depthwise: jt.Var, project: jt.Var
) -> jt.Var:
    """The same, part by part."""
    hidden = plain_expand_depthwise(channel_layer_norm(x, *norm), expand, depthwise)
    return conv1x1(gelu_gate(hidden), project)


_BANDS = ROWS + (
    """
// Rows of a band: about `values` values of one channel, at least 4 rows.
static inline int64_t rows_of_band(int64_t H, int64_t W, int64_t values) {
    return std::max<int64_t>(std::min<int64_t>(H, 4), std::min<int64_t>(H, values / W));
}
// Rows [first, last) of an image that lie in a buffer; any other row is zero.
struct Window {
    const float* data; int64_t first, last, W; const float* zero;
    const float* row(int64_t i) const { return i < first || i >= last ? zero : data + (i - first)*W; }
};
static inline void depthwise_rows(const Window& x, const float* k, float* y, int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++, y += x.W)
        depthwise_row(x.row(i-1), x.row(i), x.row(i+1), k, y, x.W);
}
static inline void flipped(const float* k, float* to) { for (int i = 0; i < 9; i++) to[i] = k[8 - i]; }
static inline void sum_threads(const std::vector<float>& parts, float* out, int64_t n, int threads) {
    std::fill(out, out + n, 0.f);
    for (int t = 0; t < threads; t++) for (int64_t i = 0; i < n; i++) out[i] += parts[t*n + i];
}
"""
)


class _ExpandDepthwise(Function):
    def execute(self, x: jt.Var, expand: jt.Var, depthwise: jt.Var) -> jt.Var:
        self.saved = x, expand, depthwise
        return expand_forward(x, expand, depthwise)

    def grad(self, g: jt.Var) -> tuple[jt.Var, jt.Var, jt.Var]:
        return expand_backward(*self.saved, g)


def expand_forward(x: jt.Var, expand: jt.Var, depthwise: jt.Var) -> jt.Var:
    """The kernel of `expand_depthwise`, without a gradient."""
    n, _, h, w = x.shape
    return jt.code(
        [n, expand.shape[0], h, w],
        x.dtype,
        [x, expand, depthwise],
        cpu_header=_BANDS,
        cpu_src="""
        const int64 Q = 16;
        int64 N = in0_shape0, C = in0_shape1, H = in0_shape2, W = in0_shape3, D = in1_shape0;
        int64 P = H*W, R = rows_of_band(H, W, 8192);
        #pragma omp parallel
        {
            std::vector<float> zero(W, 0.f), e(Q*(R + 2)*W);
            #pragma omp for collapse(2) schedule(dynamic, 1)
            for (int64 n = 0; n < N; n++) for (int64 i0 = 0; i0 < H; i0 += R) {
                int64 i1 = std::min(H, i0 + R), a0 = std::max<int64>(0, i0 - 1), a1 = std::min(H, i1 + 1);
                int64 L = (a1 - a0)*W;
                const float* x = in0_p + n*C*P + a0*W;
                for (int64 q = 0; q < D; q += Q) {
                    int64 m = std::min(Q, D - q);
                    dnnl_sgemm('N', 'N', m, L, C, 1.f, in1_p + q*C, C, x, P, 0.f, e.data(), L);
                    for (int64 c = 0; c < m; c++) {
                        Window rows{&e[c*L], a0, a1, W, zero.data()};
                        depthwise_rows(rows, in2_p + (q + c)*9, out_p + (n*D + q + c)*P + i0*W, i0, i1);
                    }
                }
            }
        }
        """,
    )


def expand_backward(
    x: jt.Var, expand: jt.Var, depthwise: jt.Var, g: jt.Var
) -> tuple[jt.Var, jt.Var, jt.Var]:
    """The gradients of x, expand and depthwise from the slope g of the output."""
    return tuple(
        jt.code(
            [x.shape, expand.shape, depthwise.shape],
            [x.dtype] * 3,
            [x, expand, depthwise, g],
            cpu_header=_BANDS,
            cpu_src="""
            const int64 Q = 96;
            int64 N = in0_shape0, C = in0_shape1, H = in0_shape2, W = in0_shape3, D = in1_shape0;
            int64 P = H*W, R = rows_of_band(H, W, 3072);
            int threads = omp_get_max_threads();
            std::vector<float> d_expand(threads*D*C, 0.f), d_depthwise(threads*D*9, 0.f);
            #pragma omp parallel
            {
                float* dE = &d_expand[omp_get_thread_num()*D*C];
                float* dK = &d_depthwise[omp_get_thread_num()*D*9];
                std::vector<float> zero(W, 0.f), e(Q*(R + 2)*W), de(Q*R*W);
                #pragma omp for collapse(2) schedule(static)
                for (int64 n = 0; n < N; n++) for (int64 i0 = 0; i0 < H; i0 += R) {
                    int64 i1 = std::min(H, i0 + R), a0 = std::max<int64>(0, i0 - 1), a1 = std::min(H, i1 + 1);
                    int64 L = (a1 - a0)*W, own = (i1 - i0)*W;
                    const float* x = in0_p + n*C*P;
                    float* dx = out0_p + n*C*P + i0*W;
                    for (int64 q = 0; q < D; q += Q) {
                        int64 m = std::min(Q, D - q);
                        dnnl_sgemm('N', 'N', m, L, C, 1.f, in1_p + q*C, C, x + a0*W, P, 0.f, e.data(), L);
                        for (int64 c = 0; c < m; c++) {
                            const float* g = in3_p + (n*D + q + c)*P;
                            Window rows{&e[c*L], a0, a1, W, zero.data()}, slope{g, 0, H, W, zero.data()};
                            for (int64 i = i0; i < i1; i++)
                                weight_gradient_row(rows.row(i-1), rows.row(i), rows.row(i+1), slope.row(i),
                                                    dK + (q + c)*9, W);
                            float k[9];
                            flipped(in2_p + (q + c)*9, k);
                            depthwise_rows(slope, k, &de[c*own], i0, i1);
                        }
                        dnnl_sgemm('T', 'N', C, own, m, 1.f, in1_p + q*C, C, de.data(), own, q ? 1.f : 0.f, dx, P);
                        dnnl_sgemm('N', 'T', m, C, own, 1.f, de.data(), own, x + i0*W, P, 1.f, dE + q*C, C);
                    }
                }
            }
            sum_threads(d_expand, out1_p, D*C, threads);
            sum_threads(d_depthwise, out2_p, D*9, threads);
            """,
        )
    )


class _GatedFeedForward(Function):
    def execute(
        self,
        x: jt.Var,
        weight: jt.Var,
        bias: jt.Var,
        expand: jt.Var,
        depthwise: jt.Var,
        project: jt.Var,
    ) -> jt.Var:
        self.saved = (x, weight, bias), (expand, depthwise, project)
        normal, _ = norm_forward(x, weight, bias)
        return _feed_forward(normal, expand, depthwise, project)

    def grad(self, g: jt.Var) -> tuple[jt.Var, ...]:
        normed, weights = self.saved
        normal, statistics = norm_forward(*normed, after=g)
        d_normal, *d_weights = _feed_backward(normal, *weights, g)
        return (*norm_backward(*normed[:2], statistics, d_normal), *d_weights)


def _feed_forward(x: jt.Var, expand: jt.Var, depthwise: jt.Var, project: jt.Var) -> jt.Var:
    n, _, h, w = x.shape
    return jt.code(
        [n, project.shape[0], h, w],
        x.dtype,
        [x, expand, depthwise, project],
        cpu_header=_BANDS + ERF,
        cpu_src="""
        const int64 Q = 32;
        int64 N = in0_shape0, C = in0_shape1, H = in0_shape2, W = in0_shape3;
        int64 D = in1_shape0/2, O = in3_shape0, P = H*W, R = rows_of_band(H, W, 6144);
        #pragma omp parallel
        {
            std::vector<float> zero(W, 0.f), e(2*Q*(R + 2)*W), y(Q*R*W), u(W), v(W);
            #pragma omp for collapse(2) schedule(dynamic, 1)
            for (int64 n = 0; n < N; n++) for (int64 i0 = 0; i0 < H; i0 += R) {
                int64 i1 = std::min(H, i0 + R), a0 = std::max<int64>(0, i0 - 1), a1 = std::min(H, i1 + 1);
                int64 L = (a1 - a0)*W, own = (i1 - i0)*W;
                const float* x = in0_p + n*C*P + a0*W;
                for (int64 q = 0; q < D; q += Q) {
                    int64 m = std::min(Q, D - q);
                    float *eu = e.data(), *ev = eu + m*L;
                    dnnl_sgemm('N', 'N', m, L, C, 1.f, in1_p + q*C, C, x, P, 0.f, eu, L);
                    dnnl_sgemm('N', 'N', m, L, C, 1.f, in1_p + (D + q)*C, C, x, P, 0.f, ev, L);
                    for (int64 c = 0; c < m; c++) {
                        Window first{eu + c*L, a0, a1, W, zero.data()}, second{ev + c*L, a0, a1, W, zero.data()};
                        for (int64 i = i0; i < i1; i++) {
                            depthwise_rows(first, in2_p + (q + c)*9, u.data(), i, i + 1);
                            depthwise_rows(second, in2_p + (D + q + c)*9, v.data(), i, i + 1);
                            float* to = &y[c*own + (i - i0)*W];
                            #pragma omp simd
                            for (int64 j = 0; j < W; j++)
                                to[j] = 0.5f*u[j]*(1.f + erf_fast(u[j]*0.70710678f))*v[j];
                        }
                    }
                    dnnl_sgemm('N', 'N', O, own, m, 1.f, in3_p + q, D, y.data(), own, q ? 1.f : 0.f,
                               out_p + n*O*P + i0*W, P);
                }
            }
        }
        """,
    )


def _feed_backward(
    x: jt.Var, expand: jt.Var, depthwise: jt.Var, project: jt.Var, g: jt.Var
) -> tuple[jt.Var, ...]:
    return tuple(
        jt.code(
            [x.shape, expand.shape, depthwise.shape, project.shape],
            [x.dtype] * 4,
            [x, expand, depthwise, project, g],
            cpu_header=_BANDS + ERF,
            cpu_src="""
            const int64 Q = 8;
            int64 N = in0_shape0, C = in0_shape1, H = in0_shape2, W = in0_shape3;
            int64 D = in1_shape0/2, O = in3_shape0, P = H*W, R = rows_of_band(H, W, 6144);
            int threads = omp_get_max_threads();
            std::vector<float> d_expand(threads*2*D*C, 0.f), d_depthwise(threads*2*D*9, 0.f);
            std::vector<float> d_project(threads*O*D, 0.f);
            #pragma omp parallel
            {
                float* dE = &d_expand[omp_get_thread_num()*2*D*C];
                float* dK = &d_depthwise[omp_get_thread_num()*2*D*9];
                float* dP = &d_project[omp_get_thread_num()*O*D];
                std::vector<float> zero(W, 0.f), e(2*Q*(R + 4)*W), dd(2*Q*(R + 2)*W), dy(Q*(R + 2)*W);
                std::vector<float> y(Q*R*W), de(2*Q*R*W), u(W), v(W);
                #pragma omp for collapse(2) schedule(static)
                for (int64 n = 0; n < N; n++) for (int64 i0 = 0; i0 < H; i0 += R) {
                    // own rows [i0, i1), slopes on one row more, hidden maps on two
                    int64 i1 = std::min(H, i0 + R);
                    int64 b0 = std::max<int64>(0, i0 - 1), b1 = std::min(H, i1 + 1);
                    int64 a0 = std::max<int64>(0, i0 - 2), a1 = std::min(H, i1 + 2);
                    int64 L = (a1 - a0)*W, M = (b1 - b0)*W, own = (i1 - i0)*W;
                    const float *x = in0_p + n*C*P, *g = in4_p + n*O*P;
                    float* dx = out0_p + n*C*P + i0*W;
                    for (int64 q = 0; q < D; q += Q) {
                        int64 m = std::min(Q, D - q);
                        for (int s = 0; s < 2; s++)
                            dnnl_sgemm('N', 'N', m, L, C, 1.f, in1_p + (s*D + q)*C, C, x + a0*W, P, 0.f,
                                       &e[s*m*L], L);
                        dnnl_sgemm('T', 'N', m, M, O, 1.f, in3_p + q, D, g + b0*W, P, 0.f, dy.data(), M);
                        for (int64 c = 0; c < m; c++) {
                            Window hidden[2] = {{&e[c*L], a0, a1, W, zero.data()},
                                                {&e[(m + c)*L], a0, a1, W, zero.data()}};
                            const float* k[2] = {in2_p + (q + c)*9, in2_p + (D + q + c)*9};
                            for (int64 i = b0; i < b1; i++) {
                                depthwise_rows(hidden[0], k[0], u.data(), i, i + 1);
                                depthwise_rows(hidden[1], k[1], v.data(), i, i + 1);
                                const float* slope = &dy[c*M + (i - b0)*W];
                                float *du = &dd[c*M + (i - b0)*W], *dv = du + m*M;
                                #pragma omp simd
                                for (int64 j = 0; j < W; j++) {
                                    float half = 0.5f*(1.f + erf_fast(u[j]*0.70710678f));
                                    du[j] = slope[j]*v[j]*(half + u[j]*0.39894228f*std::exp(-0.5f*u[j]*u[j]));
                                    dv[j] = slope[j]*u[j]*half;
                                    v[j] *= u[j]*half;
                                }
                                if (i >= i0 && i < i1) std::copy(v.begin(), v.end(), &y[c*own + (i - i0)*W]);
                            }
                            for (int s = 0; s < 2; s++) {
                                Window slope{&dd[(s*m + c)*M], b0, b1, W, zero.data()};
                                for (int64 i = i0; i < i1; i++)
                                    weight_gradient_row(hidden[s].row(i-1), hidden[s].row(i), hidden[s].row(i+1),
                                                        slope.row(i), dK + (s*D + q + c)*9, W);
                                float turned[9];
                                flipped(k[s], turned);
                                depthwise_rows(slope, turned, &de[(s*m + c)*own], i0, i1);
                            }
                        }
                        dnnl_sgemm('N', 'T', O, m, own, 1.f, g + i0*W, P, y.data(), own, 1.f, dP + q, D);
                        for (int s = 0; s < 2; s++) {
                            const float* slope = &de[s*m*own];
                            int64 at = (s*D + q)*C;
                            dnnl_sgemm('T', 'N', C, own, m, 1.f, in1_p + at, C, slope, own, q || s ? 1.f : 0.f, dx, P);
                            dnnl_sgemm('N', 'T', m, C, own, 1.f, slope, own, x + i0*W, P, 1.f, dE + at, C);
                        }
                    }
                }
            }
            sum_threads(d_expand, out1_p, 2*D*C, threads);
            sum_threads(d_depthwise, out2_p, 2*D*9, threads);
            sum_threads(d_project, out3_p, O*D, threads);
            """,
        )
    )
