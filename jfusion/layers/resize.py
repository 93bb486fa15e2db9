"""Resizing of feature maps."""

from __future__ import annotations

import numpy as np

from jfusion.layers.cpu import HEADER, use_kernel
from jfusion.runtime import jt


def nearest_index(n: int, m: int) -> np.ndarray:
    """The source index of each of m outputs from n samples, int32: PyTorch's nearest mode.

    The reference multiplies in float32, which for some sizes is one off the exact floor(i*n/m).
    """
    step = np.float32(n) / np.float32(m)
    index = np.floor(np.arange(m, dtype=np.float32) * step).astype(np.int32)
    return np.minimum(index, n - 1)


def nearest(x: jt.Var, height: int, width: int) -> jt.Var:
    """x (N, C, H, W) -> (N, C, height, width), each pixel a copy of the nearest one above-left."""
    h, w = x.shape[2:]
    if (h, w) == (height, width):
        return x
    rows, columns = jt.array(nearest_index(h, height)), jt.array(nearest_index(w, width))
    rows.stop_grad(), columns.stop_grad()
    return _Nearest()(x, rows, columns) if use_kernel(x) else plain_nearest(x, rows, columns)


def plain_nearest(x: jt.Var, rows: jt.Var, columns: jt.Var) -> jt.Var:
    """The same from stock Jittor, by the indices of the source rows and columns."""
    return x[:, :, rows, :][:, :, :, columns]


class _Nearest(jt.Function):
    def execute(self, x: jt.Var, rows: jt.Var, columns: jt.Var) -> jt.Var:
        self.saved = x.shape, rows, columns
        return jt.code(
            [*x.shape[:2], rows.shape[0], columns.shape[0]],
            x.dtype,
            [x, rows, columns],
            cpu_header=HEADER,
            cpu_src="""
            int64 planes = (int64)in0_shape0*in0_shape1, h = in0_shape2, w = in0_shape3;
            int64 H = in1_shape0, W = in2_shape0;
            #pragma omp parallel for
            for (int64 p = 0; p < planes; p++) for (int64 i = 0; i < H; i++) {
                const float* x = in0_p + (p*h + in1_p[i])*w;
                float* y = out_p + (p*H + i)*W;
                if (i && in1_p[i] == in1_p[i-1]) std::copy(y - W, y, y);
                else for (int64 j = 0; j < W; j++) y[j] = x[in2_p[j]];
            }
            """,
        )

    def grad(self, g: jt.Var) -> tuple[jt.Var, None, None]:
        shape, rows, columns = self.saved
        dx = jt.code(
            shape,
            g.dtype,
            [g, rows, columns],
            cpu_header=HEADER,
            cpu_src="""
            int64 planes = (int64)out_shape0*out_shape1, h = out_shape2, w = out_shape3;
            int64 H = in1_shape0, W = in2_shape0;
            #pragma omp parallel for
            for (int64 p = 0; p < planes; p++) {
                std::fill(out_p + p*h*w, out_p + (p+1)*h*w, 0.f);
                for (int64 i = 0; i < H; i++) {
                    float* x = out_p + (p*h + in1_p[i])*w;
                    const float* y = in0_p + (p*H + i)*W;
                    for (int64 j = 0; j < W; j++) x[in2_p[j]] += y[j];
                }
            }
            """,
        )
        return dx, None, None
