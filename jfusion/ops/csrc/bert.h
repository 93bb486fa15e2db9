// What a BERT layer computes between its matrix products.
#pragma once
#include "common.h"
#include "erf.h"
#include "softmax.h"

// qkv (N, L, 3H): queries, keys and values side by side, each in `heads` heads of H/heads -> y (N, L, H). Token i
// attends to the first lengths[n] tokens of its sequence (Vaswani et al. 2017).
static inline void self_attention_forward(const float* qkv, const int* lengths, float* y, int64_t N, int64_t L,
                                          int64_t H, int64_t heads) {
    const int64_t W = 3*H, d = H/heads;
    float scale = 1.f/std::sqrt((float)d);
    #pragma omp parallel
    {
        std::vector<float> weights(L*L);
        #pragma omp for collapse(2) schedule(dynamic, 1)
        for (int64_t n = 0; n < N; n++) for (int64_t h = 0; h < heads; h++) {
            const float *q = qkv + n*L*W + h*d, *k = q + H, *v = k + H;
            int64_t length = std::max<int64_t>(1, std::min<int64_t>(L, lengths[n]));
            dnnl_sgemm('N', 'T', L, length, d, scale, q, W, k, W, 0.f, weights.data(), length);
            for (int64_t i = 0; i < L; i++)
                softmax_row(weights.data() + i*length, weights.data() + i*length, length);
            dnnl_sgemm('N', 'N', L, d, length, 1.f, weights.data(), length, v, W, 0.f, y + n*L*H + h*d, H);
        }
    }
}

// y = LayerNorm(x + bias + residual) * weight + shift; x, residual, y (rows, H), the others (H).
static inline void add_norm_forward(const float* x, const float* bias, const float* residual, const float* weight,
                                    const float* shift, float* y, int64_t rows, int64_t H, float eps) {
    #pragma omp parallel for
    for (int64_t r = 0; r < rows; r++) {
        const float *xr = x + r*H, *add = residual + r*H;
        float *to = y + r*H, mean = 0, square = 0;
        #pragma omp simd reduction(+:mean)
        for (int64_t i = 0; i < H; i++) {
            to[i] = xr[i] + bias[i] + add[i];
            mean += to[i];
        }
        mean /= H;
        #pragma omp simd reduction(+:square)
        for (int64_t i = 0; i < H; i++) {
            to[i] -= mean;
            square += to[i]*to[i];
        }
        float scale = 1.f/std::sqrt(square/H + eps);
        #pragma omp simd
        for (int64_t i = 0; i < H; i++) to[i] = to[i]*scale*weight[i] + shift[i];
    }
}

// y = GELU(x + bias); x, y (rows, H), bias (H).
static inline void bias_gelu_forward(const float* x, const float* bias, float* y, int64_t rows, int64_t H) {
    #pragma omp parallel for
    for (int64_t r = 0; r < rows; r++) {
        const float* xr = x + r*H;
        float* to = y + r*H;
        #pragma omp simd
        for (int64_t i = 0; i < H; i++) {
            float v = xr[i] + bias[i];
            to[i] = 0.5f*v*(1.f + erf_fast(v*0.70710678f));
        }
    }
}
