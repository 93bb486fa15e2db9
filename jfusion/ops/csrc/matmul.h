// Batched matrix products.
#pragma once
#include "common.h"

// y (batch, M, N) = op(a) op(b), with op(a) (batch, M, K) and op(b) (batch, K, N), where op transposes if trans is set.
static inline void matmul(const float* a, const float* b, float* y, int64_t batch, int64_t M, int64_t N, int64_t K,
                          bool trans_a, bool trans_b) {
    int64_t lda = trans_a ? M : K, ldb = trans_b ? K : N;
    if (!K) {  // a sum of nothing, which oneDNN does not write
        std::fill_n(y, batch*M*N, 0.f);
        return;
    }
    auto product = [&](int64_t i) {
        dnnl_sgemm(trans_a ? 'T' : 'N', trans_b ? 'T' : 'N', M, N, K, 1.f, a + i*M*K, lda, b + i*K*N, ldb, 0.f,
                   y + i*M*N, N);
    };
    if (batch >= omp_get_max_threads()) {
        #pragma omp parallel for schedule(dynamic, 1)
        for (int64_t i = 0; i < batch; i++) product(i);
    } else for (int64_t i = 0; i < batch; i++) product(i);
}
