"""PReLU and the GELU gate."""

from __future__ import annotations

from jfusion.layers.cpu import HEADER, use_kernel
from jfusion.runtime import jt, nn


def prelu(x: jt.Var, slope: jt.Var) -> jt.Var:
    """x where x > 0, else slope * x; slope (1,), one for all values."""
    return _PReLU()(x, slope) if use_kernel(x, slope) else plain_prelu(x, slope)


def plain_prelu(x: jt.Var, slope: jt.Var) -> jt.Var:
    """The same from stock Jittor."""
    return jt.ternary(x > 0, x, x * slope)


def gelu_gate(x: jt.Var) -> jt.Var:
    """GELU of the first half of the channels times the second half; the exact (erf) GELU.

    x (N, 2C, H, W) -> (N, C, H, W).
    """
    return _GeluGate()(x) if use_kernel(x) else plain_gelu_gate(x)


def plain_gelu_gate(x: jt.Var) -> jt.Var:
    """The same from stock Jittor."""
    half = x.shape[1] // 2
    return nn.gelu(x[:, :half]) * x[:, half:]


class _PReLU(jt.Function):
    def execute(self, x: jt.Var, slope: jt.Var) -> jt.Var:
        self.saved = x, slope
        return jt.code(
            x.shape,
            x.dtype,
            [x, slope],
            cpu_header=HEADER,
            cpu_src="""
            float a = in1_p[0];
            #pragma omp parallel for simd
            for (int64 i = 0; i < in0->num; i++) out_p[i] = in0_p[i] > 0 ? in0_p[i] : a*in0_p[i];
            """,
        )

    def grad(self, g: jt.Var) -> tuple[jt.Var, jt.Var]:
        x, slope = self.saved
        return tuple(
            jt.code(
                [x.shape, slope.shape],
                [x.dtype] * 2,
                [x, slope, g],
                cpu_header=HEADER,
                cpu_src="""
                const int64 B = 4096;
                int64 total = in0->num, blocks = (total + B - 1) / B;
                float a = in1_p[0];
                std::vector<float> parts(blocks);
                #pragma omp parallel for
                for (int64 t = 0; t < blocks; t++) {
                    float s = 0;
                    int64 last = std::min(total, t*B + B);
                    #pragma omp simd reduction(+:s)
                    for (int64 i = t*B; i < last; i++) {
                        bool up = in0_p[i] > 0;
                        out0_p[i] = up ? in2_p[i] : a*in2_p[i];
                        s += up ? 0.f : in0_p[i]*in2_p[i];
                    }
                    parts[t] = s;
                }
                double sum = 0;
                for (float s : parts) sum += s;
                out1_p[0] = sum;
                """,
            )
        )


# erf within 1.3 units in the last place, in a form the compiler vectorises: a polynomial in x^2
# near zero, 1 - exp(t * polynomial in t) beyond; both are Chebyshev fits.
ERF = (
    HEADER
    + """
static inline float erf_fast(float x) {
    float t = std::min(std::fabs(x), 10.f), s = x*x;
    float near = 8.20979685e-05f;
    near = near*s - 8.10444195e-04f; near = near*s + 5.19764256e-03f;
    near = near*s - 2.68580320e-02f; near = near*s + 1.12836710e-01f;
    near = near*s - 3.76126322e-01f; near = near*s + 1.28379166e-01f;
    float far = -1.25145860e-05f;
    far = far*t + 3.35368657e-04f; far = far*t - 3.69240045e-03f;
    far = far*t + 2.38652644e-02f; far = far*t - 1.06353901e-01f;
    far = far*t - 6.35082215e-01f; far = far*t - 1.12866511e+00f;
    return t < 0.95f ? near*x + x : std::copysign(1.f - std::exp(far*t), x);
}
"""
)


class _GeluGate(jt.Function):
    def execute(self, x: jt.Var) -> jt.Var:
        self.saved = x
        n, c, h, w = x.shape
        return jt.code(
            [n, c // 2, h, w],
            x.dtype,
            [x],
            cpu_header=ERF,
            cpu_src="""
            int64 N = in0_shape0, M = (int64)out_shape1*in0_shape2*in0_shape3;
            for (int64 n = 0; n < N; n++) {
                const float *u = in0_p + n*2*M, *v = u + M;
                float* y = out_p + n*M;
                #pragma omp parallel for simd
                for (int64 i = 0; i < M; i++)
                    y[i] = 0.5f*u[i]*(1.f + erf_fast(u[i]*0.70710678f))*v[i];
            }
            """,
        )

    def grad(self, g: jt.Var) -> jt.Var:
        x = self.saved
        return jt.code(
            x.shape,
            x.dtype,
            [x, g],
            cpu_header=ERF,
            cpu_src="""
            int64 N = in0_shape0, M = (int64)in1_shape1*in0_shape2*in0_shape3;
            for (int64 n = 0; n < N; n++) {
                const float *u = in0_p + n*2*M, *v = u + M, *g = in1_p + n*M;
                float *du = out_p + n*2*M, *dv = du + M;
                #pragma omp parallel for simd
                for (int64 i = 0; i < M; i++) {
                    float c = 0.5f*(1.f + erf_fast(u[i]*0.70710678f));
                    du[i] = g[i]*v[i]*(c + u[i]*0.39894228f*std::exp(-0.5f*u[i]*u[i]));
                    dv[i] = g[i]*u[i]*c;
                }
            }
            """,
        )
