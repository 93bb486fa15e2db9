"""Batched matrix product. Jittor's own is a naive loop on a CPU for more than two dimensions."""

from __future__ import annotations

from jfusion.ops.kernels import HEADER, Function, use_kernel
from jfusion.runtime import jt


def matmul(a: jt.Var, b: jt.Var, ta: bool = False, tb: bool = False) -> jt.Var:
    """op(a) @ op(b) over the last two axes, where op transposes if `ta` / `tb`.

    a (..., M, K), b (..., K, N) before transposition, with equal leading axes.
    """
    return _Matmul(ta, tb)(a, b) if use_kernel(a, b) else plain_matmul(a, b, ta, tb)


def plain_matmul(a: jt.Var, b: jt.Var, ta: bool = False, tb: bool = False) -> jt.Var:
    """The same from stock Jittor."""
    if jt.flags.use_cuda and a.ndim == b.ndim > 2:  # without copies of what is transposed
        return jt.compile_extern.cublas_ops.cublas_batched_matmul(a, b, ta, tb)
    return jt.matmul(a.transpose(-1, -2) if ta else a, b.transpose(-1, -2) if tb else b)


def linear(x: jt.Var, weight: jt.Var, bias: jt.Var | None = None) -> jt.Var:
    """x (..., I), weight (O, I), bias (O,) -> (..., O): x weight^T + bias."""
    rows = x.reshape(-1, x.shape[-1])
    out = matmul(rows, weight, tb=True)
    if bias is not None:
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
    rows = a.shape[-1] if ta else a.shape[-2]
    columns = b.shape[-2] if tb else b.shape[-1]
    return jt.code(
        [*a.shape[:-2], rows, columns],
        a.dtype,
        [a, b],
        cpu_header=HEADER,
        data={"ta": int(ta), "tb": int(tb)},
        cpu_src="""
        int d = in0->shape.size(), ta = data["ta"], tb = data["tb"];
        int64 batch = 1;
        for (int i = 0; i < d - 2; i++) batch *= in0->shape[i];
        int64 ra = in0->shape[d-2], ca = in0->shape[d-1], rb = in1->shape[d-2], cb = in1->shape[d-1];
        int64 M = ta ? ca : ra, K = ta ? ra : ca, N = tb ? rb : cb;
        auto one = [&](int64 i) {
            dnnl_sgemm(ta ? 'T' : 'N', tb ? 'T' : 'N', M, N, K, 1.f, in0_p + i*ra*ca, ca,
                       in1_p + i*rb*cb, cb, 0.f, out_p + i*M*N, N);
        };
        if (batch >= omp_get_max_threads()) {
            #pragma omp parallel for schedule(dynamic, 1)
            for (int64 i = 0; i < batch; i++) one(i);
        } else for (int64 i = 0; i < batch; i++) one(i);
        """,
    )
