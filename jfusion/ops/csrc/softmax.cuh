// Softmax on a GPU; a segment is a row.
#pragma once
#include "common.cuh"

static __global__ void softmax_rows(const float* x, float* y, int64_t columns) {
    x += blockIdx.x*(int64_t)columns;
    y += blockIdx.x*(int64_t)columns;
    float top = -INFINITY, sum = 0;
    CUDA_1D_KERNEL_LOOP(j, columns) top = fmaxf(top, x[j]);
    top = block_reduce<Max>(top);
    CUDA_1D_KERNEL_LOOP(j, columns) {
        float e = expf(x[j] - top);
        y[j] = e;
        sum += e;
    }
    sum = block_reduce<Sum>(sum);
    CUDA_1D_KERNEL_LOOP(j, columns) y[j] /= sum;
}

static __global__ void softmax_rows_backward(const float* y, const float* g, float* d_x, int64_t columns) {
    y += blockIdx.x*(int64_t)columns;
    g += blockIdx.x*(int64_t)columns;
    d_x += blockIdx.x*(int64_t)columns;
    float dot = 0;
    CUDA_1D_KERNEL_LOOP(j, columns) dot += y[j]*g[j];
    dot = block_reduce<Sum>(dot);
    CUDA_1D_KERNEL_LOOP(j, columns) d_x[j] = y[j]*(g[j] - dot);
}

// x, y (total / columns, columns)
static inline void softmax_forward(const float* x, float* y, int64_t total, int64_t columns) {
    softmax_rows<<<total/columns, THREADS>>>(x, y, columns);
}

// From g, the gradient of y = softmax(x): d_x = y (g - sum(y g)).
static inline void softmax_backward(const float* y, const float* g, float* d_x, int64_t total, int64_t columns) {
    softmax_rows_backward<<<total/columns, THREADS>>>(y, g, d_x, columns);
}
