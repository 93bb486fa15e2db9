"""Activations, the gate of a feed-forward, and the layer scale."""

from __future__ import annotations

from jfusion.errors import counted
from jfusion.ops.checks import check_divisible, check_float, check_shape
from jfusion.ops.kernels import Function, call_kernel, source, use_kernel
from jfusion.runtime import jt, nn


def prelu(x: jt.Var, slope: jt.Var) -> jt.Var:
    """PReLU: x where x > 0, otherwise slope * x, of any shape; slope (1,), one for all values."""
    check_float("prelu", x=x, slope=slope)
    check_shape("prelu", "slope", slope, (1,))
    kernel = use_kernel(x, slope, cuda=True)
    return _PReLU()(x, slope) if kernel else prelu_reference(x, slope)


def prelu_reference(x: jt.Var, slope: jt.Var) -> jt.Var:
    """`prelu` from stock Jittor."""
    return jt.ternary(x > 0, x, x * slope)


def gelu_gate(x: jt.Var) -> jt.Var:
    """The exact (erf) GELU of the first half of the channels, times the second half.

    x (N, 2C, H, W) -> (N, C, H, W).
    """
    check_float("gelu_gate", x=x)
    check_shape("gelu_gate", "x", x, ("N", "2C", "H", "W"))
    check_divisible("gelu_gate", "the channels of x", x.shape[1], 2)
    return _GeluGate()(x) if use_kernel(x, cuda=True) else gelu_gate_reference(x)


def gelu_gate_reference(x: jt.Var) -> jt.Var:
    """`gelu_gate` from stock Jittor."""
    half = x.shape[1] // 2
    return nn.gelu(x[:, :half]) * x[:, half:]


def squared_relu(x: jt.Var) -> jt.Var:
    """The square of ReLU, max(x, 0)^2, of any shape."""
    check_float("squared_relu", x=x)
    return _SquaredReLU()(x) if use_kernel(x, cuda=True) else squared_relu_reference(x)


def squared_relu_reference(x: jt.Var) -> jt.Var:
    """`squared_relu` from stock Jittor."""
    return jt.maximum(x, 0) ** 2


def star_relu(x: jt.Var, scale: jt.Var, bias: jt.Var) -> jt.Var:
    """StarReLU: scale * max(x, 0)^2 + bias, of any shape; scale and bias (1,) (Yu et al., 2022)."""
    check_float("star_relu", x=x, scale=scale, bias=bias)
    check_shape("star_relu", "scale", scale, (1,))
    check_shape("star_relu", "bias", bias, (1,))
    kernel = use_kernel(x, scale, bias)
    return _StarReLU()(x, scale, bias) if kernel else star_relu_reference(x, scale, bias)


def star_relu_reference(x: jt.Var, scale: jt.Var, bias: jt.Var) -> jt.Var:
    """`star_relu` from stock Jittor."""
    return squared_relu_reference(x) * scale + bias


def silu(x: jt.Var) -> jt.Var:
    """SiLU: x * sigmoid(x), of any shape."""
    check_float("silu", x=x)
    return _SiLU()(x) if use_kernel(x, cuda=True) else silu_reference(x)


def silu_reference(x: jt.Var) -> jt.Var:
    """`silu` from stock Jittor."""
    return x * jt.sigmoid(x)


def absolute(x: jt.Var) -> jt.Var:
    """The absolute value, of any shape, with gradient 0 at 0, as PyTorch's; Jittor's is 1 there."""
    check_float("absolute", x=x)
    sign = (x > 0).float32() - (x < 0).float32()
    return x * sign.stop_grad()


def tanh(x: jt.Var) -> jt.Var:
    """The hyperbolic tangent, of any shape. Jittor's has no gradient (NaN) where it is saturated."""
    check_float("tanh", x=x)
    return _Tanh()(x)


def relu6(x: jt.Var) -> jt.Var:
    """ReLU6: x clamped to [0, 6], of any shape."""
    check_float("relu6", x=x)
    return _ReLU6()(x) if use_kernel(x, cuda=True) else relu6_reference(x)


def relu6_reference(x: jt.Var) -> jt.Var:
    """`relu6` from stock Jittor."""
    return jt.clamp(x, 0, 6)


