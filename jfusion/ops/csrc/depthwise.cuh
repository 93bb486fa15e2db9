// Depthwise convolutions. They are compiled for kernels of size 1, 3, 5 and 7, whose weights a thread holds in
// registers; a thread computes a pixel of the output.
#pragma once
#include "common.cuh"

// A segment is a channel of a sample: x (H, W) -> y (h, w), with `pad` zeros around x. With flip the weights are
// rotated by 180 degrees: so the gradient of y becomes that of x.
template <int K>
static __global__ void depthwise(const float* x, const float* weight, float* y, int C, int H, int W, int h, int w,
                                 int pad, bool flip) {
    x += blockIdx.x*(int64_t)H*W;
    y += blockIdx.x*(int64_t)h*w;
    weight += blockIdx.x % C*K*K;
    float k[K*K];
    #pragma unroll
    for (int t = 0; t < K*K; t++) k[t] = weight[flip ? K*K - 1 - t : t];
    CUDA_1D_KERNEL_LOOP(p, h*w) {
        int i = (int)p/w - pad, j = (int)p%w - pad;
        float sum = 0;
        #pragma unroll
        for (int t = 0; t < K*K; t++) {
            int u = i + t/K, v = j + t%K;
            if (u >= 0 && u < H && v >= 0 && v < W) sum += k[t]*x[u*W + v];
        }
        y[p] = sum;
    }
}

// A segment is a channel of the whole batch. From g, the gradient of y: parts (blocks, C, K*K) of that of the weight.
template <int K>
static __global__ void depthwise_grad_weight(const float* x, const float* g, float* parts, int N, int C, int H, int W,
                                             int h, int w, int pad) {
    float sums[K*K] = {};
    for (int n = 0; n < N; n++) {
        const float *from = x + (n*C + blockIdx.x)*(int64_t)H*W, *d_y = g + (n*C + blockIdx.x)*(int64_t)h*w;
        CUDA_1D_KERNEL_LOOP(p, h*w) {
            int i = (int)p/w - pad, j = (int)p%w - pad;
            #pragma unroll
            for (int t = 0; t < K*K; t++) {
                int u = i + t/K, v = j + t%K;
                if (u >= 0 && u < H && v >= 0 && v < W) sums[t] += d_y[p]*from[u*W + v];
            }
        }
    }
    #pragma unroll
    for (int t = 0; t < K*K; t++) {
        float sum = block_reduce<Sum>(sums[t]);
        if (threadIdx.x == 0) parts[(blockIdx.y*C + blockIdx.x)*K*K + t] = sum;
    }
}

// Calls f<K>(...) for the kernel's size.
#define FOR_KERNEL_SIZE(size, f, ...) \
    switch (size) { \
        case 1: f<1>(__VA_ARGS__); break; \
        case 3: f<3>(__VA_ARGS__); break; \
        case 5: f<5>(__VA_ARGS__); break; \
        case 7: f<7>(__VA_ARGS__); break; \
    }

template <int K>
static inline void depthwise_launch(const float* x, const float* weight, float* y, int64_t N, int64_t C, int64_t H,
                                    int64_t W, int64_t h, int64_t w, int64_t pad, bool flip) {
    depthwise<K><<<grid_for(N*C, h*w), THREADS>>>(x, weight, y, C, H, W, h, w, pad, flip);
}

template <int K>
static inline void depthwise_grad_weight_launch(const float* x, const float* g, float* parts, int64_t N, int64_t C,
                                                int64_t H, int64_t W, int64_t h, int64_t w, int64_t pad,
                                                int64_t blocks) {
    depthwise_grad_weight<K><<<dim3(C, blocks), THREADS>>>(x, g, parts, N, C, H, W, h, w, pad);
}

// x (N, C, H, W), weight (C, K, K) -> y (N, C, h, w).
static inline void depthwise_forward(const float* x, const float* weight, float* y, int64_t N, int64_t C, int64_t H,
                                     int64_t W, int64_t K, int64_t h, int64_t w, int64_t pad, bool flip) {
    FOR_KERNEL_SIZE(K, depthwise_launch, x, weight, y, N, C, H, W, h, w, pad, flip)
}

// parts (blocks, C, K, K)
static inline void depthwise_backward_weight(const float* x, const float* g, float* parts, int64_t N, int64_t C,
                                             int64_t H, int64_t W, int64_t K, int64_t h, int64_t w, int64_t pad,
                                             int64_t blocks) {
    FOR_KERNEL_SIZE(K, depthwise_grad_weight_launch, x, g, parts, N, C, H, W, h, w, pad, blocks)
}
