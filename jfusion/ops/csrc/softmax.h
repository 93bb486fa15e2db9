// Softmax, a row at a time.
#pragma once
#include "common.h"

// y = softmax(x), n values each; y may be x.
static inline void softmax_row(const float* x, float* y, int64_t n) {
    float top = x[0], sum = 0;
    #pragma omp simd reduction(max:top)
    for (int64_t j = 0; j < n; j++) top = x[j] > top ? x[j] : top;
    #pragma omp simd reduction(+:sum)
    for (int64_t j = 0; j < n; j++) {
        float e = std::exp(x[j] - top);
        y[j] = e;
        sum += e;
    }
    for (int64_t j = 0; j < n; j++) y[j] /= sum;
}

// x, y (total / columns, columns)
static inline void softmax_forward(const float* x, float* y, int64_t total, int64_t columns) {
    #pragma omp parallel for
    for (int64_t r = 0; r < total/columns; r++) softmax_row(x + r*columns, y + r*columns, columns);
}

// From g, the gradient of y = softmax(x): d_x = y (g - sum(y g)).
static inline void softmax_backward(const float* y, const float* g, float* d_x, int64_t total, int64_t columns) {
    #pragma omp parallel for
    for (int64_t r = 0; r < total/columns; r++) {
        const float *yr = y + r*columns, *gr = g + r*columns;
        float *to = d_x + r*columns, dot = 0;
        #pragma omp simd reduction(+:dot)
        for (int64_t j = 0; j < columns; j++) dot += yr[j]*gr[j];
        for (int64_t j = 0; j < columns; j++) to[j] = yr[j]*(gr[j] - dot);
    }
}
