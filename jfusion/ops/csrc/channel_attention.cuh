// Attention between the channels of each head, on a GPU. A segment is a head of a sample, of D channels, and a
// thread computes a pixel: it holds the head's small matrices in registers, so D is a constant of the kernel.
#pragma once
#include "common.cuh"

template <int D> static __device__ inline void read_channels(const float* x, int64_t P, float* values) {
    #pragma unroll
    for (int r = 0; r < D; r++) values[r] = x[r*P];
}

// x and y: D channels of N samples of x_channels or y_channels; sums (blocks, N*heads, D*D + 2*D): the products of
// each channel of x with each of y, then the squares of x and of y.
template <int D> static __global__ void sum_products(const float* x, const float* y, float* sums, int heads,
                                                     int64_t P, int x_channels, int y_channels) {
    int n = blockIdx.x/heads, first = blockIdx.x%heads*D;
    x += (n*(int64_t)x_channels + first)*P;
    y += (n*(int64_t)y_channels + first)*P;
    float totals[D*D + 2*D] = {}, a[D], b[D];
    CUDA_1D_KERNEL_LOOP(p, P) {
        read_channels<D>(x + p, P, a);
        read_channels<D>(y + p, P, b);
        #pragma unroll
        for (int r = 0; r < D; r++) {
            #pragma unroll
            for (int j = 0; j < D; j++) totals[r*D + j] += a[r]*b[j];
            totals[D*D + r] += a[r]*a[r];
            totals[D*D + D + r] += b[r]*b[r];
        }
    }
    sums += (blockIdx.y*(int64_t)gridDim.x + blockIdx.x)*(D*D + 2*D);
    #pragma unroll
    for (int k = 0; k < D*D + 2*D; k++) {
        float sum = block_reduce<Sum>(totals[k]);
        if (threadIdx.x == 0) sums[k] = sum;
    }
}

// y = weights v
template <int D> static __global__ void mix_values(const float* qkv, const float* weights, float* y, int heads,
                                                   int64_t P) {
    int n = blockIdx.x/heads, first = blockIdx.x%heads*D, C = heads*D;
    const float* v = qkv + (n*(int64_t)3*C + 2*C + first)*P;
    y += (n*(int64_t)C + first)*P;
    weights += blockIdx.x*D*D;
    float values[D];
    CUDA_1D_KERNEL_LOOP(p, P) {
        read_channels<D>(v + p, P, values);
        #pragma unroll
        for (int r = 0; r < D; r++) {
            float sum = 0;
            #pragma unroll
            for (int j = 0; j < D; j++) sum += weights[r*D + j]*values[j];
            y[r*P + p] = sum;
        }
    }
}

// d_q = d_gram k + q_scale q, d_k = d_gram^T q + k_scale k, d_v = weights^T g
template <int D> static __global__ void mix_backward(const float* qkv, const float* g, const float* weights,
                                                     const float* d_gram, const float* q_scale, const float* k_scale,
                                                     float* d_qkv, int heads, int64_t P) {
    int n = blockIdx.x/heads, first = blockIdx.x%heads*D, C = heads*D;
    int64_t start = (n*(int64_t)3*C + first)*P, step = (int64_t)C*P;
    g += (n*(int64_t)C + first)*P;
    weights += blockIdx.x*D*D;
    d_gram += blockIdx.x*D*D;
    q_scale += blockIdx.x*D;
    k_scale += blockIdx.x*D;
    float q[D], k[D], d_y[D];
    CUDA_1D_KERNEL_LOOP(p, P) {
        read_channels<D>(qkv + start + p, P, q);
        read_channels<D>(qkv + start + step + p, P, k);
        read_channels<D>(g + p, P, d_y);
        #pragma unroll
        for (int r = 0; r < D; r++) {
            float d_q = q_scale[r]*q[r], d_k = k_scale[r]*k[r], d_v = 0;
            #pragma unroll
            for (int j = 0; j < D; j++) {
                d_q += d_gram[r*D + j]*k[j];
                d_k += d_gram[j*D + r]*q[j];
                d_v += weights[j*D + r]*d_y[j];
            }
            float* to = d_qkv + start + (int64_t)r*P + p;
            to[0] = d_q;
            to[step] = d_k;
            to[2*step] = d_v;
        }
    }
}

// Calls one of the functions above for the width that was compiled (CUDA_WIDTHS in channel_attention.py).
#define CALL_FOR_WIDTH(width, call) \
    switch (width) { \
        case 1: call(1); break; \
        case 2: call(2); break; \
        case 4: call(4); break; \
        case 8: call(8); break; \
    }

// Sums over pixels of two maps' products; x_channels, y_channels: of a whole sample.
static inline void head_products(const float* x, const float* y, float* sums, int blocks, int64_t N, int heads,
                                 int width, int64_t P, int x_channels, int y_channels) {
    dim3 grid(N*heads, blocks);
    #define CALL(D) sum_products<D><<<grid, THREADS>>>(x, y, sums, heads, P, x_channels, y_channels)
    CALL_FOR_WIDTH(width, CALL)
    #undef CALL
}

// qkv (N, 3C, P), weights (N, heads, D, D) -> y (N, C, P)
static inline void mix_values_forward(const float* qkv, const float* weights, float* y, int64_t N, int heads,
                                      int width, int64_t P) {
    dim3 grid = grid_for(N*heads, P);
    #define CALL(D) mix_values<D><<<grid, THREADS>>>(qkv, weights, y, heads, P)
    CALL_FOR_WIDTH(width, CALL)
    #undef CALL
}

// From g (N, C, P), the gradient of y, and those of the small matrices: d_qkv (N, 3C, P).
static inline void mix_values_backward(const float* qkv, const float* g, const float* weights, const float* d_gram,
                                       const float* q_scale, const float* k_scale, float* d_qkv, int64_t N,
                                       int heads, int width, int64_t P) {
    dim3 grid = grid_for(N*heads, P);
    #define CALL(D) \
        mix_backward<D><<<grid, THREADS>>>(qkv, g, weights, d_gram, q_scale, k_scale, d_qkv, heads, P)
    CALL_FOR_WIDTH(width, CALL)
    #undef CALL
}
