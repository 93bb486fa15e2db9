// 3x3 convolutions by Winograd's algorithm (Lavin and Gray, 2016, arXiv:1509.09308). Every tile of the input and every
// kernel becomes S numbers, the convolution becomes S matrix products, and their results become a tile of pixels:
// F(4x4, 3x3) with S = 36, a quarter of the multiplications; and F(2x2, 3x3) with S = 16, four ninths of them, for small
// images, where the kernels are most of what is read, and for the forward pass of a training step, whose rounding must
// be that of a direct sum. The gradient of the kernels is the same chain read backwards: every
// tile of the output's gradient becomes S numbers, their products with those of the input are summed over the tiles, and
// the sums become 3x3 numbers.
#pragma once
#include "conv.h"
#include "lanes.h"

// One axis of F(2, 3), on the points 0, 1, -1 and infinity: of a kernel, of the input, and of the products; then, for
// the gradient of a kernel, the last and the first of these transposed.
struct Two {
    static const int M = 2, N = 4;
    static inline void kernel(const Lanes* k, Lanes* u) {
        Lanes even = (k[0] + k[2])*0.5f, odd = k[1]*0.5f;
        u[0] = k[0]; u[1] = even + odd; u[2] = even - odd; u[3] = k[2];
    }
    static inline void input(const Lanes* d, Lanes* v) {
        v[0] = d[0] - d[2]; v[1] = d[1] + d[2]; v[2] = d[2] - d[1]; v[3] = d[1] - d[3];
    }
    static inline void output(const Lanes* m, Lanes* y) {
        y[0] = m[0] + m[1] + m[2]; y[1] = m[1] - m[2] - m[3];
    }
    static inline void gradient(const Lanes* g, Lanes* u) {
        u[0] = g[0]; u[1] = g[0] + g[1]; u[2] = g[0] - g[1]; u[3] = -g[1];
    }
    static inline void kernel_gradient(const Lanes* s, Lanes* k) {
        Lanes even = (s[1] + s[2])*0.5f;
        k[0] = s[0] + even; k[1] = (s[1] - s[2])*0.5f; k[2] = even + s[3];
    }
};

// One axis of F(4, 3). On the points 0, +-A, +-B and infinity with A = 3/4 and B = 3/2 it rounds half as much as on
// the usual 0, +-1, +-2: on noise, four times as much as a direct sum.
struct Four {
    static const int M = 4, N = 6;
    static constexpr float A = 0.75f, B = 1.5f, A2 = A*A, B2 = B*B;
    static constexpr float fa = 1/(2*A2*(A2 - B2)), fb = 1/(2*B2*(B2 - A2));
    static inline void kernel(const Lanes* k, Lanes* u) {
        Lanes a = k[0] + A2*k[2], b = k[0] + B2*k[2];
        u[0] = k[0]*(1/(A2*B2));
        u[1] = (a + A*k[1])*fa; u[2] = (a - A*k[1])*fa;
        u[3] = (b + B*k[1])*fb; u[4] = (b - B*k[1])*fb;
        u[5] = k[2];
    }
    static inline void input(const Lanes* d, Lanes* v) {
        Lanes even = d[4] - B2*d[2], odd = A*(d[3] - B2*d[1]), even2 = d[4] - A2*d[2], odd2 = B*(d[3] - A2*d[1]);
        v[0] = A2*B2*d[0] - (A2 + B2)*d[2] + d[4];
        v[1] = even + odd; v[2] = even - odd; v[3] = even2 + odd2; v[4] = even2 - odd2;
        v[5] = A2*B2*d[1] - (A2 + B2)*d[3] + d[5];
    }
    static inline void output(const Lanes* m, Lanes* y) {
        Lanes sa = m[1] + m[2], da = m[1] - m[2], sb = m[3] + m[4], db = m[3] - m[4];
        y[0] = m[0] + sa + sb;
        y[1] = A*da + B*db;
        y[2] = A2*sa + B2*sb;
        y[3] = A*A2*da + B*B2*db + m[5];
    }
    static inline void gradient(const Lanes* g, Lanes* u) {
        Lanes a = g[0] + A2*g[2], da = A*(g[1] + A2*g[3]), b = g[0] + B2*g[2], db = B*(g[1] + B2*g[3]);
        u[0] = g[0];
        u[1] = a + da; u[2] = a - da; u[3] = b + db; u[4] = b - db;
        u[5] = g[3];
    }
    static inline void kernel_gradient(const Lanes* s, Lanes* k) {
        Lanes a = fa*(s[1] + s[2]), da = fa*A*(s[1] - s[2]), b = fb*(s[3] + s[4]), db = fb*B*(s[3] - s[4]);
        k[0] = s[0]*(1/(A2*B2)) + a + b;
        k[1] = da + db;
        k[2] = A2*a + B2*b + s[5];
    }
};

