// PReLU on a GPU, with one slope for all values.
#pragma once
#include "common.cuh"

static __global__ void prelu_values(const float* x, const float* slope, float* y, int64_t n) {
    float a = slope[0];
    CUDA_1D_KERNEL_LOOP(i, n) y[i] = x[i] > 0 ? x[i] : a*x[i];
}

static __global__ void prelu_gradient(const float* x, const float* slope, const float* g, float* d_x, float* parts,
                                      int64_t n) {
    float a = slope[0], sum = 0;
    CUDA_1D_KERNEL_LOOP(i, n) {
        bool positive = x[i] > 0;
        d_x[i] = positive ? g[i] : a*g[i];
        sum += positive ? 0.f : x[i]*g[i];
    }
    sum = block_reduce<Sum>(sum);
    if (threadIdx.x == 0) parts[blockIdx.y] = sum;
}

static inline void prelu_forward(const float* x, const float* slope, float* y, int64_t n) {
    prelu_values<<<grid_for(1, n), THREADS>>>(x, slope, y, n);
}

// From g, the gradient of y: d_x, and parts (blocks) of the gradient of the slope.
static inline void prelu_backward(const float* x, const float* slope, const float* g, float* d_x, float* parts,
                                  int64_t n, int64_t blocks) {
    prelu_gradient<<<dim3(1, blocks), THREADS>>>(x, slope, g, d_x, parts, n);
}