def add_scaled(x: jt.Var, branch: jt.Var, scale: jt.Var) -> jt.Var:
    """A layer scale: x + scale * branch; x and branch (N, C, H, W), scale (C,)."""
    check_float("add_scaled", x=x, branch=branch, scale=scale)
    check_shape("add_scaled", "x", x, ("N", "C", "H", "W"))
    check_shape("add_scaled", "branch", branch, x.shape, "as x is")
    check_shape(
        "add_scaled", "scale", scale, (x.shape[1],), f"for {counted(x.shape[1], 'channel')}"
    )
    kernel = use_kernel(x, branch, scale)
    return _AddScaled()(x, branch, scale) if kernel else add_scaled_reference(x, branch, scale)


def add_scaled_reference(x: jt.Var, branch: jt.Var, scale: jt.Var) -> jt.Var:
    """`add_scaled` from stock Jittor."""
    return x + branch * scale.reshape(1, -1, 1, 1)


def _elementwise(expression: str, *inputs: jt.Var, depends_on: jt.Var | None = None) -> jt.Var:
    """The C++ expression of x (and g), the values of the inputs at one place, for every place.

    Its text is made here and not in csrc/: there is one kernel for each expression.
    """
    names = "xg"[: len(inputs)]
    values = ", ".join(f"{name} = in{i}_p[i]" for i, name in enumerate(names))
    parameters = ", ".join(f"const float* in{i}_p" for i in range(len(names)))
    arguments = ", ".join(f"in{i}_p" for i in range(len(names)))
    return jt.code(
        inputs[0].shape,
        inputs[0].dtype,
        [*inputs, *([] if depends_on is None else [depends_on])],
        cpu_header=source("common.h"),
        cpu_src=f"""
        #pragma omp parallel for simd
        for (int64 i = 0; i < in0->num; i++) {{ float {values}; out_p[i] = {expression}; }}
        """,
        cuda_header=source("common.cuh")
        + f"""
static __global__ void elementwise({parameters}, float* out_p, int64_t n) {{
    CUDA_1D_KERNEL_LOOP(i, n) {{ float {values}; out_p[i] = {expression}; }}
}}
""",
        cuda_src=f"elementwise<<<grid_for(1, in0->num), THREADS>>>({arguments}, out_p, in0->num);",
    )


def copy(x: jt.Var, depends_on: jt.Var) -> jt.Var:
    """A copy of x, float32 and of any shape, once `depends_on` is there.

    What is computed from the copy is not computed before. There is no gradient.
    """
    check_float("copy", x=x)
    return _elementwise("x", x, depends_on=depends_on)


class _SquaredReLU(Function):
    def execute(self, x: jt.Var) -> jt.Var:
        self.saved = x
        return _elementwise("x > 0 ? x*x : 0.f", x)

    def grad(self, g: jt.Var) -> jt.Var:
        return _elementwise("x > 0 ? 2*x*g : 0.f", self.saved, g)


# with -Ofast a quotient by infinity is not 0 but NaN
_SIGMOID = "(1/(1 + expf(-fmaxf(x, -80.f))))"


class _SiLU(Function):
    def execute(self, x: jt.Var) -> jt.Var:
        self.saved = x
        return silu_forward(x)

    def grad(self, g: jt.Var) -> jt.Var:
        return silu_backward(self.saved, g)


def silu_forward(x: jt.Var, depends_on: jt.Var | None = None) -> jt.Var:
    """The kernel of `silu`, without a gradient; it waits for `depends_on` (see `call_kernel`)."""
    return _elementwise(f"x*{_SIGMOID}", x, depends_on=depends_on)


def silu_backward(x: jt.Var, g: jt.Var) -> jt.Var:
    """The gradient of `silu` at x, from g, the gradient of its result."""
    return _elementwise(f"g*{_SIGMOID}*(1 + x*(1 - {_SIGMOID}))", x, g)


class _Tanh(Function):
    def execute(self, x: jt.Var) -> jt.Var:
        self.saved = jt.tanh(x)
        return self.saved

    def grad(self, g: jt.Var) -> jt.Var:
        return g * (1 - self.saved * self.saved)