// U[N*i + j][o][c] from the kernels w (O, C, 3, 3): the transform along both axes. U's matrices are `step` apart.
template <class F> static inline void transform_weights(const float* w, float* U, int64_t step, int64_t O, int64_t C) {
    const int N = F::N;
    #pragma omp for
    for (int64_t o = 0; o < O; o++) for (int64_t c = 0; c < C; c += LANES) {
        int64_t n = std::min(LANES, C - c);
        float taps[9*LANES] = {};
        for (int64_t l = 0; l < n; l++) for (int q = 0; q < 9; q++) taps[q*LANES + l] = w[((o*C + c) + l)*9 + q];
        Lanes half[3][N];
        for (int j = 0; j < 3; j++) {
            Lanes k[3] = {load(taps + j*LANES), load(taps + (3 + j)*LANES), load(taps + (6 + j)*LANES)};
            F::kernel(k, half[j]);
        }
        for (int i = 0; i < N; i++) {
            Lanes k[3] = {half[0][i], half[1][i], half[2][i]}, u[N];
            F::kernel(k, u);
            for (int j = 0; j < N; j++) {
                float* to = U + (N*i + j)*step + o*C + c;
                if (n == LANES) *(Lanes*)to = u[j];
                else std::memcpy(to, &u[j], n*sizeof(float));
            }
        }
    }
}

// w (O, C, 3, 3) from the sums U[N*i + j][o][c]: the transform back along both axes.
template <class F> static inline void inverse_transform_weights(const float* U, float* w, int64_t step, int64_t O,
                                                                int64_t C) {
    const int N = F::N;
    #pragma omp for
    for (int64_t o = 0; o < O; o++) for (int64_t c = 0; c < C; c += LANES) {
        int64_t n = std::min(LANES, C - c);
        Lanes half[3][N];
        for (int j = 0; j < N; j++) {
            Lanes s[N] = {}, k[3];
            for (int i = 0; i < N; i++) std::memcpy(&s[i], U + (N*i + j)*step + o*C + c, n*sizeof(float));
            F::kernel_gradient(s, k);
            for (int i = 0; i < 3; i++) half[i][j] = k[i];
        }
        float taps[9*LANES];
        for (int i = 0; i < 3; i++) {
            Lanes k[3];
            F::kernel_gradient(half[i], k);
            for (int j = 0; j < 3; j++) *(Lanes*)(taps + (3*i + j)*LANES) = k[j];
        }
        for (int64_t l = 0; l < n; l++) for (int q = 0; q < 9; q++) w[((o*C + c) + l)*9 + q] = taps[q*LANES + l];
    }
}

// The values that a row of tiles needs room for: whole vectors are read and written.
static inline int64_t wide(int64_t tiles) { return (tiles + 1 + LANES)/LANES*LANES; }

