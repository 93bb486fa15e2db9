// Layer normalization of each pixel over its channels. The mean is subtracted before squares are taken: a variance
// as E[x^2] - E[x]^2 has no correct digits when the mean is far from zero.
#pragma once
#include "common.h"

static const int64_t NORM_PIXELS = 512;  // at a time

// m pixels of C channels, whose rows are x_stride and y_stride apart; y may be x. mean and scale (m) become the mean and
// 1/std of each pixel.
static inline void layer_norm_pixels(const float* x, int64_t x_stride, const float* weight, const float* bias, float* y,
                                     int64_t y_stride, float* mean, float* scale, int64_t C, int64_t m) {
    float rest[NORM_PIXELS];
    for (int64_t j = 0; j < m; j++) mean[j] = scale[j] = 0;
    for (int64_t c = 0; c < C; c++) for (int64_t j = 0; j < m; j++) mean[j] += x[c*x_stride + j];
    for (int64_t j = 0; j < m; j++) {
        mean[j] /= C;
        rest[j] = 0;
    }
    for (int64_t c = 0; c < C; c++) for (int64_t j = 0; j < m; j++) {
        float d = x[c*x_stride + j] - mean[j];
        rest[j] += d;
        scale[j] += d*d;
    }
    for (int64_t j = 0; j < m; j++) {
        float r = rest[j]/C;  // what rounding kept out of the mean; with many channels it matters
        mean[j] += r;
        scale[j] = 1.f/std::sqrt(scale[j]/C - r*r + 1e-5f);
    }
    for (int64_t c = 0; c < C; c++) {
        float w = weight[c], b = bias[c];
        #pragma omp simd
        for (int64_t j = 0; j < m; j++) y[c*y_stride + j] = (x[c*x_stride + j] - mean[j])*scale[j]*w + b;
    }
}

// The same in place, for any number of pixels.
static inline void layer_norm_in_place(float* x, int64_t stride, const float* weight, const float* bias, int64_t C,
                                       int64_t pixels) {
    float mean[NORM_PIXELS], scale[NORM_PIXELS];
    for (int64_t p = 0; p < pixels; p += NORM_PIXELS)
        layer_norm_pixels(x + p, stride, weight, bias, x + p, stride, mean, scale, C,
                          std::min(NORM_PIXELS, pixels - p));
}

// x (N, C, P), weight (C), bias (C) -> y (N, C, P), and statistics (N, 2, P): the mean and 1/std of each pixel.
static inline void layer_norm_forward(const float* x, const float* weight, const float* bias, float* y,
                                      float* statistics, int64_t N, int64_t C, int64_t P) {
    const int64_t B = NORM_PIXELS, blocks = (P + B - 1)/B;
    #pragma omp parallel for collapse(2)
    for (int64_t n = 0; n < N; n++) for (int64_t t = 0; t < blocks; t++) {
        int64_t p = t*B, m = std::min(B, P - p);
        float mean[NORM_PIXELS], scale[NORM_PIXELS];
        layer_norm_pixels(x + n*C*P + p, P, weight, bias, y + n*C*P + p, P, mean, scale, C, m);
        std::copy(mean, mean + m, statistics + n*2*P + p);
        std::copy(scale, scale + m, statistics + n*2*P + P + p);
    }
}

// From g (N, C, P), the gradient of y: d_x (N, C, P), d_weight (C) and d_bias (C).
static inline void layer_norm_backward(const float* x, const float* weight, const float* statistics, const float* g,
                                       float* d_x, float* d_weight, float* d_bias, int64_t N, int64_t C, int64_t P) {
    const int64_t B = 512, blocks = (P + B - 1)/B;
    int threads = omp_get_max_threads();
    std::vector<double> dw(threads*C, 0.0), db(threads*C, 0.0);
    #pragma omp parallel for collapse(2) schedule(static)
    for (int64_t n = 0; n < N; n++) for (int64_t t = 0; t < blocks; t++) {
        int64_t p = t*B, m = std::min(B, P - p), me = omp_get_thread_num();
        const float *xp = x + n*C*P + p, *gp = g + n*C*P + p;
        const float *mean = statistics + n*2*P + p, *scale = mean + P;
        float* dx = d_x + n*C*P + p;
        float a[B], b[B];  // sums over the channels of g w, and of g w times the normalized value
        for (int64_t j = 0; j < m; j++) a[j] = b[j] = 0;
        for (int64_t c = 0; c < C; c++) {
            float w = weight[c], sw = 0, sb = 0;
            #pragma omp simd reduction(+:sw,sb)
            for (int64_t j = 0; j < m; j++) {
                float gj = gp[c*P + j], h = (xp[c*P + j] - mean[j])*scale[j];
                a[j] += gj*w;
                b[j] += gj*w*h;
                sw += gj*h;
                sb += gj;
            }
            dw[me*C + c] += sw;
            db[me*C + c] += sb;
        }
        for (int64_t c = 0; c < C; c++) {
            float w = weight[c];
            for (int64_t j = 0; j < m; j++) {
                float h = (xp[c*P + j] - mean[j])*scale[j];
                dx[c*P + j] = scale[j]*(gp[c*P + j]*w - a[j]/C - h*b[j]/C);
            }
        }
    }
    for (int64_t c = 0; c < C; c++) {
        double sw = 0, sb = 0;
        for (int k = 0; k < threads; k++) {
            sw += dw[k*C + c];
            sb += db[k*C + c];
        }
        d_weight[c] = sw;
        d_bias[c] = sb;
    }
}
