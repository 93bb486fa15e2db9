// 1x1 convolutions: a matrix product for each block of pixels, on NCHW as it is. oneDNN's own convolution would
// copy the image into its blocked layout and back.
#pragma once
#include "common.h"

// Pixels of a block: as many as the cache holds, fewer when threads would have nothing to do.
static inline int64_t pixels_per_block(int64_t pixels, int64_t channels) {
    int64_t per_thread = (pixels + omp_get_max_threads() - 1)/omp_get_max_threads();
    int64_t most = std::max<int64_t>(512, std::min<int64_t>(4096, 65536/channels));
    return std::max<int64_t>(512, std::min(most, (per_thread + 63)/64*64));
}

// x (N, C, P), weight (O, C), bias (O), added (N, O, P) or null -> y (N, O, P), where P counts the pixels.
static inline void conv1x1_forward(const float* x, const float* weight, const float* bias, const float* added,
                                   float* y, int64_t N, int64_t C, int64_t O, int64_t P) {
    const int64_t B = pixels_per_block(N*P, C), blocks = (P + B - 1)/B;
    #pragma omp parallel
    {
        std::vector<float> space;
        #pragma omp for collapse(2)
        for (int64_t n = 0; n < N; n++) for (int64_t t = 0; t < blocks; t++) {
            int64_t p = t*B, m = std::min(B, P - p);
            float* to = y + n*O*P + p;
            for (int64_t o = 0; o < O; o++) {
                std::fill(to + o*P, to + o*P + m, bias[o]);
                if (added) for (int64_t j = 0; j < m; j++) to[o*P + j] += added[(n*O + o)*P + p + j];
            }
            const Rows rows(x + n*C*P + p, P, C, m, space);
            dnnl_sgemm('N', 'N', O, m, C, 1.f, weight, C, rows.data, rows.stride, 1.f, to, P);
        }
    }
}

// From g (N, O, P), the gradient of y: d_x (N, C, P), d_weight (O, C) and d_bias (O).
static inline void conv1x1_backward(const float* x, const float* weight, const float* g, float* d_x, float* d_weight,
                                    float* d_bias, int64_t N, int64_t C, int64_t O, int64_t P) {
    const int64_t B = pixels_per_block(N*P, C), blocks = (P + B - 1)/B;
    int threads = omp_get_max_threads();
    std::vector<float> dw(threads*O*C, 0.f), db(threads*O, 0.f);
    #pragma omp parallel
    {
        int me = omp_get_thread_num();
        std::vector<float> space_g, space_x;
        #pragma omp for collapse(2) schedule(static)
        for (int64_t n = 0; n < N; n++) for (int64_t t = 0; t < blocks; t++) {
            int64_t p = t*B, m = std::min(B, P - p);
            const Rows gs(g + n*O*P + p, P, O, m, space_g), xs(x + n*C*P + p, P, C, m, space_x);
            dnnl_sgemm('T', 'N', C, m, O, 1.f, weight, C, gs.data, gs.stride, 0.f, d_x + n*C*P + p, P);
            dnnl_sgemm('N', 'T', O, C, m, 1.f, gs.data, gs.stride, xs.data, xs.stride, 1.f, &dw[me*O*C], C);
            for (int64_t o = 0; o < O; o++) {
                float sum = 0;
                #pragma omp simd reduction(+:sum)
                for (int64_t j = 0; j < m; j++) sum += gs.data[o*gs.stride + j];
                db[me*O + o] += sum;
            }
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
