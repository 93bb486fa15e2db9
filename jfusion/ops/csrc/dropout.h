// Dropout whose choice is a function of a seed, so that the gradient need not keep it.
#pragma once
#include "common.h"

// y = x/(1 - p), or 0 with probability p: where the hash of the seed's bits and of the place (MurmurHash3's last
// steps) is small.
template <class T>
static inline void dropout(const T* x, const float* seed, T* y, int64_t n, float p) {
    float scale = 1/(1 - p);
    uint32_t start;
    memcpy(&start, seed, 4);
    const uint32_t limit = (uint32_t)((double)p*4294967296.0);
    #pragma omp parallel for simd
    for (int64_t i = 0; i < n; i++) {
        uint32_t h = start*0x9e3779b9u + (uint32_t)i;
        h ^= h >> 16; h *= 0x85ebca6bu; h ^= h >> 13; h *= 0xc2b2ae35u; h ^= h >> 16;
        y[i] = h < limit ? T(0) : x[i]*scale;
    }
}
