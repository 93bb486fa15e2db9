// Layer normalization of each pixel over its channels, as in norm.h: a thread computes a pixel.
#pragma once
#include "common.cuh"

// A segment is a sample. x (N, C, P) -> y (N, C, P), statistics (N, 2, P): the mean and 1/std of each pixel.
static __global__ void layer_norm(const float* x, const float* weight, const float* bias, float* y, float* statistics,
                                  int C, int64_t P) {
    x += blockIdx.x*(int64_t)C*P;
    y += blockIdx.x*(int64_t)C*P;
    statistics += blockIdx.x*(int64_t)2*P;
    CUDA_1D_KERNEL_LOOP(p, P) {
        float mean = 0, rest = 0, square = 0;
        for (int c = 0; c < C; c++) mean += x[c*P + p];
        mean /= C;
        for (int c = 0; c < C; c++) {
            float d = x[c*P + p] - mean;
            rest += d;
            square += d*d;
        }
        rest /= C;  // what rounding kept out of the mean
        mean += rest;
        float scale = 1/sqrtf(square/C - rest*rest + 1e-5f);
        for (int c = 0; c < C; c++) y[c*P + p] = (x[c*P + p] - mean)*scale*weight[c] + bias[c];
        statistics[p] = mean;
        statistics[P + p] = scale;
    }
}

static __global__ void layer_norm_grad_x(const float* x, const float* weight, const float* statistics, const float* g,
                                         float* d_x, int C, int64_t P) {
    int64_t at = blockIdx.x*(int64_t)C*P;
    x += at;
    g += at;
    d_x += at;
    statistics += blockIdx.x*(int64_t)2*P;
    CUDA_1D_KERNEL_LOOP(p, P) {
        float mean = statistics[p], scale = statistics[P + p], a = 0, b = 0;
        for (int c = 0; c < C; c++) {
            float d = g[c*P + p]*weight[c];
            a += d;
            b += d*(x[c*P + p] - mean)*scale;
        }
        a /= C;
        b /= C;
        for (int c = 0; c < C; c++)
            d_x[c*P + p] = scale*(g[c*P + p]*weight[c] - a - (x[c*P + p] - mean)*scale*b);
    }
}

// A segment is a channel of the whole batch. parts (blocks, 2, C): sums for its weight and for its bias.
static __global__ void layer_norm_grad_weight(const float* x, const float* statistics, const float* g, float* parts,
                                              int N, int C, int64_t P) {
    float dw = 0, db = 0;
    for (int n = 0; n < N; n++) {
        const float *from = x + (n*C + blockIdx.x)*(int64_t)P, *d_y = g + (n*C + blockIdx.x)*(int64_t)P;
        const float* mean = statistics + n*(int64_t)2*P;
        CUDA_1D_KERNEL_LOOP(p, P) {
            dw += d_y[p]*(from[p] - mean[p])*mean[P + p];
            db += d_y[p];
        }
    }
    dw = block_reduce<Sum>(dw);
    db = block_reduce<Sum>(db);
    if (threadIdx.x == 0) {
        parts[blockIdx.y*2*C + blockIdx.x] = dw;
        parts[blockIdx.y*2*C + C + blockIdx.x] = db;
    }
}

static inline void layer_norm_forward(const float* x, const float* weight, const float* bias, float* y,
                                      float* statistics, int64_t N, int64_t C, int64_t P) {
    layer_norm<<<grid_for(N, P), THREADS>>>(x, weight, bias, y, statistics, C, P);
}

// From g, the gradient of y: d_x, and parts (blocks, 2, C) of the gradients of weight and bias.
static inline void layer_norm_backward(const float* x, const float* weight, const float* statistics, const float* g,
                                       float* d_x, float* parts, int64_t N, int64_t C, int64_t P, int64_t blocks) {
    layer_norm_grad_x<<<grid_for(N, P), THREADS>>>(x, weight, statistics, g, d_x, C, P);
    layer_norm_grad_weight<<<dim3(C, blocks), THREADS>>>(x, statistics, g, parts, N, C, P);
}
