// 3x3 convolutions by Winograd's algorithm F(2x2, 3x3) (Lavin and Gray, 2016): on tiles of 2x2 pixels, with four
// ninths of the multiplications at less than a decimal digit of accuracy. Every tile of the input and every kernel
// becomes 16 numbers, the convolution becomes 16 matrix products, and their results become 2x2 pixels.
#pragma once
#include "common.h"

// U[4i+j][o][c] from the kernels w (O, C, 3, 3): the transform along both axes.
static inline void transform_weights(const float* w, float* U, int64_t O, int64_t C) {
    #pragma omp for
    for (int64_t p = 0; p < O*C; p++) {
        const float* k = w + p*9;
        float t[4][3];
        for (int j = 0; j < 3; j++) {
            float a = k[j], b = k[3 + j], c = k[6 + j];
            t[0][j] = a;
            t[1][j] = (a + b + c)/2;
            t[2][j] = (a - b + c)/2;
            t[3][j] = c;
        }
        for (int i = 0; i < 4; i++) {
            float a = t[i][0], b = t[i][1], c = t[i][2];
            float row[4] = {a, (a + b + c)/2, (a - b + c)/2, c};
            for (int j = 0; j < 4; j++) U[(4*i + j)*O*C + p] = row[j];
        }
    }
}

// One row of tiles of one channel, V[4i+j][tile], from the rows 2r-1 .. 2r+2 of the image x (H, W). V's matrices are
// `step` apart; even and odd are buffers of tiles+1 values.
static inline void transform_row(const float* x, float* V, int64_t step, int64_t r, int64_t H, int64_t W,
                                 int64_t tiles, float* even, float* odd) {
    const float* rows[4];
    std::vector<float> zero(W, 0.f);
    for (int i = 0; i < 4; i++) {
        int64_t at = 2*r - 1 + i;
        rows[i] = at >= 0 && at < H ? x + at*W : zero.data();
    }
    const int first[4] = {0, 1, 2, 1}, second[4] = {2, 2, 1, 3};
    const float sign[4] = {-1, 1, -1, -1};
    for (int i = 0; i < 4; i++) {
        const float *a = rows[first[i]], *b = rows[second[i]];
        float s = sign[i];
        // even[j] and odd[j]: the values 2j and 2j + 1 of the row with a zero put in front
        int64_t inner = std::min(tiles, (W - 1)/2);
        even[0] = 0;
        odd[0] = a[0] + s*b[0];
        for (int64_t j = 1; j <= inner; j++) {
            even[j] = a[2*j - 1] + s*b[2*j - 1];
            odd[j] = a[2*j] + s*b[2*j];
        }
        for (int64_t j = inner + 1; j <= tiles; j++) {
            even[j] = 2*j - 1 < W ? a[2*j - 1] + s*b[2*j - 1] : 0.f;
            odd[j] = 0;
        }
        float *v0 = V + 4*i*step, *v1 = v0 + step, *v2 = v1 + step, *v3 = v2 + step;
        #pragma omp simd
        for (int64_t j = 0; j < tiles; j++) {
            v0[j] = even[j] - even[j + 1];
            v1[j] = odd[j] + even[j + 1];
            v2[j] = even[j + 1] - odd[j];
            v3[j] = odd[j] - odd[j + 1];
        }
    }
}

// The rows 2r and 2r+1 of an output channel y (H, W), from its products M[4i+j][tile], whose matrices are `step`
// apart; buffer has 2*tiles values.
static inline void inverse_transform_row(const float* M, int64_t step, float bias, float* y, int64_t r, int64_t H,
                                         int64_t W, int64_t tiles, float* buffer) {
    for (int half = 0; half < 2 && 2*r + half < H; half++) {
        float *left = buffer, *right = buffer + tiles;
        float s = half ? -1 : 1;
        const float *a = M + (half ? 4 : 0)*step, *b = M + (half ? 8 : 4)*step, *c = M + (half ? 12 : 8)*step;
        #pragma omp simd
        for (int64_t j = 0; j < tiles; j++) {
            float m0 = a[j] + s*b[j] + s*c[j], m1 = a[j + step] + s*b[j + step] + s*c[j + step];
            float m2 = a[j + 2*step] + s*b[j + 2*step] + s*c[j + 2*step];
            float m3 = a[j + 3*step] + s*b[j + 3*step] + s*c[j + 3*step];
            left[j] = m0 + m1 + m2 + bias;
            right[j] = m1 - m2 - m3 + bias;
        }
        float* out = y + (2*r + half)*W;
        for (int64_t j = 0; j < W/2; j++) {
            out[2*j] = left[j];
            out[2*j + 1] = right[j];
        }
        if (W % 2) out[W - 1] = left[W/2];
    }
}

// x (N, C, H, W), weight (O, C, 3, 3), bias (O) -> y (N, O, H, W), with a border of zeros.
static inline void conv_winograd(const float* x, const float* weight, const float* bias, float* y, int64_t N,
                                 int64_t C, int64_t O, int64_t H, int64_t W) {
    int64_t down = (H + 1)/2, tiles = (W + 1)/2, all = N*down;  // rows of tiles: of an image, and of the batch
    int64_t rows = std::max<int64_t>(1, std::min(all, (1 << 20)/(16*(C + O)*tiles)));
    int64_t T = apart(rows*tiles);  // from one channel's tiles to the next one's
    std::vector<float> U(16*O*C), V(16*C*T), M(16*O*T);
    #pragma omp parallel
    {
        std::vector<float> buffer(2*tiles + 2);
        float* half = buffer.data() + tiles + 1;
        transform_weights(weight, U.data(), O, C);
        for (int64_t r0 = 0; r0 < all; r0 += rows) {
            int64_t m = std::min(rows, all - r0), t = m*tiles;
            #pragma omp for
            for (int64_t c = 0; c < C; c++) for (int64_t r = r0; r < r0 + m; r++)
                transform_row(x + (r/down*C + c)*H*W, &V[c*T + (r - r0)*tiles], C*T, r % down, H, W, tiles,
                              buffer.data(), half);
            #pragma omp for schedule(dynamic, 1)
            for (int64_t k = 0; k < 16; k++)
                dnnl_sgemm('N', 'N', O, t, C, 1.f, &U[k*O*C], C, &V[k*C*T], T, 0.f, &M[k*O*T], T);
            #pragma omp for
            for (int64_t o = 0; o < O; o++) for (int64_t r = r0; r < r0 + m; r++)
                inverse_transform_row(&M[o*T + (r - r0)*tiles], O*T, bias[o], y + (r/down*O + o)*H*W, r % down, H, W,
                                      tiles, buffer.data());
        }
    }
}
