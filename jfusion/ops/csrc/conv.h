// Convolutions of stride 1 that keep the size, as matrix products with the patches of a few rows at a time.
// x (N, C, H, W), weight (O, C, K, K), bias (O) -> y (N, O, H, W); K is odd and the border is zero.
#pragma once
#include "common.h"

// Rows of pixels whose patches fit into the cache together.
static inline int64_t rows_per_block(int64_t C, int64_t K, int64_t H, int64_t W) {
    return std::max<int64_t>(1, std::min<int64_t>(H, (1 << 17)/(C*K*K*W + 1)));
}

// columns (C*K*K, m*W): for each place in the kernel, rows i0 .. i0+m-1 of the image x (C, H, W) moved by it.
static inline void im2col(const float* x, float* columns, int64_t C, int64_t K, int64_t H, int64_t W, int64_t i0,
                          int64_t m) {
    for (int64_t c = 0; c < C; c++) for (int64_t a = 0; a < K; a++) for (int64_t b = 0; b < K; b++) {
        float* to = columns + ((c*K + a)*K + b)*m*W;
        int64_t left = K/2 - b, first = std::min(W, std::max<int64_t>(0, left));
        int64_t last = std::max(first, std::min(W, W + left));
        for (int64_t i = 0; i < m; i++, to += W) {
            int64_t row = i0 + i + a - K/2;
            if (row < 0 || row >= H) {
                std::fill(to, to + W, 0.f);
                continue;
            }
            const float* from = x + (c*H + row)*W;
            std::fill(to, to + first, 0.f);
            std::copy(from + first - left, from + last - left, to + first);
            std::fill(to + last, to + W, 0.f);
        }
    }
}

// For many pixels: each thread takes rows of pixels and reads all weights for them.
static inline void conv_by_rows(const float* x, const float* weight, const float* bias, float* y, int64_t N, int64_t C,
                                int64_t O, int64_t K, int64_t H, int64_t W) {
    int64_t P = H*W, R = rows_per_block(C, K, H, W), D = C*K*K;
    #pragma omp parallel
    {
        std::vector<float> columns(D*R*W);
        #pragma omp for collapse(2) schedule(static)
        for (int64_t n = 0; n < N; n++) for (int64_t i = 0; i < H; i += R) {
            int64_t m = std::min(R, H - i);
            float* to = y + n*O*P + i*W;
            for (int64_t o = 0; o < O; o++) std::fill(to + o*P, to + o*P + m*W, bias[o]);
            im2col(x + n*C*P, columns.data(), C, K, H, W, i, m);
            dnnl_sgemm('N', 'N', O, m*W, D, 1.f, weight, D, columns.data(), m*W, 1.f, to, P);
        }
    }
}

// For few pixels and many channels: the weights are most of what is read, so each thread takes some of them.
static inline void conv_by_channels(const float* x, const float* weight, const float* bias, float* y, int64_t N,
                                    int64_t C, int64_t O, int64_t K, int64_t H, int64_t W) {
    int64_t P = H*W, D = C*K*K, per_thread = (O + omp_get_max_threads() - 1)/omp_get_max_threads();
    std::vector<float> columns(D*P);
    #pragma omp parallel
    for (int64_t n = 0; n < N; n++) {
        #pragma omp for
        for (int64_t c = 0; c < C; c++) im2col(x + (n*C + c)*P, &columns[c*K*K*P], 1, K, H, W, 0, H);
        #pragma omp for
        for (int64_t o = 0; o < O; o += per_thread) {
            int64_t m = std::min(per_thread, O - o);
            float* to = y + (n*O + o)*P;
            for (int64_t i = 0; i < m; i++) std::fill(to + i*P, to + i*P + P, bias[o + i]);
            dnnl_sgemm('N', 'N', m, P, D, 1.f, weight + o*D, D, columns.data(), P, 1.f, to, P);
        }
    }
}

// The gradient of the bias: the sums of g (N, O, H, W) over all pixels, each row in float32, the rows' sums in float64.
static inline void conv_backward_bias(const float* g, float* d_bias, int64_t N, int64_t O, int64_t H, int64_t W) {
    #pragma omp parallel for
    for (int64_t o = 0; o < O; o++) {
        double sum = 0;
        for (int64_t n = 0; n < N; n++) for (int64_t i = 0; i < H; i++) {
            const float* row = g + ((n*O + o)*H + i)*W;
            float s = 0;
            #pragma omp simd reduction(+:s)
            for (int64_t j = 0; j < W; j++) s += row[j];
            sum += s;
        }
        d_bias[o] = sum;
    }
}

// From g (N, O, H, W), the gradient of y: d_weight (O, C, K, K) and d_bias (O).
static inline void conv_backward_weight(const float* x, const float* g, float* d_weight, float* d_bias, int64_t N,
                                        int64_t C, int64_t O, int64_t K, int64_t H, int64_t W) {
    int64_t P = H*W, R = rows_per_block(C, K, H, W), D = C*K*K;
    int threads = omp_get_max_threads();
    std::vector<float> dw(threads*O*D, 0.f);
    #pragma omp parallel
    {
        std::vector<float> columns(D*R*W);
        float* mine = &dw[omp_get_thread_num()*O*D];
        #pragma omp for collapse(2) schedule(static)
        for (int64_t n = 0; n < N; n++) for (int64_t i = 0; i < H; i += R) {
            int64_t m = std::min(R, H - i);
            im2col(x + n*C*P, columns.data(), C, K, H, W, i, m);
            dnnl_sgemm('N', 'T', O, D, m*W, 1.f, g + n*O*P + i*W, P, columns.data(), m*W, 1.f, mine, D);
        }
    }
    conv_backward_bias(g, d_bias, N, O, H, W);
    memset(d_weight, 0, O*D*sizeof(float));
    for (int k = 0; k < threads; k++) for (int64_t j = 0; j < O*D; j++) d_weight[j] += dw[k*O*D + j];
}
