// Attention between the channels of each head (Restormer, equation 1). qkv (N, 3C, P) holds q, k and v over P
// pixels; head h owns d = C/heads channels of each, from h*d on. The Gram matrix of q and k is divided by their
// norms, so normalized q and k are never written. Sums over pixels are taken in blocks and added in double
// precision. swap_queries: sample n takes its queries from sample n + N/2 (modulo N), and adds them to its
// result, divided by their norms.
#pragma once
#include "common.h"

static const int64_t PIXELS = 4096;  // of a block
static const float MIN_NORM = 1e-12f;

// One head of one sample: where it begins in qkv, and in each of the small matrices.
struct Head {
    int64_t q, k, v, y, matrix, norms;

    Head(int64_t n, int64_t h, int64_t N, int64_t heads, int64_t d, int64_t P, bool swap_queries)
        : q(((swap_queries ? (n + N/2)%N : n)*3*heads + h)*d*P),
          k(((n*3 + 1)*heads + h)*d*P),
          v(((n*3 + 2)*heads + h)*d*P),
          y((n*heads + h)*d*P),
          matrix((n*heads + h)*d*d),
          norms((n*heads + h)*2*d) {}
};

// sum (d, d) += a b^T over m pixels; block (d, d) is space. Rows of a and b are P apart.
static inline void add_products(const float* a, const float* b, double* sum, float* block, int64_t d, int64_t m,
                                int64_t P) {
    dnnl_sgemm('N', 'T', d, d, m, 1.f, a, P, b, P, 0.f, block, d);
    for (int64_t j = 0; j < d*d; j++) sum[j] += block[j];
}

// gram (d, d) = q k^T, and norms (2, d): those of q, then those of k.
static inline void gram_and_norms(const float* q, const float* k, double* gram, float* norms, int64_t d, int64_t P) {
    std::vector<double> squares(2*d, 0.0);
    std::vector<float> block(d*d);
    for (int64_t p = 0; p < P; p += PIXELS) {
        int64_t m = std::min(PIXELS, P - p);
        add_products(q + p, k + p, gram, block.data(), d, m, P);
        for (int64_t j = 0; j < 2*d; j++) {
            const float* row = (j < d ? q + j*P : k + (j - d)*P) + p;
            float sum = 0;
            #pragma omp simd reduction(+:sum)
            for (int64_t i = 0; i < m; i++) sum += row[i]*row[i];
            squares[j] += sum;
        }
    }
    for (int64_t j = 0; j < 2*d; j++) norms[j] = std::max((float)std::sqrt(squares[j]), MIN_NORM);
}

// cosine = gram / (norm of q, norm of k), weights = softmax(temperature * cosine), all (d, d).
static inline void cosine_weights(const double* gram, const float* norms, float temperature, float* cosine,
                                  float* weights, int64_t d) {
    const float *norm_q = norms, *norm_k = norms + d;
    for (int64_t r = 0; r < d; r++) {
        float top = -1e38f, sum = 0;
        for (int64_t j = 0; j < d; j++) {
            cosine[r*d + j] = gram[r*d + j]/((double)norm_q[r]*norm_k[j]);
            weights[r*d + j] = cosine[r*d + j]*temperature;
            top = std::max(top, weights[r*d + j]);
        }
        for (int64_t j = 0; j < d; j++) sum += weights[r*d + j] = std::exp(weights[r*d + j] - top);
        for (int64_t j = 0; j < d; j++) weights[r*d + j] /= sum;
    }
}

// qkv (N, 3C, P), temperature (heads) -> y (N, C, P); weights, cosine (N, heads, d, d), norms (N, heads, 2, d).
static inline void cosine_attention_forward(const float* qkv, const float* temperature, float* y, float* weights,
                                            float* cosine, float* norms, int64_t N, int64_t heads, int64_t d,
                                            int64_t P, bool swap_queries) {
    #pragma omp parallel for collapse(2) schedule(dynamic, 1)
    for (int64_t n = 0; n < N; n++) for (int64_t h = 0; h < heads; h++) {
        const Head head(n, h, N, heads, d, P, swap_queries);
        const float *q = qkv + head.q, *v = qkv + head.v, *norm_q = norms + head.norms;
        float *A = weights + head.matrix, *to = y + head.y;
        std::vector<double> gram(d*d, 0.0);
        gram_and_norms(q, qkv + head.k, gram.data(), norms + head.norms, d, P);
        cosine_weights(gram.data(), norm_q, temperature[h], cosine + head.matrix, A, d);
        for (int64_t p = 0; p < P; p += PIXELS)
            dnnl_sgemm('N', 'N', d, std::min(PIXELS, P - p), d, 1.f, A, d, v + p, P, 0.f, to + p, P);
        if (swap_queries) for (int64_t r = 0; r < d; r++) {
            #pragma omp simd
            for (int64_t p = r*P; p < r*P + P; p++) to[p] += q[p]/norm_q[r];
        }
    }
}

// The gradients of a head's small matrices; all (d, d).
struct HeadGradient {
    std::vector<float> gram;      // of q k^T
    std::vector<float> q_scale;   // diagonal: what the norms of q add to its gradient, per q; k_scale for k
    std::vector<float> k_scale;
    double temperature = 0;

    explicit HeadGradient(int64_t d) : gram(d*d), q_scale(d*d, 0.f), k_scale(d*d, 0.f) {}
};

