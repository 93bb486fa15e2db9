"""Softmax over the last axis."""

from __future__ import annotations

from jfusion.errors import UserError
from jfusion.ops.checks import check_float
from jfusion.ops.kernels import Function, call_kernel, use_kernel
from jfusion.runtime import jt


def softmax(x: jt.Var) -> jt.Var:
    """Softmax over the last axis, of any shape."""
    check_float("softmax", x=x)
    if not x.shape[-1]:
        raise UserError(f"softmax: x must have values on its last axis, not {tuple(x.shape)}")
    return _Softmax()(x) if use_kernel(x, cuda=True) else softmax_reference(x)


def softmax_reference(x: jt.Var) -> jt.Var:
    """`softmax` from stock Jittor, whose sums over thousands of values lose two digits in float32."""
    e = jt.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class _Softmax(Function):
    def execute(self, x: jt.Var) -> jt.Var:
        self.saved = softmax_forward(x)
        return self.saved

    def grad(self, g: jt.Var) -> jt.Var:
        return call_kernel(
            "softmax_backward(y_p, g_p, d_x_p, y->num, y->shape[y->shape.size() - 1])",
            {"y": self.saved, "g": g},
            {"d_x": g.shape},
            cpu="softmax.h",
            cuda="softmax.cuh",
        )


def softmax_forward(x: jt.Var) -> jt.Var:
    """The kernel of `softmax`, without a gradient."""
    return call_kernel(
        "softmax_forward(x_p, y_p, x->num, x->shape[x->shape.size() - 1])",
        {"x": x},
        {"y": x.shape},
        cpu="softmax.h",
        cuda="softmax.cuh",
    )
