// FILM's attention from a paragraph to an image: the mean over the queries of each head's weights. QUERY_ROWS
// queries are taken at a time, so that their weights stay in the cache; all T x S weights never exist.
#pragma once
#include "common.h"
#include "softmax.h"

static const int64_t QUERY_ROWS = 16;

// weights (m, S): softmax of m queries against S keys; the rows of q and k are D apart and d long.
static inline void key_weights(const float* q, const float* k, float* weights, int64_t m, int64_t S, int64_t D,
                               int64_t d) {
    dnnl_sgemm('N', 'T', m, S, d, 1.f, q, D, k, D, 0.f, weights, S);
    for (int64_t r = 0; r < m; r++) softmax_row(weights + r*S, weights + r*S, S);
}

// q (N, T, D) and k (N, S, D) -> mean (N, heads, S); a head is D/heads components of q and k.
static inline void averaged_weights_forward(const float* q, const float* k, float* mean, int64_t N, int64_t T,
                                            int64_t S, int64_t D, int64_t heads) {
    const int64_t d = D/heads;
    #pragma omp parallel for collapse(2) schedule(dynamic, 1)
    for (int64_t n = 0; n < N; n++) for (int64_t h = 0; h < heads; h++) {
        std::vector<float> weights(QUERY_ROWS*S);
        float* to = mean + (n*heads + h)*S;
        std::fill(to, to + S, 0.f);
        for (int64_t t = 0; t < T; t += QUERY_ROWS) {
            int64_t m = std::min<int64_t>(QUERY_ROWS, T - t);
            key_weights(q + (n*T + t)*D + h*d, k + n*S*D + h*d, weights.data(), m, S, D, d);
            for (int64_t r = 0; r < m; r++) for (int64_t j = 0; j < S; j++) to[j] += weights[r*S + j];
        }
        for (int64_t j = 0; j < S; j++) to[j] /= T;
    }
}

// From g (N, heads, S), the gradient of mean: d_q (N, T, D) and d_k (N, S, D). The weights are computed again.
static inline void averaged_weights_backward(const float* q, const float* k, const float* g, float* d_q, float* d_k,
                                             int64_t N, int64_t T, int64_t S, int64_t D, int64_t heads) {
    const int64_t d = D/heads;
    #pragma omp parallel for collapse(2) schedule(dynamic, 1)
    for (int64_t n = 0; n < N; n++) for (int64_t h = 0; h < heads; h++) {
        std::vector<float> weights(QUERY_ROWS*S);
        const float *qh = q + n*T*D + h*d, *kh = k + n*S*D + h*d, *gh = g + (n*heads + h)*S;
        float *d_qh = d_q + n*T*D + h*d, *d_kh = d_k + n*S*D + h*d;
        for (int64_t t = 0; t < T; t += QUERY_ROWS) {
            int64_t m = std::min<int64_t>(QUERY_ROWS, T - t);
            key_weights(qh + t*D, kh, weights.data(), m, S, D, d);
            for (int64_t r = 0; r < m; r++) {
                float *row = &weights[r*S], dot = 0;
                #pragma omp simd reduction(+:dot)
                for (int64_t j = 0; j < S; j++) dot += row[j]*gh[j];
                for (int64_t j = 0; j < S; j++) row[j] *= (gh[j] - dot)/T;
            }
            dnnl_sgemm('N', 'N', m, d, S, 1.f, weights.data(), S, kh, D, 0.f, d_qh + t*D, D);
            dnnl_sgemm('T', 'N', S, d, m, 1.f, weights.data(), S, qh + t*D, D, t ? 1.f : 0.f, d_kh, D);
        }
    }
}
