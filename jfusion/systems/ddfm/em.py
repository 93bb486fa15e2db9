"""DDFM's likelihood step: one EM iteration that ties the luminance to the two sources.

Zhao et al., ICCV 2023, algorithm 1; what the released code computes differs from the paper in
points that docs/ddfm.md lists. Notation of the paper: y = i - v, x = f - v, k the smoothed x, u its
differences, m and n the latent variances.
"""

from __future__ import annotations

import numpy as np

from jfusion.ops.kernels import HEADER, use_kernel
from jfusion.ops.matmul import matmul
from jfusion.runtime import jt


class Likelihood:
    """The step, and what it carries from one diffusion step to the next.

    first, second (N, 1, H, W) in [-1, 1]: the sources (the code's I and V). lamb: the weight of the
    smoothness, rho: the penalty that splits it off. textbook: return V + X', the paper's estimate,
    and not I - X', its mirror image about the mean of the sources, which the released code returns.
    After a step, `c`, `d` (the inverse variances), `h`, `f1`, `f2`, `tau_a`, `tau_b` can be looked at;
    the scales tau are of each sample (N, 1, 1, 1).
    """

    def __init__(
        self, first: jt.Var, second: jt.Var, lamb: float, rho: float, textbook: bool = False
    ):
        self.first, self.second = first, second
        self.rho, self.shrink, self.textbook = rho, rho / (2 * lamb + rho), textbook
        n, _, height, width = first.shape
        self.tau_a = self.tau_b = jt.ones((n, 1, 1, 1))
        self.f1 = self.f2 = jt.zeros_like(first)
        self.smooth = Smoothing(height, width)

    def __call__(self, f: jt.Var) -> jt.Var:
        """F (N, 1, H, W), the luminance of the clean estimate -> the corrected one."""
        kernel = use_kernel(f, self.first)
        before = self.f1, self.f2, self.tau_a, self.tau_b
        step = _expectation if kernel else plain_expectation
        self.c, self.d, right, self.tau_a, self.tau_b = step(f, self.first, self.second, *before)
        self.h = self.smooth(right)
        step = _maximisation if kernel else plain_maximisation
        sources = self.first, self.second
        out, self.f1, self.f2 = step(
            self.c, self.d, self.h, *sources, self.rho, self.shrink, self.textbook
        )
        jt.sync([self.tau_a, self.tau_b, self.f1, self.f2])
        return out


def plain_expectation(
    f: jt.Var,
    first: jt.Var,
    second: jt.Var,
    f1: jt.Var,
    f2: jt.Var,
    tau_a: jt.Var,
    tau_b: jt.Var,
) -> tuple[jt.Var, ...]:
    """E step: the inverse variances c and d, what is to be smoothed, and the scales for the next step."""
    x, rest = f - second, first - f
    d = jt.sqrt(2 / tau_b / (x * x + 1e-6))
    c = jt.sqrt(2 / tau_a / jt.maximum((rest + 1e-6) ** 2, 1e-24))
    d = jt.minimum(d, 2 * c)
    # the adjoint of the forward differences, on a torus
    right = rest + (_rolled(f1, 3) - f1) + (_rolled(f2, 2) - f2)
    new_a, new_b = (_mean(1 / (v + 1e-10)) + t / 2 for v, t in ((c, tau_a), (d, tau_b)))
    return c, d, right, new_a, new_b


def plain_maximisation(
    c: jt.Var,
    d: jt.Var,
    h: jt.Var,
    first: jt.Var,
    second: jt.Var,
    rho: float,
    shrink: float,
    textbook: bool,
) -> tuple[jt.Var, ...]:
    """M step after the smoothing: the corrected luminance, and the shrunken differences of h."""
    y = first - second
    x = (2 * c * y + rho * (y - h)) / (2 * c + 2 * d + rho)
    f1, f2 = shrink * to_the_right(h), shrink * downwards(h)
    return second + x if textbook else first - x, f1, f2


def _expectation(f: jt.Var, *others: jt.Var) -> tuple[jt.Var, ...]:
    n = f.shape[0]
    return tuple(
        jt.code(
            [f.shape, f.shape, f.shape, [n, 1, 1, 1], [n, 1, 1, 1]],
            [f.dtype] * 5,
            [f, *others],
            cpu_header=HEADER,
            cpu_src="""
            @alias(f, in0) @alias(first, in1) @alias(second, in2) @alias(f1, in3) @alias(f2, in4)
            int64 N = in0_shape0, H = in0_shape2, W = in0_shape3;
            std::vector<double> sums(2*H);
            for (int64 n = 0; n < N; n++) {
                float scale_a = 2/in5_p[n], scale_b = 2/in6_p[n];
                #pragma omp parallel for
                for (int64 i = 0; i < H; i++) {
                    int64 at = (n*H + i)*W, above = (n*H + (i ? i : H) - 1)*W;
                    const float *f = f_p + at, *I = first_p + at, *V = second_p + at;
                    const float *f1 = f1_p + at, *f2 = f2_p + at, *f2_above = f2_p + above;
                    float *c = out0_p + at, *d = out1_p + at, *right = out2_p + at, a = 0, b = 0;
                    #pragma omp simd reduction(+:a,b)
                    for (int64 j = 0; j < W; j++) {
                        float x = f[j] - V[j], rest = I[j] - f[j], near = rest + 1e-6f;
                        c[j] = std::sqrt(scale_a/std::max(near*near, 1e-24f));
                        d[j] = std::min(std::sqrt(scale_b/(x*x + 1e-6f)), 2*c[j]);
                        right[j] = rest - f1[j] + f2_above[j] - f2[j];
                        a += 1/(c[j] + 1e-10f); b += 1/(d[j] + 1e-10f);
                    }
                    right[0] += f1[W-1];
                    for (int64 j = 1; j < W; j++) right[j] += f1[j-1];
                    sums[2*i] = a; sums[2*i + 1] = b;
                }
                double a = 0, b = 0;
                for (int64 i = 0; i < H; i++) { a += sums[2*i]; b += sums[2*i + 1]; }
                out3_p[n] = a/(H*W) + in5_p[n]/2;
                out4_p[n] = b/(H*W) + in6_p[n]/2;
            }
            """,
        )
    )