class _ReLU6(Function):
    def execute(self, x: jt.Var) -> jt.Var:
        self.saved = x
        return _elementwise("fminf(fmaxf(x, 0.f), 6.f)", x)

    def grad(self, g: jt.Var) -> jt.Var:
        return _elementwise("x > 0 && x < 6 ? g : 0.f", self.saved, g)


class _StarReLU(Function):
    def execute(self, x: jt.Var, scale: jt.Var, bias: jt.Var) -> jt.Var:
        self.saved = x, scale
        return call_kernel(
            "star_relu_forward(x_p, scale_p, bias_p, y_p, x->num)",
            {"x": x, "scale": scale, "bias": bias},
            {"y": x.shape},
            cpu="activation.h",
        )

    def grad(self, g: jt.Var) -> tuple[jt.Var, jt.Var, jt.Var]:
        x, scale = self.saved
        return call_kernel(
            "star_relu_backward(x_p, scale_p, g_p, d_x_p, d_scale_p, d_bias_p, x->num)",
            {"x": x, "scale": scale, "g": g},
            {"d_x": x.shape, "d_scale": [1], "d_bias": [1]},
            cpu="activation.h",
        )


class _AddScaled(Function):
    def execute(self, x: jt.Var, branch: jt.Var, scale: jt.Var) -> jt.Var:
        self.saved = branch, scale
        return call_kernel(
            "add_scaled_forward(x_p, branch_p, scale_p, y_p, x_shape0, x_shape1, x_shape2*x_shape3)",
            {"x": x, "branch": branch, "scale": scale},
            {"y": x.shape},
            cpu="activation.h",
        )

    def grad(self, g: jt.Var) -> tuple[jt.Var, jt.Var, jt.Var]:
        branch, scale = self.saved
        d_branch, d_scale = call_kernel(
            "add_scaled_backward(branch_p, scale_p, g_p, d_branch_p, d_scale_p, g_shape0, g_shape1,"
            " g_shape2*g_shape3)",
            {"branch": branch, "scale": scale, "g": g},
            {"d_branch": branch.shape, "d_scale": [branch.shape[0], scale.shape[0]]},
            cpu="activation.h",
        )
        return g, d_branch, d_scale.sum(0)


# A GPU's blocks that share PReLU's one sum: more than `num_blocks`, which are taken for each of many channels.
_SUM_BLOCKS = 512


class _PReLU(Function):
    def execute(self, x: jt.Var, slope: jt.Var) -> jt.Var:
        self.saved = x, slope
        return call_kernel(
            "prelu_forward(x_p, slope_p, y_p, x->num)",
            {"x": x, "slope": slope},
            {"y": x.shape},
            cpu="activation.h",
            cuda="prelu.cuh",
        )

    def grad(self, g: jt.Var) -> tuple[jt.Var, jt.Var]:
        x, slope = self.saved
        inputs = {"x": x, "slope": slope, "g": g}
        if not jt.flags.use_cuda:
            return call_kernel(
                "prelu_backward(x_p, slope_p, g_p, d_x_p, d_slope_p, x->num)",
                inputs,
                {"d_x": x.shape, "d_slope": slope.shape},
                cpu="activation.h",
            )
        d_x, parts = call_kernel(
            "prelu_backward(x_p, slope_p, g_p, d_x_p, parts_p, x->num, parts_shape0)",
            inputs,
            {"d_x": x.shape, "parts": [_SUM_BLOCKS]},
            cuda="prelu.cuh",
        )
        return d_x, parts.sum().reshape(1)


class _GeluGate(Function):
    def execute(self, x: jt.Var) -> jt.Var:
        self.saved = x
        n, c, h, w = x.shape
        return call_kernel(
            "gelu_gate_forward(x_p, y_p, x_shape0, (int64_t)y_shape1*y_shape2*y_shape3)",
            {"x": x},
            {"y": [n, c // 2, h, w]},
            cpu="activation.h",
            cuda="activation.cuh",
        )

    def grad(self, g: jt.Var) -> jt.Var:
        x = self.saved
        return call_kernel(
            "gelu_gate_backward(x_p, g_p, d_x_p, x_shape0, (int64_t)g_shape1*g_shape2*g_shape3)",
            {"x": x, "g": g},
            {"d_x": x.shape},
            cpu="activation.h",
            cuda="activation.cuh",
        )
