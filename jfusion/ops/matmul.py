"""Batched matrix product. Jittor's own is a naive loop on a CPU for more than two dimensions."""

from __future__ import annotations

from math import prod

from jfusion.errors import UserError
from jfusion.ops.checks import check_float, check_shape
from jfusion.ops.kernels import Function, call_kernel, use_kernel
from jfusion.runtime import jt


def matmul(a: jt.Var, b: jt.Var, ta: bool = False, tb: bool = False) -> jt.Var:
    """op(a) op(b) over the last two axes, where op transposes if `ta` / `tb` is set.

    a (..., M, K), b (..., K, N) before transposition, with equal leading axes -> (..., M, N). Raises
    UserError for other shapes, or inputs that are not both of one floating-point type.
    """
    check_float("matmul", a=a, b=b)
    if a.ndim < 2:
        raise UserError(f"matmul: a must be (..., M, K), not {tuple(a.shape)}")
    *lead, rows, columns = a.shape
    inner = rows if ta else columns
    axes = ("N", inner) if tb else (inner, "N")
    check_shape("matmul", "b", b, (*lead, *axes), f"for a of shape {tuple(a.shape)}")
    return _Matmul(ta, tb)(a, b) if use_kernel(a, b) else matmul_reference(a, b, ta, tb)


def matmul_reference(a: jt.Var, b: jt.Var, ta: bool = False, tb: bool = False) -> jt.Var:
    """`matmul` from stock Jittor: a (..., M, K), b (..., K, N) -> (..., M, N)."""
    if jt.flags.use_cuda and a.ndim == b.ndim and 0 not in (*a.shape, *b.shape):
        # cuBLAS needs no transposed copies, and Jittor would make those of two axes on the CPU
        batches = (v.reshape(1, *v.shape) if v.ndim == 2 else v for v in (a, b))
        out = jt.compile_extern.cublas_ops.cublas_batched_matmul(*batches, ta, tb)
        return out.reshape(out.shape[1:]) if a.ndim == 2 else out
    return jt.matmul(a.transpose(-1, -2) if ta else a, b.transpose(-1, -2) if tb else b)


def linear(x: jt.Var, weight: jt.Var, bias: jt.Var | None = None) -> jt.Var:
    """Computes x weight^T + bias: x (..., I), weight (O, I), bias (O,) -> (..., O).

    Raises UserError for other shapes, or inputs that are not all of one floating-point type.
    """
    inputs = (
        {"x": x, "weight": weight} if bias is None else {"x": x, "weight": weight, "bias": bias}
    )
    check_float("linear", **inputs)
    size = x.shape[-1]
    check_shape("linear", "weight", weight, ("O", size), f"for an input of {size} features")
    out = matmul(x.reshape(prod(x.shape[:-1]), size), weight, tb=True)
    if bias is not None:
        o = weight.shape[0]
        check_shape("linear", "bias", bias, (o,), f"for an output of {o} features")
        out = out + bias
    return out.reshape([*x.shape[:-1], weight.shape[0]])


class _Matmul(Function):
    def __init__(self, ta: bool, tb: bool):
        self.ta, self.tb = ta, tb

    def execute(self, a: jt.Var, b: jt.Var) -> jt.Var:
        self.saved = a, b
        return _product(a, b, self.ta, self.tb)

    def grad(self, g: jt.Var) -> tuple[jt.Var, jt.Var]:
        a, b = self.saved
        da = _product(b, g, self.tb, True) if self.ta else _product(g, b, False, not self.tb)
        db = _product(g, a, True, self.ta) if self.tb else _product(a, g, not self.ta, False)
        return da, db


def _product(a: jt.Var, b: jt.Var, ta: bool, tb: bool) -> jt.Var:
    *lead, rows, columns = a.shape
    m, k = (columns, rows) if ta else (rows, columns)
    n = b.shape[-2] if tb else b.shape[-1]
    return call_kernel(
        'matmul(a_p, b_p, y_p, data["batch"], data["m"], data["n"], data["k"], data["ta"], data["tb"])',
        {"a": a, "b": b},
        {"y": (*lead, m, n)},
        cpu="matmul.h",
        data={"batch": prod(lead), "m": m, "n": n, "k": k, "ta": ta, "tb": tb},
    )
