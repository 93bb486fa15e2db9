// Reads and writes arrays of CUDA's number types as doubles.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <vector>
enum Kind { FLOAT, DOUBLE, HALF, BFLOAT16 };
typedef long long offset;
static inline double get(Kind kind, const void* p, offset i) {
    switch (kind) {
    case DOUBLE: return ((const double*)p)[i];
    case HALF: return (float)((const __half*)p)[i];
    case BFLOAT16: return (float)((const __nv_bfloat16*)p)[i];
    default: return ((const float*)p)[i];
    }
}
static inline void put(Kind kind, void* p, offset i, double v) {
    switch (kind) {
    case DOUBLE: ((double*)p)[i] = v; break;
    case HALF: ((__half*)p)[i] = __float2half((float)v); break;
    case BFLOAT16: ((__nv_bfloat16*)p)[i] = __float2bfloat16((float)v); break;
    default: ((float*)p)[i] = (float)v;
    }
}
