// Depthwise 3x3 convolutions with a border of zeros, a row at a time. They are limited by memory: each row of the
// output is written once, from three rows that are still in the cache.
#pragma once
#include "common.h"

// One row o from the row above (a), the row itself (b) and the row below (c), with the nine weights k.
static inline void depthwise3x3_row(const float* a, const float* b, const float* c, const float* k,
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

// Adds to dw the gradient of the nine weights, from the gradient g of one row.
static inline void depthwise3x3_backward_weight_row(const float* a, const float* b, const float* c, const float* g,
                                                    float* dw, int64_t W) {
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0, s8 = 0;
    #pragma omp simd reduction(+:s0,s1,s2,s3,s4,s5,s6,s7,s8)
    for (int64_t j = 1; j < W - 1; j++) {
        float v = g[j];
        s0 += v*a[j-1]; s1 += v*a[j]; s2 += v*a[j+1];
        s3 += v*b[j-1]; s4 += v*b[j]; s5 += v*b[j+1];
        s6 += v*c[j-1]; s7 += v*c[j]; s8 += v*c[j+1];
    }
    float v = g[0];
    s1 += v*a[0]; s4 += v*b[0]; s7 += v*c[0];
    if (W > 1) {
        s2 += v*a[1]; s5 += v*b[1]; s8 += v*c[1];
        int64_t j = W - 1;
        v = g[j];
        s0 += v*a[j-1]; s1 += v*a[j]; s3 += v*b[j-1]; s4 += v*b[j]; s6 += v*c[j-1]; s7 += v*c[j];
    }
    float sums[9] = {s0, s1, s2, s3, s4, s5, s6, s7, s8};
    for (int k = 0; k < 9; k++) dw[k] += sums[k];
}

// x (N, C, H, W), weight (C, 3, 3) -> y (N, C, H, W). With flip the weights are rotated by 180 degrees: so the
// gradient of y becomes that of x.
static inline void depthwise3x3_forward(const float* x, const float* weight, float* y, int64_t N, int64_t C, int64_t H,
                                        int64_t W, bool flip) {
    std::vector<float> zero(W, 0.f);
    #pragma omp parallel for
    for (int64_t p = 0; p < N*C; p++) {
        const float* from = x + p*H*W;
        float k[9], *to = y + p*H*W;
        for (int t = 0; t < 9; t++) k[t] = weight[p % C*9 + (flip ? 8 - t : t)];
        for (int64_t i = 0; i < H; i++)
            depthwise3x3_row(i ? from + (i-1)*W : zero.data(), from + i*W, i + 1 < H ? from + (i+1)*W : zero.data(),
                             k, to + i*W, W);
    }
}

// From g (N, C, H, W), the gradient of y: d_weight (C, 3, 3).
static inline void depthwise3x3_backward_weight(const float* x, const float* g, float* d_weight, int64_t N, int64_t C,
                                                int64_t H, int64_t W) {
    std::vector<float> zero(W, 0.f);
    #pragma omp parallel for
    for (int64_t c = 0; c < C; c++) {
        float* dw = d_weight + c*9;
        std::fill(dw, dw + 9, 0.f);
        for (int64_t n = 0; n < N; n++) {
            const float *from = x + (n*C + c)*H*W, *gp = g + (n*C + c)*H*W;
            for (int64_t i = 0; i < H; i++)
                depthwise3x3_backward_weight_row(i ? from + (i-1)*W : zero.data(), from + i*W,
                                                 i + 1 < H ? from + (i+1)*W : zero.data(), gp + i*W, dw, W);
        }
    }
}
