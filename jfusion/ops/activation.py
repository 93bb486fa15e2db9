"""Activations, and the layer scale."""

from __future__ import annotations

from jfusion.ops.kernels import CUDA_HEADER, HEADER, Function, source, use_kernel
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
    return _GeluGate()(x) if use_kernel(x, cuda=True) else plain_gelu_gate(x)


def plain_gelu_gate(x: jt.Var) -> jt.Var:
    """The same from stock Jittor."""
    half = x.shape[1] // 2
    return nn.gelu(x[:, :half]) * x[:, half:]


def squared_relu(x: jt.Var) -> jt.Var:
    """max(x, 0)^2, of any shape."""
    return _SquaredReLU()(x) if use_kernel(x, cuda=True) else plain_squared_relu(x)


def plain_squared_relu(x: jt.Var) -> jt.Var:
    """The same from stock Jittor."""
    return jt.maximum(x, 0) ** 2


def star_relu(x: jt.Var, scale: jt.Var, bias: jt.Var) -> jt.Var:
    """scale * max(x, 0)^2 + bias; scale and bias (1,) (MetaFormer, Yu et al., 2022)."""
    kernel = use_kernel(x, scale, bias)
    return _StarReLU()(x, scale, bias) if kernel else plain_star_relu(x, scale, bias)


def plain_star_relu(x: jt.Var, scale: jt.Var, bias: jt.Var) -> jt.Var:
    """The same from stock Jittor."""
    return plain_squared_relu(x) * scale + bias


def silu(x: jt.Var) -> jt.Var:
    """x sigmoid(x), of any shape."""
    return _SiLU()(x) if use_kernel(x, cuda=True) else plain_silu(x)


def plain_silu(x: jt.Var) -> jt.Var:
    """The same from stock Jittor."""
    return x * jt.sigmoid(x)


def absolute(x: jt.Var) -> jt.Var:
    """|x|, of any shape, with slope 0 at 0, as PyTorch's; Jittor's is 1 there."""
    sign = (x > 0).float32() - (x < 0).float32()
    return x * sign.stop_grad()


def tanh(x: jt.Var) -> jt.Var:
    """tanh(x), of any shape. Jittor's own has no gradient (NaN) where it is saturated."""
    return _Tanh()(x)


def relu6(x: jt.Var) -> jt.Var:
    """x cut to [0, 6], of any shape."""
    return _ReLU6()(x) if use_kernel(x, cuda=True) else plain_relu6(x)


def plain_relu6(x: jt.Var) -> jt.Var:
    """The same from stock Jittor."""
    return jt.clamp(x, 0, 6)


def add_scaled(x: jt.Var, branch: jt.Var, scale: jt.Var) -> jt.Var:
    """x + scale * branch; x, branch (N, C, H, W), scale (C,)."""
    kernel = use_kernel(x, branch, scale)
    return _AddScaled()(x, branch, scale) if kernel else plain_add_scaled(x, branch, scale)


def plain_add_scaled(x: jt.Var, branch: jt.Var, scale: jt.Var) -> jt.Var:
    """The same from stock Jittor."""
    return x + branch * scale.reshape(1, -1, 1, 1)


def _each(expression: str, *inputs: jt.Var, after: jt.Var | None = None) -> jt.Var:
    """A new value from x (and g) at each place, by all threads; when `after` is there."""
    names = "xg"[: len(inputs)]
    values = ", ".join(f"{name} = in{i}_p[i]" for i, name in enumerate(names))
    arguments = ", ".join(f"const float* in{i}_p" for i in range(len(names)))
    given = ", ".join(f"in{i}_p" for i in range(len(names)))
    return jt.code(
        inputs[0].shape,
        inputs[0].dtype,
        [*inputs, *([] if after is None else [after])],
        cpu_header=HEADER,
        cpu_src=f"""
        #pragma omp parallel for simd
        for (int64 i = 0; i < in0->num; i++) {{ float {values}; out_p[i] = {expression}; }}
        """,
        cuda_header=CUDA_HEADER
        + f"""
static __global__ void each({arguments}, float* out_p, int64_t n) {{
    for OWN(i, n) {{ float {values}; out_p[i] = {expression}; }}
}}
""",
        cuda_src=f"each<<<grid_for(1, in0->num), THREADS>>>({given}, out_p, in0->num);",
    )


def copy(x: jt.Var, after: jt.Var) -> jt.Var:
    """x, float32 and any shape, when `after` is there: what is made of it is not made before."""
    return _each("x", x, after=after)


class _SquaredReLU(Function):
    def execute(self, x: jt.Var) -> jt.Var:
        self.saved = x
        return _each("x > 0 ? x*x : 0.f", x)

    def grad(self, g: jt.Var) -> jt.Var:
        return _each("x > 0 ? 2*x*g : 0.f", self.saved, g)


# the sigmoid; at -Ofast a quotient by infinity is not 0 but NaN
_SHARE = "(1/(1 + expf(-fmaxf(x, -80.f))))"


class _SiLU(Function):
    def execute(self, x: jt.Var) -> jt.Var:
        self.saved = x
        return silu_forward(x)

    def grad(self, g: jt.Var) -> jt.Var:
        return silu_backward(self.saved, g)


def silu_forward(x: jt.Var, after: jt.Var | None = None) -> jt.Var:
    """The kernel of `silu`, without a gradient; it runs only when `after` is there, as `norm_forward`."""
    return _each(f"x*{_SHARE}", x, after=after)


def silu_backward(x: jt.Var, g: jt.Var) -> jt.Var:
    """The slope of `silu` at x, from that of its result."""
    return _each(f"g*{_SHARE}*(1 + x*(1 - {_SHARE}))", x, g)