def _maximisation(
    c: jt.Var,
    d: jt.Var,
    h: jt.Var,
    first: jt.Var,
    second: jt.Var,
    rho: float,
    shrink: float,
    textbook: bool,
) -> tuple[jt.Var, ...]:
    return tuple(
        jt.code(
            [c.shape] * 3,
            [c.dtype] * 3,
            [c, d, h, first, second],
            cpu_header=HEADER,
            data={"rho": rho, "shrink": shrink, "textbook": int(textbook)},
            cpu_src="""
            int64 rows = in0_shape0*in0_shape2, H = in0_shape2, W = in0_shape3;
            float rho = data["rho"], shrink = data["shrink"];
            bool textbook = data["textbook"] != 0;
            #pragma omp parallel for
            for (int64 r = 0; r < rows; r++) {
                const float *c = in0_p + r*W, *d = in1_p + r*W, *h = in2_p + r*W;
                const float *I = in3_p + r*W, *V = in4_p + r*W;
                float *out = out0_p + r*W, *f1 = out1_p + r*W, *f2 = out2_p + r*W;
                bool last = r % H == H - 1;
                #pragma omp simd
                for (int64 j = 0; j < W; j++) {
                    float y = I[j] - V[j];
                    float x = (2*c[j]*y + rho*(y - h[j]))/(2*c[j] + 2*d[j] + rho);
                    out[j] = textbook ? V[j] + x : I[j] - x;
                    f2[j] = shrink*(last ? h[j] : h[j] - h[j + W]);
                }
                for (int64 j = 0; j < W - 1; j++) f1[j] = shrink*(h[j] - h[j + 1]);
                f1[W - 1] = shrink*h[W - 1];
            }
            """,
        )
    )


class Smoothing:
    """Solves h + D^T D h = r, D the forward differences on a torus.

    D is diagonal in the Fourier domain, with the transfer functions exp(2 pi i v / W) - 1 and
    exp(2 pi i u / H) - 1.
    """

    def __init__(self, height: int, width: int):
        self.spectrum = (1 + _spectrum(height)[:, None] + _spectrum(width)).astype(np.float32)

    def __call__(self, r: jt.Var) -> jt.Var:
        """(N, 1, H, W) -> the same shape."""
        if not use_kernel(r):
            return self.plain(r)
        from scipy import fft

        size = r.shape[2:]
        half = fft.rfft2(r.numpy()) / self.spectrum[:, : size[1] // 2 + 1]
        return jt.array(fft.irfft2(half, size))

    def plain(self, r: jt.Var) -> jt.Var:
        """The same as products of matrices, which a GPU does too.

        D^T D is real and even in the Fourier domain, so cosines plus sines (Hartley) diagonalise it
        as well.
        """
        height, width = r.shape[2:]
        matrices = hartley(height), hartley(width)
        scale = jt.array(1 / (self.spectrum * height * width)).stop_grad()
        return _transformed(_transformed(r, *matrices) * scale, *matrices)


def _transformed(x: jt.Var, rows: jt.Var, columns: jt.Var) -> jt.Var:
    n, _, h, w = x.shape
    x = matmul(x.reshape(n * h, w), columns).reshape(n, h, w)
    return matmul(rows.broadcast((n, h, h)), x).reshape(n, 1, h, w)


def hartley(size: int) -> jt.Var:
    """cos(2 pi j k / size) + sin(2 pi j k / size), (size, size)."""
    index = np.arange(size)
    angle = 2 * np.pi * (index[:, None] * index % size) / size
    return jt.array((np.cos(angle) + np.sin(angle)).astype(np.float32)).stop_grad()


def _spectrum(size: int) -> np.ndarray:
    """|exp(2 pi i v / size) - 1|^2."""
    return 2 - 2 * np.cos(2 * np.pi * np.arange(size) / size)


def _rolled(x: jt.Var, axis: int) -> jt.Var:
    """Moved by one; what falls off comes in at the other end."""
    if axis == 3:
        return jt.concat([x[:, :, :, -1:], x[:, :, :, :-1]], 3)
    return jt.concat([x[:, :, -1:], x[:, :, :-1]], 2)


def to_the_right(x: jt.Var) -> jt.Var:
    """X minus its right neighbour, as if a zero column followed."""
    return jt.concat([x[:, :, :, :-1] - x[:, :, :, 1:], x[:, :, :, -1:]], 3)


def downwards(x: jt.Var) -> jt.Var:
    """X minus its lower neighbour, as if a zero row followed."""
    return jt.concat([x[:, :, :-1] - x[:, :, 1:], x[:, :, -1:]], 2)


def _mean(x: jt.Var) -> jt.Var:
    """(N, 1, H, W) -> (N, 1, 1, 1), rows first: one long float32 sum loses digits."""
    return x.mean(3, keepdims=True).mean(2, keepdims=True)