// One row of tiles of one channel, V[N*i + j][tile], from the image x (H, W): of an input from the rows
// M*r - 1 .. M*r + M, of an output's gradient from M*r .. M*r + M - 1. V's matrices are `step` apart, and what follows a
// row is overwritten, up to a vector.
template <class F, bool is_gradient> static inline void transform_row(const float* x, float* V, int64_t step, int64_t r,
                                                                      int64_t H, int64_t W, int64_t tiles,
                                                                      float* space) {
    const int M = F::M, N = F::N, SIDE = is_gradient ? M : N, BEFORE = is_gradient ? 0 : 1;
    const auto axis = is_gradient ? F::gradient : F::input;
    const int64_t each = wide(tiles), length = M*each;  // of a phase, and of a row with BEFORE zeros before it
    float *phases = space, *padded = space + length, *down = padded + N*length;
    for (int i = 0; i < SIDE; i++) {
        int64_t at = M*r - BEFORE + i;
        float* row = padded + i*length;
        bool inside = at >= 0 && at < H;
        row[0] = 0;
        if (inside) std::memcpy(row + BEFORE, x + at*W, W*sizeof(float));
        std::fill(row + (inside ? BEFORE + W : 0), row + length, 0.f);
    }
    for (int64_t c = 0; c < length; c += LANES) {
        Lanes d[SIDE], v[N];
        for (int i = 0; i < SIDE; i++) d[i] = load(padded + i*length + c);
        axis(d, v);
        for (int i = 0; i < N; i++) *(Lanes*)(down + i*length + c) = v[i];
    }
    for (int i = 0; i < N; i++) {
        const float* row = down + i*length;
        for (int64_t j = 0; j < each; j++) for (int k = 0; k < M; k++) phases[k*each + j] = row[M*j + k];
        float* to = V + N*i*step;
        for (int64_t j = 0; j < tiles; j += LANES) {
            Lanes d[SIDE], v[N];
            for (int k = 0; k < SIDE; k++) d[k] = load(phases + k%M*each + j + k/M);
            axis(d, v);
            for (int k = 0; k < N; k++) *(Lanes*)(to + k*step + j) = v[k];
        }
    }
}

// The rows M*r .. M*r + M - 1 of an output channel y (H, W), from its products P[N*i + j][tile], whose matrices are
// `step` apart.
template <class F> static inline void inverse_transform_row(const float* P, int64_t step, float bias, float* y,
                                                            int64_t r, int64_t H, int64_t W, int64_t tiles,
                                                            float* space) {
    const int M = F::M, N = F::N;
    const int64_t each = wide(tiles);
    float *line = space, *phases = line + M*each, *down = phases + M*each;
    for (int k = 0; k < N; k++) for (int64_t j = 0; j < tiles; j += LANES) {
        Lanes m[N], t[M];
        for (int i = 0; i < N; i++) m[i] = load(P + (N*i + k)*step + j);
        F::output(m, t);
        for (int i = 0; i < M; i++) *(Lanes*)(down + (N*i + k)*each + j) = t[i];
    }
    for (int i = 0; i < M && M*r + i < H; i++) {
        for (int64_t j = 0; j < tiles; j += LANES) {
            Lanes m[N], t[M];
            for (int k = 0; k < N; k++) m[k] = load(down + (N*i + k)*each + j);
            F::output(m, t);
            for (int k = 0; k < M; k++) *(Lanes*)(phases + k*each + j) = t[k] + bias;
        }
        for (int64_t j = 0; j < tiles; j++) for (int k = 0; k < M; k++) line[M*j + k] = phases[k*each + j];
        std::memcpy(y + (M*r + i)*W, line, W*sizeof(float));
    }
}

namespace {
// The tiles of a batch (N, C or O, H, W), a block of their rows at a time.
template <class F> struct Tiles {
    int64_t H, W, down, across, all;  // tiles: rows of an image, in a row, rows of the batch
    int64_t rows;  // of a block: as many as fit the cache, but enough tiles for a product to run at its full speed
    int64_t stride;  // from one channel's tiles to the next one's

    Tiles(int64_t N, int64_t C, int64_t O, int64_t H, int64_t W)
        : H(H), W(W), down((H + F::M - 1)/F::M), across((W + F::M - 1)/F::M), all(N*down),
          rows(std::min(all, std::max((1 << 20)/(F::N*F::N*(C + O)*across), (191 + across)/across))),
          stride(apart(rows*across + LANES)) {}

    // What a thread needs for the transforms of a row.
    std::vector<float> space() const { return std::vector<float>((2*F::N + 1)*F::M*wide(across)); }

    // From one matrix of so many channels to the next: they are written side by side, so they too must not lie a power
    // of two apart.
    int64_t matrix(int64_t channels) const { return channels*stride + 16; }

    // `row(c, r, at)` for each of the channels and for rows [r0, r0 + m), whose tiles begin `at` in a matrix; the
    // threads of a team share the channels.
    template <class Row> void each(int64_t channels, int64_t r0, int64_t m, Row row) const {
        #pragma omp for
        for (int64_t c = 0; c < channels; c++) for (int64_t r = r0; r < r0 + m; r++)
            row(c, r, c*stride + (r - r0)*across);
    }

    // Row r of tiles of channel c begins in the image at x + this.
    int64_t image(int64_t channels, int64_t c, int64_t r) const { return (r/down*channels + c)*H*W; }

    // V from a block of x, (N, channels, H, W).
    template <bool is_gradient> void transform(const float* x, float* V, int64_t channels, int64_t r0, int64_t m,
                                               float* space) const {
        each(channels, r0, m, [&](int64_t c, int64_t r, int64_t at) {
            transform_row<F, is_gradient>(x + image(channels, c, r), V + at, matrix(channels), r % down, H, W, across,
                                          space);
        });
    }
};
}  // namespace

