// What every CPU kernel includes.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <omp.h>
#include <vector>

// oneDNN's matrix product C = alpha op(A) op(B) + beta C, row-major, where op transposes for 'T'. Jittor has
// loaded the library already. Within an OpenMP region it runs on the calling thread alone, outside on all.
extern "C" int dnnl_sgemm(char trans_a, char trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a,
                          int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc);

// Rows of a matrix that lie a large power of two apart, as the channels of most images do, fall into the same few sets
// of the cache and push each other out; oneDNN's product then takes two to three times as long. So its operands are
// copied, a block at a time, into rows that are an odd number of cache lines apart.
static inline bool collide(int64_t stride) { return stride >= 1024 && stride%256 == 0; }
static inline int64_t apart(int64_t values) { return ((values + 15)/16 | 1)*16; }

// The first `values` of each of C rows; rows of `from` and `to` are from_stride and to_stride apart.
static inline void copy_rows(const float* from, int64_t from_stride, float* to, int64_t to_stride, int64_t C,
                             int64_t values) {
    for (int64_t c = 0; c < C; c++) std::copy(from + c*from_stride, from + c*from_stride + values, to + c*to_stride);
}

namespace {
// The first `values` of C rows of x, P apart, that a product can read: where they are, or copied to `space`.
struct Rows {
    const float* data;
    int64_t stride;
    Rows(const float* x, int64_t P, int64_t C, int64_t values, std::vector<float>& space) : data(x), stride(P) {
        if (!collide(P)) return;
        stride = apart(values);
        if ((int64_t)space.size() < C*stride) space.resize(C*stride);
        copy_rows(x, P, space.data(), stride, C, values);
        data = space.data();
    }
};
}  // namespace
