// A 1x1 convolution that widens the features, then a depthwise 3x3 one: alone, or followed by the GELU gate and a 1x1
// convolution back. The hidden maps are never written to memory: a few of their channels are computed for a band of
// rows, and used while they are in the cache. The gradients compute them again.
#pragma once
#include "bands.h"
#include "erf.h"

// The gradients of that convolution, from the gradient d_y of its result: adds that of the weights k to dw, and puts
// rows [first, last) of that of x into dx.
static inline void depthwise3x3_rows_backward(const Window& x, const Window& d_y, const float* k, float* dw, float* dx,
                                              int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++)
        depthwise3x3_backward_weight_row(x.row(i-1), x.row(i), x.row(i+1), d_y.row(i), dw, x.W);
    float flipped[9];
    for (int t = 0; t < 9; t++) flipped[t] = k[8 - t];
    depthwise3x3_rows(d_y, flipped, dx, first, last);
}

// out (n): the sum of the threads' parts (threads, n), in the order of the threads.
static inline void sum_threads(const std::vector<float>& parts, float* out, int64_t n, int threads) {
    std::fill(out, out + n, 0.f);
    for (int t = 0; t < threads; t++) for (int64_t i = 0; i < n; i++) out[i] += parts[t*n + i];
}

// x (N, C, H, W), weight and bias (C) of the normalization or null, expand (D, C), depthwise (D, 3, 3)
// -> y (N, D, H, W).
static inline void expand_depthwise_forward(const float* x, const float* weight, const float* bias, const float* expand,
                                            const float* depthwise, float* y, int64_t N, int64_t C, int64_t D, int64_t H,
                                            int64_t W) {
    const int64_t Q = 16;  // hidden channels at a time
    int64_t P = H*W, R = rows_per_band(H, W, 8192), stride = apart((R + 2)*W);
    #pragma omp parallel
    {
        std::vector<float> zero(W, 0.f), normal(C*stride), hidden(Q*stride);
        #pragma omp for collapse(2) schedule(dynamic, 1)
        for (int64_t n = 0; n < N; n++) for (int64_t i0 = 0; i0 < H; i0 += R) {
            // rows [i0, i1) of y need rows [a0, a1) of the hidden maps
            int64_t i1 = std::min(H, i0 + R), a0 = std::max<int64_t>(0, i0 - 1), a1 = std::min(H, i1 + 1);
            int64_t L = (a1 - a0)*W;
            copy_normal(x + n*C*P + a0*W, P, weight, bias, normal.data(), stride, C, L);
            for (int64_t q = 0; q < D; q += Q) {
                int64_t m = std::min(Q, D - q);
                dnnl_sgemm('N', 'N', m, L, C, 1.f, expand + q*C, C, normal.data(), stride, 0.f, hidden.data(), stride);
                for (int64_t c = 0; c < m; c++) {
                    Window rows{&hidden[c*stride], a0, a1, W, zero.data()};
                    depthwise3x3_rows(rows, depthwise + (q + c)*9, y + (n*D + q + c)*P + i0*W, i0, i1);
                }
            }
        }
    }
}

