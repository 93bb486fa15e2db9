// Group normalization, with SiLU after it or not, as in group_norm.h. x (N, C, P) in groups of K channels; weight and
// bias (C), or (N, C) when every sample has its own (per_sample).
#pragma once
#include "common.cuh"

// Below -80 the exponential of -x would be infinite.
static __device__ inline float sigmoid(float x) { return 1/(1 + expf(-fmaxf(x, -80.f))); }

// A segment is a group of a sample, M values. parts (blocks, N*groups, 3): how many values the block took, their
// mean, and the sum of the squares around it.
static __global__ void group_moments(const float* x, float* parts, int64_t M) {
    x += blockIdx.x*(int64_t)M;
    float count = 0, mean = 0, square = 0;
    CUDA_1D_KERNEL_LOOP(j, M) {
        count++;
        mean += x[j];
    }
    count = block_reduce<Sum>(count);
    mean = block_reduce<Sum>(mean)/fmaxf(count, 1.f);
    CUDA_1D_KERNEL_LOOP(j, M) square += (x[j] - mean)*(x[j] - mean);
    square = block_reduce<Sum>(square);
    float* to = parts + (blockIdx.y*(int64_t)gridDim.x + blockIdx.x)*3;
    if (threadIdx.x == 0) {
        to[0] = count;
        to[1] = mean;
        to[2] = square;
    }
}

// statistics (N*groups, 2), the mean and 1/std of each group, from the parts that its blocks found.
static __global__ void combine_moments(const float* parts, float* statistics, int blocks, int64_t M, float eps) {
    float sum = 0, square = 0;
    for (int k = threadIdx.x; k < blocks; k += THREADS) {
        const float* part = parts + (k*gridDim.x + blockIdx.x)*3;
        sum += part[0]*part[1];
    }
    float mean = block_reduce<Sum>(sum)/M;
    for (int k = threadIdx.x; k < blocks; k += THREADS) {
        const float* part = parts + (k*gridDim.x + blockIdx.x)*3;
        square += part[2] + part[0]*(part[1] - mean)*(part[1] - mean);
    }
    square = block_reduce<Sum>(square);
    if (threadIdx.x == 0) {
        statistics[2*blockIdx.x] = mean;
        statistics[2*blockIdx.x + 1] = 1/sqrtf(square/M + eps);
    }
}

// In all that follows a segment is a channel of a sample; this is what its threads need to know of it.
struct Channel {
    float w, b, mean, scale;
    __device__ Channel(const float* weight, const float* bias, const float* statistics, int C, int K,
                       bool per_sample) {
        int at = per_sample ? blockIdx.x : blockIdx.x % C, g = blockIdx.x/K;
        w = weight[at];
        b = bias[at];
        mean = statistics[2*g];
        scale = statistics[2*g + 1];
    }
    // The gradient of what SiLU gets, from the gradient d_y of its result; h is the normalized value.
    __device__ float silu_backward(float d_y, float h) const {
        float v = h*w + b, part = sigmoid(v);
        return d_y*part*(1 + v*(1 - part));
    }
};

static __global__ void group_normalize(const float* x, const float* weight, const float* bias, const float* statistics,
                                       float* y, int C, int K, int64_t P, bool silu, bool per_sample) {
    Channel c(weight, bias, statistics, C, K, per_sample);
    x += blockIdx.x*(int64_t)P;
    y += blockIdx.x*(int64_t)P;
    CUDA_1D_KERNEL_LOOP(j, P) {
        float v = (x[j] - c.mean)*c.scale*c.w + c.b;
        y[j] = silu ? v/(1 + expf(-fmaxf(v, -80.f))) : v;
    }
}

// parts (2, blocks, N*C): sums for the gradients of weight and of bias.
static __global__ void group_norm_grad_weight(const float* x, const float* weight, const float* bias,
                                              const float* statistics, const float* d_y, float* parts, int C, int K,
                                              int64_t P, bool silu, bool per_sample) {
    Channel c(weight, bias, statistics, C, K, per_sample);
    x += blockIdx.x*(int64_t)P;
    d_y += blockIdx.x*(int64_t)P;
    float dw = 0, db = 0;
    CUDA_1D_KERNEL_LOOP(j, P) {
        float h = (x[j] - c.mean)*c.scale, d = silu ? c.silu_backward(d_y[j], h) : d_y[j];
        dw += d*h;
        db += d;
    }
    dw = block_reduce<Sum>(dw);
    db = block_reduce<Sum>(db);
    parts += blockIdx.y*gridDim.x + blockIdx.x;
    if (threadIdx.x == 0) {
        parts[0] = dw;
        parts[gridDim.x*gridDim.y] = db;
    }
}

// means (2, N*groups), over the group: of the gradients of the normalized values times these values, and of the
// gradients alone.
static __global__ void group_norm_grad_x(const float* x, const float* weight, const float* bias,
                                         const float* statistics, const float* d_y, const float* means, float* d_x,
                                         int C, int K, int64_t P, bool silu, bool per_sample) {
    Channel c(weight, bias, statistics, C, K, per_sample);
    float factor = means[blockIdx.x/K], shift = means[gridDim.x/K + blockIdx.x/K];
    x += blockIdx.x*(int64_t)P;
    d_y += blockIdx.x*(int64_t)P;
    d_x += blockIdx.x*(int64_t)P;
    CUDA_1D_KERNEL_LOOP(j, P) {
        float h = (x[j] - c.mean)*c.scale, d = silu ? c.silu_backward(d_y[j], h) : d_y[j];
        d_x[j] = c.scale*(d*c.w - shift - h*factor);
    }
}

// -> y (N, C, P), statistics (N, groups, 2); parts (blocks, N*groups, 3) is for the way.
static inline void group_norm_forward(const float* x, const float* weight, const float* bias, float* y,
                                      float* statistics, float* parts, int64_t N, int64_t C, int64_t P, int64_t groups,
                                      int64_t blocks, double eps, bool silu, bool per_sample) {
    int64_t K = C/groups;
    group_moments<<<dim3(N*groups, blocks), THREADS>>>(x, parts, K*P);
    combine_moments<<<dim3(N*groups), THREADS>>>(parts, statistics, blocks, K*P, eps);
    group_normalize<<<grid_for(N*C, P), THREADS>>>(x, weight, bias, statistics, y, C, K, P, silu, per_sample);
}

// From d_y (N, C, P), the gradient of y: parts (2, blocks, N, C) of the gradients of weight and bias.
static inline void group_norm_backward_weight(const float* x, const float* weight, const float* bias,
                                              const float* statistics, const float* d_y, float* parts, int64_t N,
                                              int64_t C, int64_t P, int64_t groups, int64_t blocks, bool silu,
                                              bool per_sample) {
    group_norm_grad_weight<<<dim3(N*C, blocks), THREADS>>>(x, weight, bias, statistics, d_y, parts, C, C/groups, P,
                                                           silu, per_sample);
}

static inline void group_norm_backward_x(const float* x, const float* weight, const float* bias,
                                         const float* statistics, const float* d_y, const float* means, float* d_x,
                                         int64_t N, int64_t C, int64_t P, int64_t groups, bool silu, bool per_sample) {
    group_norm_grad_x<<<grid_for(N*C, P), THREADS>>>(x, weight, bias, statistics, d_y, means, d_x, C, C/groups, P,
                                                     silu, per_sample);
}
