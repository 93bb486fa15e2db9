// Activations with parameters, the layer scale, and the gate of a feed-forward. The others are one expression
// each (activation.py). Sums for a parameter are taken in blocks and added in double precision.
#pragma once
#include "common.h"
#include "erf.h"

// y = scale * max(x, 0)^2 + bias; scale and bias are one number each.
static inline void star_relu_forward(const float* x, const float* scale, const float* bias, float* y, int64_t n) {
    float a = scale[0], b = bias[0];
    #pragma omp parallel for simd
    for (int64_t i = 0; i < n; i++) {
        float positive = std::max(x[i], 0.f);
        y[i] = a*positive*positive + b;
    }
}

static inline void star_relu_backward(const float* x, const float* scale, const float* g, float* d_x, float* d_scale,
                                      float* d_bias, int64_t n) {
    const int64_t B = 1024, blocks = (n + B - 1)/B;
    float a = 2*scale[0];
    std::vector<float> scales(blocks), biases(blocks);
    #pragma omp parallel for
    for (int64_t t = 0; t < blocks; t++) {
        float for_scale = 0, for_bias = 0;
        int64_t last = std::min(n, t*B + B);
        #pragma omp simd reduction(+:for_scale,for_bias)
        for (int64_t i = t*B; i < last; i++) {
            float positive = std::max(x[i], 0.f), gi = g[i];
            d_x[i] = a*positive*gi;
            for_scale += positive*positive*gi;
            for_bias += gi;
        }
        scales[t] = for_scale;
        biases[t] = for_bias;
    }
    double sum_scale = 0, sum_bias = 0;
    for (int64_t t = 0; t < blocks; t++) {
        sum_scale += scales[t];
        sum_bias += biases[t];
    }
    d_scale[0] = sum_scale;
    d_bias[0] = sum_bias;
}

// y = x > 0 ? x : slope * x, where slope is one number.
static inline void prelu_forward(const float* x, const float* slope, float* y, int64_t n) {
    float a = slope[0];
    #pragma omp parallel for simd
    for (int64_t i = 0; i < n; i++) y[i] = x[i] > 0 ? x[i] : a*x[i];
}

static inline void prelu_backward(const float* x, const float* slope, const float* g, float* d_x, float* d_slope,
                                  int64_t n) {
    const int64_t B = 4096, blocks = (n + B - 1)/B;
    float a = slope[0];
    std::vector<float> sums(blocks);
    #pragma omp parallel for
    for (int64_t t = 0; t < blocks; t++) {
        float sum = 0;
        int64_t last = std::min(n, t*B + B);
        #pragma omp simd reduction(+:sum)
        for (int64_t i = t*B; i < last; i++) {
            bool positive = x[i] > 0;
            d_x[i] = positive ? g[i] : a*g[i];
            sum += positive ? 0.f : x[i]*g[i];
        }
        sums[t] = sum;
    }
    double total = 0;
    for (float sum : sums) total += sum;
    d_slope[0] = total;
}

// y = x + scale * branch; x, branch, y (N, C, P), scale (C).
static inline void add_scaled_forward(const float* x, const float* branch, const float* scale, float* y, int64_t N,
                                      int64_t C, int64_t P) {
    #pragma omp parallel for
    for (int64_t p = 0; p < N*C; p++) {
        float s = scale[p % C];
        #pragma omp simd
        for (int64_t i = p*P; i < p*P + P; i++) y[i] = x[i] + s*branch[i];
    }
}

// From g, the gradient of y: d_branch (N, C, P) and d_scale (N, C), whose sum over N is the gradient of scale.
static inline void add_scaled_backward(const float* branch, const float* scale, const float* g, float* d_branch,
                                       float* d_scale, int64_t N, int64_t C, int64_t P) {
    const int64_t B = 4096;
    #pragma omp parallel for
    for (int64_t p = 0; p < N*C; p++) {
        float s = scale[p % C];
        double total = 0;
        for (int64_t first = p*P; first < p*P + P; first += B) {
            float sum = 0;
            #pragma omp simd reduction(+:sum)
            for (int64_t i = first; i < std::min(first + B, p*P + P); i++) {
                d_branch[i] = s*g[i];
                sum += branch[i]*g[i];
            }
            total += sum;
        }
        d_scale[p] = total;
    }
}

// y = GELU(u) v of x (N, 2M), u the first M values of a sample and v the others; y (N, M).
static inline void gelu_gate_forward(const float* x, float* y, int64_t N, int64_t M) {
    for (int64_t n = 0; n < N; n++) {
        const float *u = x + n*2*M, *v = u + M;
        float* to = y + n*M;
        #pragma omp parallel for simd
        for (int64_t i = 0; i < M; i++) to[i] = 0.5f*u[i]*(1.f + erf_fast(u[i]*0.70710678f))*v[i];
    }
}

static inline void gelu_gate_backward(const float* x, const float* g, float* d_x, int64_t N, int64_t M) {
    for (int64_t n = 0; n < N; n++) {
        const float *u = x + n*2*M, *v = u + M, *gn = g + n*M;
        float *d_u = d_x + n*2*M, *d_v = d_u + M;
        #pragma omp parallel for simd
        for (int64_t i = 0; i < M; i++) {
            float cdf = 0.5f*(1.f + erf_fast(u[i]*0.70710678f));
            d_u[i] = gn[i]*v[i]*(cdf + u[i]*0.39894228f*std::exp(-0.5f*u[i]*u[i]));
            d_v[i] = gn[i]*u[i]*cdf;
        }
    }
}
