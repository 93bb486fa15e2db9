// Depthwise convolutions of any odd size. A channel is copied once into a buffer with a border of zeros; each row of
// the output is then the sum of moved rows, 64 pixels at a time in registers.
#pragma once
#include "lanes.h"

namespace {
// The S*S phases of one channel, H x W each, with a border of R zeros and room to read beyond the end of a row.
// S is 1 for an image and 2 for a pixel-shuffled one, which is never built: its four phases are four channels.
struct Phases {
    int64_t S, H, W, R, stride, size;
    std::vector<float> data;
    Phases(int64_t S, int64_t H, int64_t W, int64_t R)
        : S(S), H(H), W(W), R(R), stride(W + 2*R + 16), size(stride*(H + 2*R + 1)), data(S*S*size, 0.f) {}
    float* row(int64_t phase, int64_t i) { return data.data() + phase*size + (i + R)*stride + R; }
    void fill(const float* x) {
        for (int64_t p = 0; p < S*S; p++) for (int64_t i = 0; i < H; i++, x += W) std::copy(x, x + W, row(p, i));
    }
};
}  // namespace

// For each weight of a K x K kernel with `pad` zeros around: the distance in memory from a pixel of `phase` to the
// pixel that the weight multiplies. In a pixel-shuffled image that pixel may be one of another phase.
static inline void kernel_offsets(const Phases& in, int64_t phase, int64_t K, int64_t pad, int64_t* offsets) {
    int64_t S = in.S, i = phase/S, j = phase % S;
    for (int64_t a = 0; a < K; a++) for (int64_t b = 0; b < K; b++) {
        int64_t u = i + a - pad, v = j + b - pad, up = u & (S-1), vp = v & (S-1);
        offsets[a*K + b] = (up*S + vp)*in.size + (u - up)/S*in.stride + (v - vp)/S;
    }
}

// One row of W pixels: the sum of the rows at the T offsets, weighted with k.
static inline void depthwise_row(const float* at, const int64_t* offsets, const float* k, int64_t T, int64_t W,
                                 float* out) {
    const int64_t most = 64/LANES;
    int64_t j = 0;
    for (; j + 64 <= W; j += 64) {
        Lanes s[most] = {};
        for (int64_t t = 0; t < T; t++) {
            const float* p = at + offsets[t] + j;
            float w = k[t];
            #pragma GCC unroll 8
            for (int64_t i = 0; i < most; i++) s[i] += w*load(p + i*LANES);
        }
        #pragma GCC unroll 8
        for (int64_t i = 0; i < most; i++) *(Lanes*)(out + j + i*LANES) = s[i];
    }
    for (; j < W; j += LANES) {
        Lanes s = {};
        for (int64_t t = 0; t < T; t++) s += k[t]*load(at + offsets[t] + j);
        if (j + LANES <= W) *(Lanes*)(out + j) = s;
        else for (int64_t m = 0; m < W - j; m++) out[j + m] = s[m];
    }
}

// Adds one row's part of the gradient of the T weights to sums (T, LANES): g times the rows at the offsets. g has
// zeros beyond W, up to a multiple of LANES.
static inline void depthwise_backward_weight_row(const float* at, const int64_t* offsets, const float* g, int64_t T,
                                                 int64_t W, float* sums) {
    int64_t t = 0;
    for (; t + 7 <= T; t += 7) {
        Lanes* s = (Lanes*)(sums + LANES*t);
        Lanes s0 = s[0], s1 = s[1], s2 = s[2], s3 = s[3], s4 = s[4], s5 = s[5], s6 = s[6];
        for (int64_t j = 0; j < W; j += LANES) {
            const float* p = at + j;
            Lanes v = load(g + j);
            s0 += v*load(p + offsets[t]); s1 += v*load(p + offsets[t+1]); s2 += v*load(p + offsets[t+2]);
            s3 += v*load(p + offsets[t+3]); s4 += v*load(p + offsets[t+4]); s5 += v*load(p + offsets[t+5]);
            s6 += v*load(p + offsets[t+6]);
        }
        s[0] = s0; s[1] = s1; s[2] = s2; s[3] = s3; s[4] = s4; s[5] = s5; s[6] = s6;
    }
    for (; t < T; t++) {
        Lanes s = load(sums + LANES*t);
        for (int64_t j = 0; j < W; j += LANES) s += load(g + j)*load(at + offsets[t] + j);
        *(Lanes*)(sums + LANES*t) = s;
    }
}

// sums (T, LANES) -> out (T): the lanes of each added up.
static inline void sum_lanes(const float* sums, int64_t T, float* out) {
    for (int64_t t = 0; t < T; t++) {
        double s = 0;
        for (int64_t i = 0; i < LANES; i++) s += sums[LANES*t + i];
        out[t] = s;
    }
}

// x (N, C, H, W), weight (C, K, K) -> y (N, C, h, w), with `pad` zeros around x.
static inline void depthwise_forward(const float* x, const float* weight, float* y, int64_t N, int64_t C, int64_t H,
                                     int64_t W, int64_t K, int64_t h, int64_t w, int64_t pad) {
    int64_t T = K*K;
    #pragma omp parallel
    {
        Phases channel(1, H, W, pad);
        std::vector<int64_t> offsets(T);
        kernel_offsets(channel, 0, K, pad, offsets.data());
        #pragma omp for
        for (int64_t p = 0; p < N*C; p++) {
            channel.fill(x + p*H*W);
            for (int64_t i = 0; i < h; i++)
                depthwise_row(channel.row(0, i), offsets.data(), weight + (p % C)*T, T, w, y + (p*h + i)*w);
        }
    }
}

// From g (N, C, h, w), the gradient of y: d_weight (C, K, K).
static inline void depthwise_backward_weight(const float* x, const float* g, float* d_weight, int64_t N, int64_t C,
                                             int64_t H, int64_t W, int64_t K, int64_t h, int64_t w, int64_t pad) {
    int64_t T = K*K;
    #pragma omp parallel
    {
        Phases channel(1, H, W, pad), d_y(1, h, w, 0);
        std::vector<int64_t> offsets(T);
        std::vector<float> sums(LANES*T);
        kernel_offsets(channel, 0, K, pad, offsets.data());
        #pragma omp for
        for (int64_t c = 0; c < C; c++) {
            std::fill(sums.begin(), sums.end(), 0.f);
            for (int64_t n = 0; n < N; n++) {
                channel.fill(x + (n*C + c)*H*W);
                d_y.fill(g + (n*C + c)*h*w);
                for (int64_t i = 0; i < h; i++)
                    depthwise_backward_weight_row(channel.row(0, i), offsets.data(), d_y.row(0, i), T, w, sums.data());
            }
            sum_lanes(sums.data(), T, d_weight + c*T);
        }
    }
}
