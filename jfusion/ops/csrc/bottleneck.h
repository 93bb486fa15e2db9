// A bottleneck: a 1x1 convolution that widens, ReLU6, a depthwise 3x3 one of the mirrored image, ReLU6, a 1x1 back. The
// hidden maps are never written to memory. Without a gradient.
#pragma once
#include "bands.h"

static inline void clamp6(float* x, int64_t values) {
    #pragma omp simd
    for (int64_t j = 0; j < values; j++) x[j] = std::min(std::max(x[j], 0.f), 6.f);
}

// Row i of the depthwise convolution of a channel whose rows [a0, ...) are in x. Beyond the border stands the pixel
// that is as far inside; H and W are at least 2.
static inline void mirrored3x3_row(const float* x, int64_t a0, const float* k, float* y, int64_t i, int64_t H,
                                   int64_t W) {
    const float* above = x + ((i ? i - 1 : 1) - a0)*W;
    const float* row = x + (i - a0)*W;
    const float* below = x + ((i + 1 < H ? i + 1 : H - 2) - a0)*W;
    depthwise3x3_row(above, row, below, k, y, W);
    y[0] += k[0]*above[1] + k[3]*row[1] + k[6]*below[1];
    y[W - 1] += k[2]*above[W - 2] + k[5]*row[W - 2] + k[8]*below[W - 2];
}

// x (N, C, H, W), expand (D, C), depthwise (D, 3, 3), project (O, D) -> y (N, O, H, W).
static inline void bottleneck_forward(const float* x, const float* expand, const float* depthwise, const float* project,
                                      float* y, int64_t N, int64_t C, int64_t D, int64_t O, int64_t H, int64_t W) {
    const int64_t Q = 32;
    int64_t P = H*W, R = rows_per_band(H, W, 4096), stride = apart((R + 2)*W), own = apart(R*W);
    #pragma omp parallel
    {
        std::vector<float> band(C*stride), hidden(Q*stride), spread(Q*own), out(O*own);
        #pragma omp for collapse(2) schedule(dynamic, 1)
        for (int64_t n = 0; n < N; n++) for (int64_t i0 = 0; i0 < H; i0 += R) {
            int64_t i1 = std::min(H, i0 + R), a0 = std::max<int64_t>(0, std::min(i0 - 1, H - 2));
            int64_t a1 = std::min(H, std::max<int64_t>(i1 + 1, 2)), L = (a1 - a0)*W, inner = (i1 - i0)*W;
            copy_rows(x + n*C*P + a0*W, P, band.data(), stride, C, L);
            for (int64_t q = 0; q < D; q += Q) {
                int64_t m = std::min(Q, D - q);
                dnnl_sgemm('N', 'N', m, L, C, 1.f, expand + q*C, C, band.data(), stride, 0.f, hidden.data(), stride);
                for (int64_t c = 0; c < m; c++) {
                    clamp6(&hidden[c*stride], L);
                    for (int64_t i = i0; i < i1; i++)
                        mirrored3x3_row(&hidden[c*stride], a0, depthwise + (q + c)*9, &spread[c*own + (i - i0)*W], i,
                                        H, W);
                    clamp6(&spread[c*own], inner);
                }
                dnnl_sgemm('N', 'N', O, inner, m, 1.f, project + q, D, spread.data(), own, q ? 1.f : 0.f, out.data(),
                           own);
            }
            copy_rows(out.data(), own, y + n*O*P + i0*W, P, O, inner);
        }
    }
}
