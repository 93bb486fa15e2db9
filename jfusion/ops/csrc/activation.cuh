// The gate of a feed-forward on a GPU; a segment is a sample.
#pragma once
#include "common.cuh"

static __global__ void gelu_gate_samples(const float* x, float* y, int64_t M) {
    const float *u = x + blockIdx.x*(int64_t)2*M, *v = u + M;
    CUDA_1D_KERNEL_LOOP(i, M) y[blockIdx.x*(int64_t)M + i] = 0.5f*u[i]*(1.f + erff(u[i]*0.70710678f))*v[i];
}

static __global__ void gelu_gate_samples_backward(const float* x, const float* g, float* d_x, int64_t M) {
    x += blockIdx.x*(int64_t)2*M;
    d_x += blockIdx.x*(int64_t)2*M;
    g += blockIdx.x*(int64_t)M;
    CUDA_1D_KERNEL_LOOP(i, M) {
        float u = x[i], v = x[M + i], cdf = 0.5f*(1.f + erff(u*0.70710678f));
        d_x[i] = g[i]*v*(cdf + u*0.39894228f*expf(-0.5f*u*u));
        d_x[M + i] = g[i]*u*cdf;
    }
}

// y = GELU(u) v of x (N, 2M), u the first M values of a sample and v the others; y (N, M).
static inline void gelu_gate_forward(const float* x, float* y, int64_t N, int64_t M) {
    gelu_gate_samples<<<grid_for(N, M), THREADS>>>(x, y, M);
}

static inline void gelu_gate_backward(const float* x, const float* g, float* d_x, int64_t N, int64_t M) {
    gelu_gate_samples_backward<<<grid_for(N, M), THREADS>>>(x, g, d_x, M);
}