// From g (N, D, H, W), the gradient of y: d_x, d_expand and d_depthwise; without a normalization.
static inline void expand_depthwise_backward(const float* x, const float* expand, const float* depthwise,
                                             const float* g, float* d_x, float* d_expand, float* d_depthwise,
                                             int64_t N, int64_t C, int64_t D, int64_t H, int64_t W) {
    const int64_t Q = 96;
    int64_t P = H*W, R = rows_per_band(H, W, 3072), stride = apart((R + 2)*W), own = apart(R*W);
    int threads = omp_get_max_threads();
    std::vector<float> all_dE(threads*D*C, 0.f), all_dK(threads*D*9, 0.f);
    #pragma omp parallel
    {
        float *dE = &all_dE[omp_get_thread_num()*D*C], *dK = &all_dK[omp_get_thread_num()*D*9];
        std::vector<float> zero(W, 0.f), band(C*stride), hidden(Q*stride), d_hidden(Q*own), d_band(C*own);
        #pragma omp for collapse(2) schedule(static)
        for (int64_t n = 0; n < N; n++) for (int64_t i0 = 0; i0 < H; i0 += R) {
            int64_t i1 = std::min(H, i0 + R), a0 = std::max<int64_t>(0, i0 - 1), a1 = std::min(H, i1 + 1);
            int64_t L = (a1 - a0)*W, inner = (i1 - i0)*W;
            copy_rows(x + n*C*P + a0*W, P, band.data(), stride, C, L);
            for (int64_t q = 0; q < D; q += Q) {
                int64_t m = std::min(Q, D - q);
                dnnl_sgemm('N', 'N', m, L, C, 1.f, expand + q*C, C, band.data(), stride, 0.f, hidden.data(), stride);
                for (int64_t c = 0; c < m; c++) {
                    Window rows{&hidden[c*stride], a0, a1, W, zero.data()};
                    Window d_y{g + (n*D + q + c)*P, 0, H, W, zero.data()};
                    depthwise3x3_rows_backward(rows, d_y, depthwise + (q + c)*9, dK + (q + c)*9, &d_hidden[c*own],
                                               i0, i1);
                }
                dnnl_sgemm('T', 'N', C, inner, m, 1.f, expand + q*C, C, d_hidden.data(), own, q ? 1.f : 0.f,
                           d_band.data(), own);
                dnnl_sgemm('N', 'T', m, C, inner, 1.f, d_hidden.data(), own, &band[(i0 - a0)*W], stride, 1.f,
                           dE + q*C, C);
            }
            copy_rows(d_band.data(), own, d_x + n*C*P + i0*W, P, C, inner);
        }
    }
    sum_threads(all_dE, d_expand, D*C, threads);
    sum_threads(all_dK, d_depthwise, D*9, threads);
}

// y = gelu(u)*v for one row.
static inline void gelu_gate_row(const float* u, const float* v, float* y, int64_t W) {
    #pragma omp simd
    for (int64_t j = 0; j < W; j++) y[j] = 0.5f*u[j]*(1.f + erf_fast(u[j]*0.70710678f))*v[j];
}

// The gradients du and dv from the gradient d_y of y; v becomes y.
static inline void gelu_gate_row_backward(const float* u, float* v, const float* d_y, float* du, float* dv,
                                          int64_t W) {
    #pragma omp simd
    for (int64_t j = 0; j < W; j++) {
        float half = 0.5f*(1.f + erf_fast(u[j]*0.70710678f));
        du[j] = d_y[j]*v[j]*(half + u[j]*0.39894228f*std::exp(-0.5f*u[j]*u[j]));
        dv[j] = d_y[j]*u[j]*half;
        v[j] *= u[j]*half;
    }
}

// One row of hidden channel c: the convolution of the G hidden channels of its group, (G, 3, 3) weights each. hidden
// has the rows [a0, a1) of the channels from a group's first on, `stride` apart.
static inline void grouped3x3_row(const float* hidden, int64_t stride, int64_t c, int64_t G, int64_t a0, int64_t a1,
                                  const float* depthwise, const float* zero, float* y, float* space, int64_t i,
                                  int64_t W) {
    for (int64_t g = 0; g < G; g++) {
        Window rows{hidden + (c/G*G + g)*stride, a0, a1, W, zero};
        depthwise3x3_rows(rows, depthwise + (c*G + g)*9, g ? space : y, i, i + 1);
        if (g) for (int64_t j = 0; j < W; j++) y[j] += space[j];
    }
}

