// unshuffle(depthwise(shuffle(a))) * activation(b), where shuffle is pixel shuffle by 2 (Shi et al., 2016).
// a, b (N, 4C, H, W), weight (C, K, K) -> y (N, 4C, H, W).
#pragma once
#include "depthwise.h"
#include "erf.h"

namespace {
struct GELU {
    static float value(float x) { return 0.5f*x*(1.f + erf_fast(x*0.70710678f)); }
    static float grad(float x) {
        return 0.5f*(1.f + erf_fast(x*0.70710678f)) + x*0.39894228f*std::exp(-0.5f*x*x);
    }
};
// x tanh(softplus(x)) with n = e^2x + 2e^x is x n/(n + 2); for large x the quotient is 1 and e^x would overflow.
struct Mish {
    static float value(float x) {
        float e = std::exp(std::min(x, 20.f)), n = e*(e + 2.f);
        return x*n/(n + 2.f);
    }
    static float grad(float x) {
        float e = std::exp(std::min(x, 20.f)), n = e*(e + 2.f), r = 1.f/(n + 2.f);
        return n*r + 4.f*x*e/(1.f + e)*r*(n + 1.f)*r;  // (n + 1)*4/(n + 2)^2 is 1 - tanh^2
    }
};
}  // namespace

template <class Activation>
static inline void shuffled_gate_forward(const float* a, const float* b, const float* weight, float* y, int64_t N,
                                         int64_t C, int64_t H, int64_t W, int64_t K) {
    int64_t T = K*K;
    #pragma omp parallel
    {
        Phases phases(2, H, W, (K/2 + 1)/2);
        std::vector<int64_t> offsets(4*T);
        for (int64_t p = 0; p < 4; p++) kernel_offsets(phases, p, K, K/2, &offsets[p*T]);
        #pragma omp for
        for (int64_t c = 0; c < N*C; c++) {
            phases.fill(a + c*4*H*W);
            for (int64_t p = 0; p < 4; p++) for (int64_t i = 0; i < H; i++) {
                int64_t at = ((c*4 + p)*H + i)*W;
                const float* gate = b + at;
                float* to = y + at;
                depthwise_row(phases.row(0, i), &offsets[p*T], weight + (c % C)*T, T, W, to);
                #pragma omp simd
                for (int64_t j = 0; j < W; j++) to[j] *= Activation::value(gate[j]);
            }
        }
    }
}

// From g (N, 4C, H, W), the gradient of y: d_a, d_b and d_weight.
template <class Activation>
static inline void shuffled_gate_backward(const float* a, const float* b, const float* weight, const float* g,
                                          float* d_a, float* d_b, float* d_weight, int64_t N, int64_t C, int64_t H,
                                          int64_t W, int64_t K) {
    int64_t T = K*K, R = (K/2 + 1)/2;
    #pragma omp parallel
    {
        Phases phases(2, H, W, R), d_filtered(2, H, W, R);
        std::vector<int64_t> offsets(4*T);
        std::vector<float> sums(LANES*T), flipped(T), filtered(W);
        for (int64_t p = 0; p < 4; p++) kernel_offsets(phases, p, K, K/2, &offsets[p*T]);
        #pragma omp for
        for (int64_t c = 0; c < C; c++) {
            const float* k = weight + c*T;
            for (int64_t t = 0; t < T; t++) flipped[t] = k[T - 1 - t];
            std::fill(sums.begin(), sums.end(), 0.f);
            for (int64_t n = 0; n < N; n++) {
                int64_t first = (n*C + c)*4*H*W;
                phases.fill(a + first);
                for (int64_t p = 0; p < 4; p++) for (int64_t i = 0; i < H; i++) {
                    int64_t at = first + (p*H + i)*W;
                    const float *gate = b + at, *d_y = g + at;
                    float *q = d_filtered.row(p, i), *d_gate = d_b + at;
                    depthwise_row(phases.row(0, i), &offsets[p*T], k, T, W, filtered.data());
                    #pragma omp simd
                    for (int64_t j = 0; j < W; j++) {
                        q[j] = d_y[j]*Activation::value(gate[j]);
                        d_gate[j] = d_y[j]*filtered[j]*Activation::grad(gate[j]);
                    }
                    depthwise_backward_weight_row(phases.row(0, i), &offsets[p*T], q, T, W, sums.data());
                }
                for (int64_t p = 0; p < 4; p++) for (int64_t i = 0; i < H; i++)
                    depthwise_row(d_filtered.row(0, i), &offsets[p*T], flipped.data(), T, W,
                                  d_a + first + (p*H + i)*W);
            }
            sum_lanes(sums.data(), T, d_weight + c*T);
        }
    }
}
