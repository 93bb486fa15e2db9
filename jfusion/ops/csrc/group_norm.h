// Group normalization, with SiLU after it or not. The mean is subtracted before squares are taken, as in norm.h.
// x (N, C, P) in G groups of K = C/G channels; weight and bias (C), or (N, C) when every sample has its own.
#pragma once
#include "common.h"

// Below -80 the exponential of -x would be infinite, and with -Ofast a quotient by infinity is not 0 but NaN.
static inline float sigmoid(float x) { return 1/(1 + std::exp(-std::max(x, -80.f))); }

// The mean and 1/std of the K rows of P values of a group.
static inline void group_statistics(const float* x, int64_t K, int64_t P, double eps, float* mean, float* scale) {
    double sum = 0, squares = 0;
    for (int64_t c = 0; c < K; c++) {
        float s = 0;
        #pragma omp simd reduction(+:s)
        for (int64_t j = 0; j < P; j++) s += x[c*P + j];
        sum += s;
    }
    float center = sum/(K*P);
    for (int64_t c = 0; c < K; c++) {
        float s = 0;
        #pragma omp simd reduction(+:s)
        for (int64_t j = 0; j < P; j++) {
            float d = x[c*P + j] - center;
            s += d*d;
        }
        squares += s;
    }
    *mean = center;
    *scale = 1/std::sqrt(squares/(K*P) + eps);
}

// -> y (N, C, P), and statistics (N, G, 2): the mean and 1/std of each group.
static inline void group_norm_forward(const float* x, const float* weight, const float* bias, float* y,
                                      float* statistics, int64_t N, int64_t C, int64_t P, int64_t G, double eps,
                                      bool silu, bool per_sample) {
    int64_t K = C/G;
    #pragma omp parallel for collapse(2)
    for (int64_t n = 0; n < N; n++) for (int64_t g = 0; g < G; g++) {
        const float *from = x + (n*C + g*K)*P;
        float* to = y + (n*C + g*K)*P;
        int64_t first = (per_sample ? n : 0)*C + g*K;
        float mean, scale;
        group_statistics(from, K, P, eps, &mean, &scale);
        for (int64_t c = 0; c < K; c++, from += P, to += P) {
            float w = weight[first + c]*scale, b = bias[first + c];
            if (silu) {
                #pragma omp simd
                for (int64_t j = 0; j < P; j++) {
                    float v = (from[j] - mean)*w + b;
                    to[j] = v/(1.f + std::exp(-std::max(v, -80.f)));
                }
            } else {
                #pragma omp simd
                for (int64_t j = 0; j < P; j++) to[j] = (from[j] - mean)*w + b;
            }
        }
        statistics[(n*G + g)*2] = mean;
        statistics[(n*G + g)*2 + 1] = scale;
    }
}

// From d_y (N, C, P), the gradient of y: d_x (N, C, P), and d_weight and d_bias (N, C) of each sample.
static inline void group_norm_backward(const float* x, const float* weight, const float* bias, const float* statistics,
                                       const float* d_y, float* d_x, float* d_weight, float* d_bias, int64_t N,
                                       int64_t C, int64_t P, int64_t G, bool silu, bool per_sample) {
    int64_t K = C/G;
    #pragma omp parallel for collapse(2)
    for (int64_t n = 0; n < N; n++) for (int64_t g = 0; g < G; g++) {
        float mean = statistics[(n*G + g)*2], scale = statistics[(n*G + g)*2 + 1];
        const float *from = x + (n*C + g*K)*P, *dy = d_y + (n*C + g*K)*P;
        float* dx = d_x + (n*C + g*K)*P;
        int64_t first = (per_sample ? n : 0)*C + g*K;
        double sum = 0, sum_normalized = 0;
        for (int64_t c = 0; c < K; c++) {
            float s = 0, t = 0, w = weight[first + c], b = bias[first + c];
            float* q = dx + c*P;  // holds, until the sums are known, the gradient of what SiLU gets
            if (silu) {
                #pragma omp simd
                for (int64_t j = 0; j < P; j++) {
                    float v = (from[c*P + j] - mean)*scale*w + b, part = sigmoid(v);
                    q[j] = dy[c*P + j]*part*(1 + v*(1 - part));
                }
            } else std::copy(dy + c*P, dy + c*P + P, q);
            #pragma omp simd reduction(+:s,t)
            for (int64_t j = 0; j < P; j++) {
                s += q[j];
                t += q[j]*(from[c*P + j] - mean);
            }
            t *= scale;
            d_bias[n*C + g*K + c] = s;
            d_weight[n*C + g*K + c] = t;
            sum += (double)s*w;
            sum_normalized += (double)t*w;
        }
        float shift = sum/(K*P), factor = sum_normalized/(K*P);
        for (int64_t c = 0; c < K; c++) {
            float w = weight[first + c];
            #pragma omp simd
            for (int64_t j = 0; j < P; j++)
                dx[c*P + j] = scale*(dx[c*P + j]*w - shift - (from[c*P + j] - mean)*scale*factor);
        }
    }
}
