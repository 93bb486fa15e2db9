"""Resizing and padding of feature maps."""

from __future__ import annotations

import numpy as np

from jfusion.ops.kernels import HEADER, Function, use_kernel
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
    return _gather(x, nearest_index(h, height), nearest_index(w, width))


def pad(x: jt.Var, reach: int, mode: str) -> jt.Var:
    """x (N, C, H, W) -> (N, C, H + 2 reach, W + 2 reach).

    mode "reflect" mirrors about the border pixel, which needs more than `reach` pixels a side;
    "edge" repeats it.
    """
    rows, columns = (np.pad(np.arange(n, dtype=np.int32), reach, mode=mode) for n in x.shape[2:])
    return _gather(x, rows, columns)


def pad_to_multiple(x: jt.Var, multiple: int, mode: str) -> jt.Var:
    """Pads (N, C, H, W) on the right and below, until both sides are multiples.

    mode "reflect" mirrors about the border pixel, "symmetric" about its edge.
    """
    sides = x.shape[2:]
    if not any(n % multiple for n in sides):
        return x
    indices = (np.pad(np.arange(n, dtype=np.int32), (0, -n % multiple), mode) for n in sides)
    return _gather(x, *indices)


def _gather(x: jt.Var, rows: np.ndarray, columns: np.ndarray) -> jt.Var:
    rows, columns = jt.array(rows).stop_grad(), jt.array(columns).stop_grad()
    return _Gather()(x, rows, columns) if use_kernel(x) else plain_gather(x, rows, columns)


def plain_gather(x: jt.Var, rows: jt.Var, columns: jt.Var) -> jt.Var:
    """From stock Jittor: the pixels at the given source rows and columns."""
    return x[:, :, rows, :][:, :, :, columns]


class _Gather(Function):
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


def bilinear(x: jt.Var, height: int, width: int, align_corners: bool = False) -> jt.Var:
    """x (N, C, H, W) -> (N, C, height, width), as PyTorch's interpolate with a given size."""
    h, w = x.shape[2:]
    if (h, w) == (height, width):
        return x
    if not use_kernel(x):
        return plain_bilinear(x, height, width, align_corners)
    taps = [
        jt.array(t) for t in (*_taps(h, height, align_corners), *_taps(w, width, align_corners))
    ]
    for tap in taps:
        tap.stop_grad()
    return _Bilinear()(x, *taps)


def plain_bilinear(x: jt.Var, height: int, width: int, align_corners: bool = False) -> jt.Var:
    """The same from stock Jittor: a gather and a weighted sum per axis."""
    for axis, size in ((2, height), (3, width)):
        low, high, part = (jt.array(t) for t in _taps(x.shape[axis], size, align_corners))
        part = part.cast(x.dtype).reshape([-1] + [1] * (3 - axis))
        first, second = (x[:, :, i] if axis == 2 else x[:, :, :, i] for i in (low, high))
        x = first + (second - first) * part
    return x


def _taps(n: int, m: int, align_corners: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of m outputs from n samples: the two source indices, and the weight of the second."""
    out = np.arange(m, dtype=np.float32)
    if align_corners:
        place = out * np.float32((n - 1) / (m - 1) if m > 1 else 0)
    else:
        place = np.maximum((out + np.float32(0.5)) * np.float32(n / m) - np.float32(0.5), 0)
    low = np.minimum(place.astype(np.int32), n - 1)
    return low, np.minimum(low + 1, n - 1), (place - low).astype(np.float32)


class _Bilinear(Function):
    def execute(self, x: jt.Var, *taps: jt.Var) -> jt.Var:
        self.saved = x.shape, taps
        return jt.code(
            [*x.shape[:2], taps[0].shape[0], taps[3].shape[0]],
            x.dtype,
            [x, *taps],
            cpu_header=HEADER,
            cpu_src="""
            int64 planes = (int64)in0_shape0*in0_shape1, h = in0_shape2, w = in0_shape3;
            int64 H = in1_shape0, W = in4_shape0;
            #pragma omp parallel
            {
                std::vector<float> t(w);
                #pragma omp for
                for (int64 p = 0; p < planes; p++) for (int64 i = 0; i < H; i++) {
                    const float *a = in0_p + (p*h + in1_p[i])*w, *b = in0_p + (p*h + in2_p[i])*w;
                    float f = in3_p[i], *y = out_p + (p*H + i)*W;
                    for (int64 j = 0; j < w; j++) t[j] = a[j] + f*(b[j] - a[j]);
                    for (int64 j = 0; j < W; j++) y[j] = t[in4_p[j]] + in6_p[j]*(t[in5_p[j]] - t[in4_p[j]]);
                }
            }
            """,
        )

    def grad(self, g: jt.Var) -> tuple[jt.Var | None, ...]:
        shape, taps = self.saved
        dx = jt.code(
            shape,
            g.dtype,
            [g, *taps],
            cpu_header=HEADER,
            cpu_src="""
            int64 planes = (int64)out_shape0*out_shape1, h = out_shape2, w = out_shape3;
            int64 H = in1_shape0, W = in4_shape0;
            #pragma omp parallel
            {
                std::vector<float> t(w);
                #pragma omp for
                for (int64 p = 0; p < planes; p++) {
                    std::fill(out_p + p*h*w, out_p + (p+1)*h*w, 0.f);
                    for (int64 i = 0; i < H; i++) {
                        const float* g = in0_p + (p*H + i)*W;
                        std::fill(t.begin(), t.end(), 0.f);
                        for (int64 j = 0; j < W; j++) {
                            t[in4_p[j]] += (1 - in6_p[j])*g[j];
                            t[in5_p[j]] += in6_p[j]*g[j];
                        }
                        float f = in3_p[i], *a = out_p + (p*h + in1_p[i])*w, *b = out_p + (p*h + in2_p[i])*w;
                        for (int64 j = 0; j < w; j++) a[j] += (1 - f)*t[j];
                        for (int64 j = 0; j < w; j++) b[j] += f*t[j];
                    }
                }
            }
            """,
        )
        return dx, *[None] * 6
