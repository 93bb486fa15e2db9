// What every CUDA kernel includes. The work is a number of segments of equal length (a channel, a sample, a row):
// blockIdx.x is the segment, and the blocks along y share its values. A sum is added up in a fixed order, so that
// a seed gives the same numbers on every run: within a block by halves, over the blocks by the caller.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

static const int THREADS = 256;

// The grid for `segments` segments of n values each.
static inline dim3 grid_for(int64_t segments, int64_t n) {
    return dim3(segments, std::max<int64_t>(1, std::min<int64_t>((n + THREADS - 1)/THREADS, 1 << 15)));
}

// Runs over the values i < n of the segment that belong to this thread.
#define CUDA_1D_KERNEL_LOOP(i, n) \
    for (int64_t i = blockIdx.y*blockDim.x + threadIdx.x; i < (n); i += gridDim.y*blockDim.x)

struct Max {
    __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};
struct Sum {
    __device__ float operator()(float a, float b) const { return a + b; }
};

// Combines the values of a block's threads; every thread gets the result. All threads must call it.
template <class Operation> static __device__ inline float block_reduce(float value) {
    __shared__ float values[THREADS];
    values[threadIdx.x] = value;
    __syncthreads();
    for (int half = THREADS/2; half > 0; half /= 2) {
        if (threadIdx.x < half) values[threadIdx.x] = Operation()(values[threadIdx.x], values[threadIdx.x + half]);
        __syncthreads();
    }
    float result = values[0];
    __syncthreads();
    return result;
}
