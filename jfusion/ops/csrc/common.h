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
