// Resizing and padding, for the channels of all samples, by tables of source indices.
#pragma once
#include "common.h"

// y[i][j] = x[rows[i]][columns[j]]; x (channels, h, w), y (channels, H, W).
static inline void gather_forward(const float* x, const int* rows, const int* columns, float* y, int64_t channels,
                                  int64_t h, int64_t w, int64_t H, int64_t W) {
    #pragma omp parallel for
    for (int64_t p = 0; p < channels; p++) for (int64_t i = 0; i < H; i++) {
        const float* from = x + (p*h + rows[i])*w;
        float* to = y + (p*H + i)*W;
        if (i && rows[i] == rows[i - 1]) std::copy(to - W, to, to);
        else for (int64_t j = 0; j < W; j++) to[j] = from[columns[j]];
    }
}

// From g (channels, H, W), the gradient of y: d_x (channels, h, w).
static inline void gather_backward(const float* g, const int* rows, const int* columns, float* d_x, int64_t channels,
                                   int64_t h, int64_t w, int64_t H, int64_t W) {
    #pragma omp parallel for
    for (int64_t p = 0; p < channels; p++) {
        std::fill(d_x + p*h*w, d_x + (p + 1)*h*w, 0.f);
        for (int64_t i = 0; i < H; i++) {
            float* to = d_x + (p*h + rows[i])*w;
            const float* from = g + (p*H + i)*W;
            for (int64_t j = 0; j < W; j++) to[columns[j]] += from[j];
        }
    }
}

// For each output of an axis: the two source indices, and the weight of the second.
struct AxisSamples {
    const int *low, *high;
    const float* fraction;
};

// x (channels, h, w) -> y (channels, H, W); first between two rows, then between two columns.
static inline void bilinear_forward(const float* x, AxisSamples rows, AxisSamples columns, float* y, int64_t channels,
                                    int64_t h, int64_t w, int64_t H, int64_t W) {
    #pragma omp parallel
    {
        std::vector<float> row(w);
        #pragma omp for
        for (int64_t p = 0; p < channels; p++) for (int64_t i = 0; i < H; i++) {
            const float *low = x + (p*h + rows.low[i])*w, *high = x + (p*h + rows.high[i])*w;
            float fraction = rows.fraction[i], *to = y + (p*H + i)*W;
            for (int64_t j = 0; j < w; j++) row[j] = low[j] + fraction*(high[j] - low[j]);
            for (int64_t j = 0; j < W; j++) {
                float first = row[columns.low[j]];
                to[j] = first + columns.fraction[j]*(row[columns.high[j]] - first);
            }
        }
    }
}

// From g (channels, H, W), the gradient of y: d_x (channels, h, w).
static inline void bilinear_backward(const float* g, AxisSamples rows, AxisSamples columns, float* d_x,
                                     int64_t channels, int64_t h, int64_t w, int64_t H, int64_t W) {
    #pragma omp parallel
    {
        std::vector<float> row(w);
        #pragma omp for
        for (int64_t p = 0; p < channels; p++) {
            std::fill(d_x + p*h*w, d_x + (p + 1)*h*w, 0.f);
            for (int64_t i = 0; i < H; i++) {
                const float* from = g + (p*H + i)*W;
                std::fill(row.begin(), row.end(), 0.f);
                for (int64_t j = 0; j < W; j++) {
                    row[columns.low[j]] += (1 - columns.fraction[j])*from[j];
                    row[columns.high[j]] += columns.fraction[j]*from[j];
                }
                float fraction = rows.fraction[i];
                float *low = d_x + (p*h + rows.low[i])*w, *high = d_x + (p*h + rows.high[i])*w;
                for (int64_t j = 0; j < w; j++) low[j] += (1 - fraction)*row[j];
                for (int64_t j = 0; j < w; j++) high[j] += fraction*row[j];
            }
        }
    }
}
