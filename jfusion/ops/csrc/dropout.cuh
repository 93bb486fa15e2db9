// Dropout as in dropout.h, with the same choice for the same seed.
#pragma once
#include "common.cuh"

template <class T>
static __global__ void drop(const T* x, const float* seed, T* y, int64_t n, unsigned limit, float scale) {
    unsigned start = __float_as_uint(seed[0]);
    CUDA_1D_KERNEL_LOOP(i, n) {
        unsigned h = start*0x9e3779b9u + (unsigned)i;
        h ^= h >> 16; h *= 0x85ebca6bu; h ^= h >> 13; h *= 0xc2b2ae35u; h ^= h >> 16;
        y[i] = h < limit ? T(0) : x[i]*scale;
    }
}

template <class T>
static inline void dropout(const T* x, const float* seed, T* y, int64_t n, double p) {
    drop<<<grid_for(1, n), THREADS>>>(x, seed, y, n, (unsigned)(p*4294967296.0), 1/(1 - p));
}