class _Tanh(Function):
    def execute(self, x: jt.Var) -> jt.Var:
        self.saved = jt.tanh(x)
        return self.saved

    def grad(self, g: jt.Var) -> jt.Var:
        return g * (1 - self.saved * self.saved)


class _ReLU6(Function):
    def execute(self, x: jt.Var) -> jt.Var:
        self.saved = x
        return _each("fminf(fmaxf(x, 0.f), 6.f)", x)

    def grad(self, g: jt.Var) -> jt.Var:
        return _each("x > 0 && x < 6 ? g : 0.f", self.saved, g)


class _StarReLU(Function):
    def execute(self, x: jt.Var, scale: jt.Var, bias: jt.Var) -> jt.Var:
        self.saved = x, scale
        return jt.code(
            x.shape,
            x.dtype,
            [x, scale, bias],
            cpu_header=HEADER,
            cpu_src="""
            float a = in1_p[0], b = in2_p[0];
            #pragma omp parallel for simd
            for (int64 i = 0; i < in0->num; i++) {
                float x = std::max(in0_p[i], 0.f);
                out_p[i] = a*x*x + b;
            }
            """,
        )

    def grad(self, g: jt.Var) -> tuple[jt.Var, jt.Var, jt.Var]:
        x, scale = self.saved
        return tuple(
            jt.code(
                [x.shape, [1], [1]],
                [x.dtype] * 3,
                [x, scale, g],
                cpu_header=HEADER,
                cpu_src="""
                const int64 B = 1024;
                int64 total = in0->num, blocks = (total + B - 1) / B;
                float a = 2*in1_p[0];
                std::vector<float> squares(blocks), sums(blocks);
                #pragma omp parallel for
                for (int64 t = 0; t < blocks; t++) {
                    float square = 0, sum = 0;
                    int64 last = std::min(total, t*B + B);
                    #pragma omp simd reduction(+:square,sum)
                    for (int64 i = t*B; i < last; i++) {
                        float x = std::max(in0_p[i], 0.f), g = in2_p[i];
                        out0_p[i] = a*x*g;
                        square += x*x*g; sum += g;
                    }
                    squares[t] = square; sums[t] = sum;
                }
                double square = 0, sum = 0;
                for (int64 t = 0; t < blocks; t++) { square += squares[t]; sum += sums[t]; }
                out1_p[0] = square; out2_p[0] = sum;
                """,
            )
        )


class _AddScaled(Function):
    def execute(self, x: jt.Var, branch: jt.Var, scale: jt.Var) -> jt.Var:
        self.saved = branch, scale
        return jt.code(
            x.shape,
            x.dtype,
            [x, branch, scale],
            cpu_header=HEADER,
            cpu_src="""
            int64 C = in0_shape1, P = (int64)in0_shape2*in0_shape3;
            #pragma omp parallel for
            for (int64 p = 0; p < in0_shape0*C; p++) {
                float s = in2_p[p % C];
                #pragma omp simd
                for (int64 i = p*P; i < p*P + P; i++) out_p[i] = in0_p[i] + s*in1_p[i];
            }
            """,
        )

    def grad(self, g: jt.Var) -> tuple[jt.Var, jt.Var, jt.Var]:
        branch, scale = self.saved
        d_branch, d_scale = jt.code(
            [branch.shape, [branch.shape[0], scale.shape[0]]],
            [branch.dtype] * 2,
            [branch, scale, g],
            cpu_header=HEADER,
            cpu_src="""
            int64 C = in0_shape1, P = (int64)in0_shape2*in0_shape3;
            const int64 B = 4096;
            #pragma omp parallel for
            for (int64 p = 0; p < in0_shape0*C; p++) {
                float s = in1_p[p % C];
                double all = 0;
                for (int64 from = p*P; from < p*P + P; from += B) {
                    float sum = 0;
                    #pragma omp simd reduction(+:sum)
                    for (int64 i = from; i < std::min(from + B, p*P + P); i++) {
                        out0_p[i] = s*in2_p[i];
                        sum += in0_p[i]*in2_p[i];
                    }
                    all += sum;
                }
                out1_p[p] = all;
            }
            """,
        )
        return g, d_branch, d_scale.sum(0)


class _PReLU(Function):
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


ERF = HEADER + source("erf.h")


_GATE = (
    CUDA_HEADER
    + """
// A piece is a sample. x: M values u, then M values v
static __global__ void gate(const float* x, float* y, int64_t M) {
    const float *u = x + blockIdx.x*(int64_t)2*M, *v = u + M;
    for OWN(i, M) y[blockIdx.x*(int64_t)M + i] = 0.5f*u[i]*(1.f + erff(u[i]*0.70710678f))*v[i];
}
static __global__ void gate_slope(const float* x, const float* g, float* dx, int64_t M) {
    x += blockIdx.x*(int64_t)2*M; dx += blockIdx.x*(int64_t)2*M; g += blockIdx.x*(int64_t)M;
    for OWN(i, M) {
        float u = x[i], v = x[M + i], c = 0.5f*(1.f + erff(u*0.70710678f));
        dx[i] = g[i]*v*(c + u*0.39894228f*expf(-0.5f*u*u));
        dx[M + i] = g[i]*u*c;
    }
}
"""
)


class _GeluGate(Function):
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
            cuda_header=_GATE,
            cuda_src="""
            int64_t M = (int64_t)out_shape1*in0_shape2*in0_shape3;
            gate<<<grid_for(in0_shape0, M), THREADS>>>(in0_p, out_p, M);
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
            cuda_header=_GATE,
            cuda_src="""
            int64_t M = (int64_t)in1_shape1*in0_shape2*in0_shape3;
            gate_slope<<<grid_for(in0_shape0, M), THREADS>>>(in0_p, in1_p, out_p, M);
            """,
        )