// x (N, C, H, W), weight and bias (C) of the normalization or null, expand (2D, C), depthwise (2D, G, 3, 3), project
// (O, D), added (N, O, H, W) or null -> y (N, O, H, W).
static inline void gated_feed_forward(const float* x, const float* weight, const float* bias, const float* expand,
                                      const float* depthwise, const float* project, const float* added, float* y,
                                      int64_t N, int64_t C, int64_t D, int64_t G, int64_t O, int64_t H, int64_t W) {
    const int64_t Q = 32;
    int64_t P = H*W, R = rows_per_band(H, W, 6144), stride = apart((R + 2)*W), own = apart(R*W);
    #pragma omp parallel
    {
        std::vector<float> zero(W, 0.f), normal(C*stride), hidden(2*Q*stride), gated(Q*own), out(O*own), u(W), v(W),
            space(W);
        #pragma omp for collapse(2) schedule(dynamic, 1)
        for (int64_t n = 0; n < N; n++) for (int64_t i0 = 0; i0 < H; i0 += R) {
            int64_t i1 = std::min(H, i0 + R), a0 = std::max<int64_t>(0, i0 - 1), a1 = std::min(H, i1 + 1);
            int64_t L = (a1 - a0)*W, inner = (i1 - i0)*W;
            copy_normal(x + n*C*P + a0*W, P, weight, bias, normal.data(), stride, C, L);
            if (added) copy_rows(added + n*O*P + i0*W, P, out.data(), own, O, inner);
            else std::fill(out.begin(), out.end(), 0.f);
            for (int64_t q = 0; q < D; q += Q) {
                int64_t m = std::min(Q, D - q);
                for (int s = 0; s < 2; s++)
                    dnnl_sgemm('N', 'N', m, L, C, 1.f, expand + (s*D + q)*C, C, normal.data(), stride, 0.f,
                               &hidden[s*m*stride], stride);
                for (int64_t c = 0; c < m; c++) for (int64_t i = i0; i < i1; i++) {
                    grouped3x3_row(&hidden[0], stride, c, G, a0, a1, depthwise + q*G*9, zero.data(), u.data(),
                                   space.data(), i, W);
                    grouped3x3_row(&hidden[m*stride], stride, c, G, a0, a1, depthwise + (D + q)*G*9, zero.data(),
                                   v.data(), space.data(), i, W);
                    gelu_gate_row(u.data(), v.data(), &gated[c*own + (i - i0)*W], W);
                }
                dnnl_sgemm('N', 'N', O, inner, m, 1.f, project + q, D, gated.data(), own, 1.f, out.data(), own);
            }
            copy_rows(out.data(), own, y + n*O*P + i0*W, P, O, inner);
        }
    }
}

namespace {
// One thread's buffers for a band: Q of the D hidden channels at a time, R rows.
struct FeedForwardBuffers {
    int64_t stride, wide, own;  // from one channel to the next, of the hidden maps, the gate's gradient, and the result
    std::vector<float> zero, band, g, hidden, d_gate, d_gated, gated, d_hidden, d_band, u, v;
    FeedForwardBuffers(int64_t C, int64_t O, int64_t Q, int64_t R, int64_t W)
        : stride(apart((R + 4)*W)), wide(apart((R + 2)*W)), own(apart(R*W)), zero(W, 0.f), band(C*stride), g(O*wide),
          hidden(2*Q*stride), d_gate(2*Q*wide), d_gated(Q*wide), gated(Q*own), d_hidden(2*Q*own), d_band(C*own), u(W),
          v(W) {}
};
// The rows of a band: [i0, i1) of the gradient of x need [b0, b1) of the gate's and [a0, a1) of the hidden maps.
struct Band {
    int64_t i0, i1, b0, b1, a0, a1;
    Band(int64_t first, int64_t rows, int64_t H)
        : i0(first), i1(std::min(H, first + rows)), b0(std::max<int64_t>(0, i0 - 1)), b1(std::min(H, i1 + 1)),
          a0(std::max<int64_t>(0, i0 - 2)), a1(std::min(H, i1 + 2)) {}
};
}  // namespace

// For the c-th of m hidden channels of each half, whose weights are k[0] and k[1]: gated, and the gradients of the
// hidden maps (d_hidden) and of the weights (added to dk[0] and dk[1]).
static inline void feed_forward_channel_backward(FeedForwardBuffers& buffer, const Band& band, const float* const* k,
                                                 float* const* dk, int64_t c, int64_t m, int64_t W) {
    int64_t wide = buffer.wide, own = buffer.own;
    Window hidden[2] = {{&buffer.hidden[c*buffer.stride], band.a0, band.a1, W, buffer.zero.data()},
                        {&buffer.hidden[(m + c)*buffer.stride], band.a0, band.a1, W, buffer.zero.data()}};
    float *u = buffer.u.data(), *v = buffer.v.data();
    for (int64_t i = band.b0; i < band.b1; i++) {
        depthwise3x3_rows(hidden[0], k[0], u, i, i + 1);
        depthwise3x3_rows(hidden[1], k[1], v, i, i + 1);
        int64_t at = c*wide + (i - band.b0)*W;
        gelu_gate_row_backward(u, v, &buffer.d_gated[at], &buffer.d_gate[at], &buffer.d_gate[at + m*wide], W);
        if (i >= band.i0 && i < band.i1) std::copy(v, v + W, &buffer.gated[c*own + (i - band.i0)*W]);
    }
    for (int s = 0; s < 2; s++) {
        Window d_y{&buffer.d_gate[(s*m + c)*wide], band.b0, band.b1, W, buffer.zero.data()};
        depthwise3x3_rows_backward(hidden[s], d_y, k[s], dk[s], &buffer.d_hidden[(s*m + c)*own], band.i0, band.i1);
    }
}

