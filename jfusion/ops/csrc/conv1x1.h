// 1x1 convolutions: a matrix product for each block of pixels, on NCHW as it is. oneDNN's own convolution would
// copy the image into its blocked layout and back.
#pragma once
#include "common.h"

// Pixels of a block: as many as the cache holds, fewer when threads would have nothing to do.
static inline int64_t pixels_per_block(int64_t pixels) {
    int64_t per_thread = (pixels + omp_get_max_threads() - 1)/omp_get_max_threads();
    return std::max<int64_t>(512, std::min<int64_t>(4096, (per_thread + 63)/64*64));
}

// x (N, C, P), weight (O, C), bias (O) -> y (N, O, P), where P counts the pixels.
static inline void conv1x1_forward(const float* x, const float* weight, const float* bias, float* y, int64_t N,
                                   int64_t C, int64_t O, int64_t P) {
    const int64_t B = pixels_per_block(N*P), blocks = (P + B - 1)/B;
    #pragma omp parallel for collapse(2)
    for (int64_t n = 0; n < N; n++) for (int64_t t = 0; t < blocks; t++) {
        int64_t p = t*B, m = std::min(B, P - p);
        float* to = y + n*O*P + p;
        for (int64_t o = 0; o < O; o++) std::fill(to + o*P, to + o*P + m, bias[o]);
        dnnl_sgemm('N', 'N', O, m, C, 1.f, weight, C, x + n*C*P + p, P, 1.f, to, P);
    }
}

// From g (N, O, P), the gradient of y: d_x (N, C, P), d_weight (O, C) and d_bias (O).
static inline void conv1x1_backward(const float* x, const float* weight, const float* g, float* d_x, float* d_weight,
                                    float* d_bias, int64_t N, int64_t C, int64_t O, int64_t P) {
    const int64_t B = pixels_per_block(N*P), blocks = (P + B - 1)/B;
    int threads = omp_get_max_threads();
    std::vector<float> dw(threads*O*C, 0.f), db(threads*O, 0.f);
    #pragma omp parallel for collapse(2) schedule(static)
    for (int64_t n = 0; n < N; n++) for (int64_t t = 0; t < blocks; t++) {
        int64_t p = t*B, m = std::min(B, P - p), me = omp_get_thread_num();
        const float *gp = g + n*O*P + p, *xp = x + n*C*P + p;
        dnnl_sgemm('T', 'N', C, m, O, 1.f, weight, C, gp, P, 0.f, d_x + n*C*P + p, P);
        dnnl_sgemm('N', 'T', O, C, m, 1.f, gp, P, xp, P, 1.f, &dw[me*O*C], C);
        for (int64_t o = 0; o < O; o++) {
            float sum = 0;
            #pragma omp simd reduction(+:sum)
            for (int64_t j = 0; j < m; j++) sum += gp[o*P + j];
            db[me*O + o] += sum;
        }
    }
    // in the order of the threads, so that every run gives the same numbers
    memset(d_weight, 0, O*C*sizeof(float));
    memset(d_bias, 0, O*sizeof(float));
    for (int k = 0; k < threads; k++) {
        for (int64_t i = 0; i < O*C; i++) d_weight[i] += dw[k*O*C + i];
        for (int64_t i = 0; i < O; i++) d_bias[i] += db[k*O + i];
    }
}
