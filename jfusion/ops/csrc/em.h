// One EM step that ties a luminance to two source images, row by row. All arrays are (N, 1, H, W), but tau (N).
#pragma once
#include "common.h"

// The E step: inverse variances c and d, what is to be smoothed, and the scales of the next step.
static inline void em_expectation(const float* f_p, const float* first_p, const float* second_p, const float* f1_p,
                                  const float* f2_p, const float* tau_a, const float* tau_b, float* c_p, float* d_p,
                                  float* rhs_p, float* new_tau_a, float* new_tau_b, int64_t N, int64_t H, int64_t W) {
    std::vector<double> sums(2*H);
    for (int64_t n = 0; n < N; n++) {
        float scale_a = 2/tau_a[n], scale_b = 2/tau_b[n];
        #pragma omp parallel for
        for (int64_t i = 0; i < H; i++) {
            int64_t row = (n*H + i)*W, above = (n*H + (i ? i : H) - 1)*W;
            const float *f = f_p + row, *I = first_p + row, *V = second_p + row;
            const float *f1 = f1_p + row, *f2 = f2_p + row, *f2_above = f2_p + above;
            float *c = c_p + row, *d = d_p + row, *rhs = rhs_p + row, a = 0, b = 0;
            #pragma omp simd reduction(+:a,b)
            for (int64_t j = 0; j < W; j++) {
                float x = f[j] - V[j], rest = I[j] - f[j], near = rest + 1e-6f;
                c[j] = std::sqrt(scale_a/std::max(near*near, 1e-24f));
                d[j] = std::min(std::sqrt(scale_b/(x*x + 1e-6f)), 2*c[j]);
                rhs[j] = rest - f1[j] + f2_above[j] - f2[j];
                a += 1/(c[j] + 1e-10f);
                b += 1/(d[j] + 1e-10f);
            }
            rhs[0] += f1[W - 1];
            for (int64_t j = 1; j < W; j++) rhs[j] += f1[j - 1];
            sums[2*i] = a;
            sums[2*i + 1] = b;
        }
        double a = 0, b = 0;
        for (int64_t i = 0; i < H; i++) {
            a += sums[2*i];
            b += sums[2*i + 1];
        }
        new_tau_a[n] = a/(H*W) + tau_a[n]/2;
        new_tau_b[n] = b/(H*W) + tau_b[n]/2;
    }
}

// The M step after the smoothing: the corrected luminance, and the shrunken differences of h. rows: N*H.
static inline void em_maximization(const float* c_p, const float* d_p, const float* h_p, const float* first_p,
                                   const float* second_p, float* out_p, float* f1_p, float* f2_p, int64_t rows,
                                   int64_t H, int64_t W, float rho, float shrink, bool paper) {
    #pragma omp parallel for
    for (int64_t r = 0; r < rows; r++) {
        const float *c = c_p + r*W, *d = d_p + r*W, *h = h_p + r*W;
        const float *I = first_p + r*W, *V = second_p + r*W;
        float *out = out_p + r*W, *f1 = f1_p + r*W, *f2 = f2_p + r*W;
        bool last = r % H == H - 1;
        #pragma omp simd
        for (int64_t j = 0; j < W; j++) {
            float y = I[j] - V[j];
            float x = (2*c[j]*y + rho*(y - h[j]))/(2*c[j] + 2*d[j] + rho);
            out[j] = paper ? V[j] + x : I[j] - x;
            f2[j] = shrink*(last ? h[j] : h[j] - h[j + W]);
        }
        for (int64_t j = 0; j < W - 1; j++) f1[j] = shrink*(h[j] - h[j + 1]);
        f1[W - 1] = shrink*h[W - 1];
    }
}