// Back through the softmax and the cosine, from d_weights (d, d).
static inline HeadGradient cosine_weights_backward(const float* weights, const double* d_weights, const float* cosine,
                                                   const float* norms, float temperature, int64_t d) {
    const float *norm_q = norms, *norm_k = norms + d;
    HeadGradient to(d);
    for (int64_t r = 0; r < d; r++) {
        double dot = 0;
        for (int64_t j = 0; j < d; j++) dot += weights[r*d + j]*d_weights[r*d + j];
        for (int64_t j = 0; j < d; j++) {
            double d_logit = weights[r*d + j]*(d_weights[r*d + j] - dot), d_cosine = d_logit*temperature;
            to.temperature += d_logit*cosine[r*d + j];
            to.gram[r*d + j] = d_cosine/((double)norm_q[r]*norm_k[j]);
            // a norm at its lower bound is a constant
            if (norm_q[r] > MIN_NORM)
                to.q_scale[r*d + r] -= d_cosine*cosine[r*d + j]/((double)norm_q[r]*norm_q[r]);
            if (norm_k[j] > MIN_NORM)
                to.k_scale[j*d + j] -= d_cosine*cosine[r*d + j]/((double)norm_k[j]*norm_k[j]);
        }
    }
    return to;
}

// q / norm is added to the result when queries are swapped: what its norm adds to the gradient of q.
static inline void unit_queries_backward(const float* q, const float* g, const float* norm_q, float* q_scale,
                                         int64_t d, int64_t P) {
    for (int64_t r = 0; r < d; r++) if (norm_q[r] > MIN_NORM) {
        double dot = 0;
        for (int64_t p = 0; p < P; p += PIXELS) {
            float sum = 0;
            #pragma omp simd reduction(+:sum)
            for (int64_t i = p; i < std::min(p + PIXELS, P); i++) sum += g[r*P + i]*q[r*P + i];
            dot += sum;
        }
        q_scale[r*d + r] -= dot/((double)norm_q[r]*norm_q[r]*norm_q[r]);
    }
}

// One pixel divided by its norm is its sign, so its gradient is zero. The terms of that gradient cancel only up to
// rounding, and Adam would turn the rest into steps of the whole learning rate.
static inline void clear_gradient_of_signs(float* d_x, const float* norm, int64_t d) {
    for (int64_t r = 0; r < d; r++) if (norm[r] > MIN_NORM) d_x[r] = 0.f;
}

// From g (N, C, P), the gradient of y: d_qkv (N, 3C, P), and d_temperature (N, heads) whose sum over N is that of
// temperature.
static inline void cosine_attention_backward(const float* qkv, const float* temperature, const float* weights,
                                             const float* cosine, const float* norms, const float* g, float* d_qkv,
                                             float* d_temperature, int64_t N, int64_t heads, int64_t d, int64_t P,
                                             bool swap_queries) {
    #pragma omp parallel for collapse(2) schedule(dynamic, 1)
    for (int64_t n = 0; n < N; n++) for (int64_t h = 0; h < heads; h++) {
        const Head head(n, h, N, heads, d, P, swap_queries);
        const float *q = qkv + head.q, *k = qkv + head.k, *v = qkv + head.v, *gh = g + head.y;
        const float *A = weights + head.matrix, *norm_q = norms + head.norms;
        float *d_q = d_qkv + head.q, *d_k = d_qkv + head.k, *d_v = d_qkv + head.v;
        std::vector<double> d_weights(d*d, 0.0);
        std::vector<float> block(d*d);
        for (int64_t p = 0; p < P; p += PIXELS)
            add_products(gh + p, v + p, d_weights.data(), block.data(), d, std::min(PIXELS, P - p), P);
        HeadGradient to = cosine_weights_backward(A, d_weights.data(), cosine + head.matrix, norm_q, temperature[h], d);
        d_temperature[n*heads + h] = to.temperature;
        if (swap_queries) unit_queries_backward(q, gh, norm_q, to.q_scale.data(), d, P);
        for (int64_t p = 0; p < P; p += PIXELS) {
            int64_t m = std::min(PIXELS, P - p);
            dnnl_sgemm('N', 'N', d, m, d, 1.f, to.gram.data(), d, k + p, P, 0.f, d_q + p, P);
            dnnl_sgemm('N', 'N', d, m, d, 1.f, to.q_scale.data(), d, q + p, P, 1.f, d_q + p, P);
            dnnl_sgemm('T', 'N', d, m, d, 1.f, to.gram.data(), d, q + p, P, 0.f, d_k + p, P);
            dnnl_sgemm('N', 'N', d, m, d, 1.f, to.k_scale.data(), d, k + p, P, 1.f, d_k + p, P);
            dnnl_sgemm('T', 'N', d, m, d, 1.f, A, d, gh + p, P, 0.f, d_v + p, P);
            if (swap_queries) for (int64_t r = 0; r < d; r++) {
                #pragma omp simd
                for (int64_t i = p; i < p + m; i++) d_q[r*P + i] += gh[r*P + i]/norm_q[r];
            }
        }
        if (P == 1) {
            clear_gradient_of_signs(d_q, norm_q, d);
            clear_gradient_of_signs(d_k, norm_q + d, d);
        }
    }
}