// From g (N, O, H, W), the gradient of y, and x (N, C, H, W), normalized: the gradients of x, expand, depthwise and
// project, with G = 1.
static inline void gated_feed_forward_backward(const float* x, const float* expand, const float* depthwise,
                                               const float* project, const float* g, float* d_x, float* d_expand,
                                               float* d_depthwise, float* d_project, int64_t N, int64_t C, int64_t D,
                                               int64_t O, int64_t H, int64_t W) {
    const int64_t Q = 16;
    int64_t P = H*W, R = rows_per_band(H, W, 3072);
    int threads = omp_get_max_threads();
    std::vector<float> all_dE(threads*2*D*C, 0.f), all_dK(threads*2*D*9, 0.f), all_dP(threads*O*D, 0.f);
    #pragma omp parallel
    {
        int me = omp_get_thread_num();
        float *dE = &all_dE[me*2*D*C], *dK = &all_dK[me*2*D*9], *dP = &all_dP[me*O*D];
        FeedForwardBuffers buffer(C, O, Q, R, W);
        int64_t stride = buffer.stride, wide = buffer.wide, own = buffer.own;
        #pragma omp for collapse(2) schedule(static)
        for (int64_t n = 0; n < N; n++) for (int64_t i0 = 0; i0 < H; i0 += R) {
            Band band(i0, R, H);
            int64_t L = (band.a1 - band.a0)*W, M = (band.b1 - band.b0)*W, inner = (band.i1 - band.i0)*W;
            copy_rows(x + n*C*P + band.a0*W, P, buffer.band.data(), stride, C, L);
            copy_rows(g + n*O*P + band.b0*W, P, buffer.g.data(), wide, O, M);
            const float *from = &buffer.band[(i0 - band.a0)*W], *g_own = &buffer.g[(i0 - band.b0)*W];
            for (int64_t q = 0; q < D; q += Q) {
                int64_t m = std::min(Q, D - q);
                for (int s = 0; s < 2; s++)
                    dnnl_sgemm('N', 'N', m, L, C, 1.f, expand + (s*D + q)*C, C, buffer.band.data(), stride, 0.f,
                               &buffer.hidden[s*m*stride], stride);
                dnnl_sgemm('T', 'N', m, M, O, 1.f, project + q, D, buffer.g.data(), wide, 0.f, buffer.d_gated.data(),
                           wide);
                for (int64_t c = 0; c < m; c++) {
                    const float* k[2] = {depthwise + (q + c)*9, depthwise + (D + q + c)*9};
                    float* dk[2] = {dK + (q + c)*9, dK + (D + q + c)*9};
                    feed_forward_channel_backward(buffer, band, k, dk, c, m, W);
                }
                dnnl_sgemm('N', 'T', O, m, inner, 1.f, g_own, wide, buffer.gated.data(), own, 1.f, dP + q, D);
                for (int s = 0; s < 2; s++) {
                    const float* d_hidden = &buffer.d_hidden[s*m*own];
                    int64_t at = (s*D + q)*C;
                    dnnl_sgemm('T', 'N', C, inner, m, 1.f, expand + at, C, d_hidden, own, q || s ? 1.f : 0.f,
                               buffer.d_band.data(), own);
                    dnnl_sgemm('N', 'T', m, C, inner, 1.f, d_hidden, own, from, stride, 1.f, dE + at, C);
                }
            }
            copy_rows(buffer.d_band.data(), own, d_x + n*C*P + i0*W, P, C, inner);
        }
    }
    sum_threads(all_dE, d_expand, 2*D*C, threads);
    sum_threads(all_dK, d_depthwise, 2*D*9, threads);
    sum_threads(all_dP, d_project, O*D, threads);
}