template <class F> static inline void winograd(const float* x, const float* weight, const float* bias, float* y,
                                               int64_t N, int64_t C, int64_t O, int64_t H, int64_t W) {
    const int S = F::N*F::N;
    const Tiles<F> tiles(N, C, O, H, W);
    int64_t T = tiles.stride, u = O*C + 16, v = tiles.matrix(C), p = tiles.matrix(O);
    std::vector<float> U(S*u), V(S*v), P(S*p);
    #pragma omp parallel
    {
        std::vector<float> space = tiles.space();
        transform_weights<F>(weight, U.data(), u, O, C);
        for (int64_t r0 = 0; r0 < tiles.all; r0 += tiles.rows) {
            int64_t m = std::min(tiles.rows, tiles.all - r0), t = m*tiles.across;
            tiles.template transform<false>(x, V.data(), C, r0, m, space.data());
            #pragma omp for schedule(dynamic, 1)
            for (int64_t k = 0; k < S; k++)
                dnnl_sgemm('N', 'N', O, t, C, 1.f, &U[k*u], C, &V[k*v], T, 0.f, &P[k*p], T);
            tiles.each(O, r0, m, [&](int64_t o, int64_t r, int64_t at) {
                inverse_transform_row<F>(&P[at], p, bias[o], y + tiles.image(O, o, r), r % tiles.down, H, W,
                                         tiles.across, space.data());
            });
        }
    }
}

template <class F> static inline void winograd_backward_weight(const float* x, const float* g, float* d_weight,
                                                               int64_t N, int64_t C, int64_t O, int64_t H, int64_t W) {
    const int S = F::N*F::N;
    const Tiles<F> tiles(N, C, O, H, W);
    int64_t T = tiles.stride, u = O*C + 16, v = tiles.matrix(C), p = tiles.matrix(O);
    std::vector<float> V(S*v), G(S*p), U(S*u);
    #pragma omp parallel
    {
        std::vector<float> space = tiles.space();
        for (int64_t r0 = 0; r0 < tiles.all; r0 += tiles.rows) {
            int64_t m = std::min(tiles.rows, tiles.all - r0), t = m*tiles.across;
            tiles.template transform<false>(x, V.data(), C, r0, m, space.data());
            tiles.template transform<true>(g, G.data(), O, r0, m, space.data());
            #pragma omp for schedule(dynamic, 1)
            for (int64_t k = 0; k < S; k++)
                dnnl_sgemm('N', 'T', O, C, t, 1.f, &G[k*p], T, &V[k*v], T, r0 ? 1.f : 0.f, &U[k*u], C);
        }
        inverse_transform_weights<F>(U.data(), d_weight, u, O, C);
    }
}

// From g (N, O, H, W), the gradient of y: d_weight (O, C, 3, 3) and d_bias (O).
static inline void conv_winograd_backward_weight(const float* x, const float* g, float* d_weight, float* d_bias,
                                                 int64_t N, int64_t C, int64_t O, int64_t H, int64_t W) {
    bool large = N*((H + 3)/4)*((W + 3)/4) >= 256;
    (large ? winograd_backward_weight<Four> : winograd_backward_weight<Two>)(x, g, d_weight, N, C, O, H, W);
    conv_backward_bias(g, d_bias, N, O, H, W);
}

// x (N, C, H, W), weight (O, C, 3, 3), bias (O) -> y (N, O, H, W), with a border of zeros. `fine` keeps to the smaller
// tiles, whose rounding is that of a direct sum.
static inline void conv_winograd(const float* x, const float* weight, const float* bias, float* y, int64_t N,
                                 int64_t C, int64_t O, int64_t H, int64_t W, bool fine) {
    bool large = !fine && N*((H + 3)/4)*((W + 3)/4) >= 128;
    (large ? winograd<Four> : winograd<Two>)(x, weight, bias, y, N, C, O, H, W);
}
