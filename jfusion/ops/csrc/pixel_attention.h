// Attention between the pixels of a feature map, QUERIES of them at a time; all L x L weights are never held.
#pragma once
#include "common.h"
#include "softmax.h"

static const int64_t QUERIES = 128;

// Where a head's queries begin in qkv (N, 3C, L), and how far its keys are from them, its values from the keys.
// heads_first: the channels are head 0's q, k and v, head 1's and so on; otherwise all q, all k, all v.
struct HeadLayout {
    int64_t heads, width, pixels;
    bool heads_first;

    int64_t channels() const { return heads*width; }
    int64_t start(int64_t n, int64_t h) const {
        return (n*3*channels() + h*(heads_first ? 3*width : width))*pixels;
    }
    int64_t step() const { return (heads_first ? width : channels())*pixels; }
};

// weights (m, L): softmax of the queries p .. p + m - 1 of q (d, L) over all L keys of k (d, L).
static inline void query_weights(const float* q, const float* k, float* weights, int64_t d, int64_t L, int64_t p,
                                 int64_t m) {
    dnnl_sgemm('T', 'N', m, L, d, 1/std::sqrt((float)d), q + p, L, k, L, 0.f, weights, L);
    for (int64_t i = 0; i < m; i++) softmax_row(weights + i*L, weights + i*L, L);
}

// qkv (N, 3C, L) -> y (N, C, L)
static inline void pixel_attention_forward(const float* qkv, float* y, int64_t N, int64_t channels, int64_t L,
                                           int64_t heads, bool heads_first) {
    const HeadLayout layout = {heads, channels/heads, L, heads_first};
    const int64_t d = layout.width, blocks = (L + QUERIES - 1)/QUERIES;
    #pragma omp parallel
    {
        std::vector<float> weights(std::min(QUERIES, L)*L);
        #pragma omp for collapse(3) schedule(dynamic, 1)
        for (int64_t n = 0; n < N; n++) for (int64_t h = 0; h < heads; h++) for (int64_t t = 0; t < blocks; t++) {
            int64_t p = t*QUERIES, m = std::min(QUERIES, L - p);
            const float *q = qkv + layout.start(n, h), *k = q + layout.step(), *v = k + layout.step();
            query_weights(q, k, weights.data(), d, L, p, m);
            dnnl_sgemm('N', 'T', d, m, L, 1.f, v, L, weights.data(), L, 0.f, y + (n*channels + h*d)*L + p, L);
        }
    }
}

// The gradients of a head from g (d, L), that of its result; weights and d_weights are space for QUERIES rows.
static inline void pixel_attention_head_backward(const float* q, const float* k, const float* v, const float* g,
                                                 float* d_q, float* d_k, float* d_v, float* weights,
                                                 float* d_weights, int64_t d, int64_t L) {
    float scale = 1/std::sqrt((float)d);
    std::fill(d_k, d_k + d*L, 0.f);
    std::fill(d_v, d_v + d*L, 0.f);
    for (int64_t p = 0; p < L; p += QUERIES) {
        int64_t m = std::min(QUERIES, L - p);
        query_weights(q, k, weights, d, L, p, m);
        dnnl_sgemm('N', 'N', d, L, m, 1.f, g + p, L, weights, L, 1.f, d_v, L);
        dnnl_sgemm('T', 'N', m, L, d, 1.f, g + p, L, v, L, 0.f, d_weights, L);
        for (int64_t i = 0; i < m; i++) {
            float *row = weights + i*L, *d_row = d_weights + i*L, dot = 0;
            #pragma omp simd reduction(+:dot)
            for (int64_t j = 0; j < L; j++) dot += row[j]*d_row[j];
            #pragma omp simd
            for (int64_t j = 0; j < L; j++) d_row[j] = scale*row[j]*(d_row[j] - dot);
        }
        dnnl_sgemm('N', 'T', d, m, L, 1.f, k, L, d_weights, L, 0.f, d_q + p, L);
        dnnl_sgemm('N', 'N', d, L, m, 1.f, q + p, L, d_weights, L, 1.f, d_k, L);
    }
}

// From g (N, C, L), the gradient of y: d_qkv (N, 3C, L).
static inline void pixel_attention_backward(const float* qkv, const float* g, float* d_qkv, int64_t N,
                                            int64_t channels, int64_t L, int64_t heads, bool heads_first) {
    const HeadLayout layout = {heads, channels/heads, L, heads_first};
    const int64_t d = layout.width, step = layout.step();
    #pragma omp parallel
    {
        std::vector<float> weights(std::min(QUERIES, L)*L), d_weights(std::min(QUERIES, L)*L);
        #pragma omp for collapse(2) schedule(dynamic, 1)
        for (int64_t n = 0; n < N; n++) for (int64_t h = 0; h < heads; h++) {
            const float* q = qkv + layout.start(n, h);
            float* d_q = d_qkv + layout.start(n, h);
            pixel_attention_head_backward(q, q + step, q + 2*step, g + (n*channels + h*d)*L, d_q, d_q + step,
                                          d_q + 2*step, weights.data(), d_weights.data(), d, L);
        }
    }
}
