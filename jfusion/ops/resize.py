"""Resizing and padding of feature maps."""

from __future__ import annotations

import numpy as np

from jfusion.errors import UserError
from jfusion.ops.checks import check_count, check_float, check_shape
from jfusion.ops.kernels import Function, call_kernel, use_kernel
from jfusion.runtime import jt


def nearest_index(n: int, m: int) -> np.ndarray:
    """The source index of each of m outputs from n samples, int32: PyTorch's nearest mode.

    The reference multiplies in float32, which for some sizes is one off the exact floor(i*n/m).
    """
    step = np.float32(n) / np.float32(m)
    index = np.floor(np.arange(m, dtype=np.float32) * step).astype(np.int32)
    return np.minimum(index, n - 1)


def nearest(x: jt.Var, height: int, width: int) -> jt.Var:
    """Resizes x (N, C, H, W) to (N, C, height, width); a pixel is a copy of the nearest one above-left."""
    _check_resize("nearest", x, height, width)
    h, w = x.shape[2:]
    if (h, w) == (height, width):
        return x
    return gather(x, nearest_index(h, height), nearest_index(w, width))


def pad(x: jt.Var, padding: int, mode: str) -> jt.Var:
    """Pads x (N, C, H, W) on every side, to (N, C, H + 2 padding, W + 2 padding).

    mode "reflect" mirrors about the border pixel, which needs more than `padding` pixels a side;
    "edge" repeats it.
    """
    _check_map("pad", x)
    if mode not in ("reflect", "edge"):
        raise UserError(f"pad: mode must be 'reflect' or 'edge', not {mode!r}")
    check_count("pad", "padding", padding, least=0)
    if mode == "reflect" and padding >= min(x.shape[2:]):
        raise UserError(
            f"pad: padding must be 0 to {min(x.shape[2:]) - 1} to reflect an x of {tuple(x.shape)}, not "
            f"{padding}"
        )
    rows, columns = (np.pad(np.arange(n, dtype=np.int32), padding, mode=mode) for n in x.shape[2:])
    return gather(x, rows, columns)


def pad_to_multiple(x: jt.Var, multiple: int, mode: str) -> jt.Var:
    """Pads x (N, C, H, W) on the right and below, until both sides are multiples.

    mode "reflect" mirrors about the border pixel, "symmetric" about its edge.
    """
    _check_map("pad_to_multiple", x)
    if mode not in ("reflect", "symmetric"):
        raise UserError(f"pad_to_multiple: mode must be 'reflect' or 'symmetric', not {mode!r}")
    check_count("pad_to_multiple", "multiple", multiple)
    sides = x.shape[2:]
    if not any(n % multiple for n in sides):
        return x
    indices = (np.pad(np.arange(n, dtype=np.int32), (0, -n % multiple), mode) for n in sides)
    return gather(x, *indices)


def _check_map(op: str, x: jt.Var) -> None:
    check_float(op, x=x)
    check_shape(op, "x", x, ("N", "C", "H", "W"))
    if 0 in x.shape:
        raise UserError(f"{op}: x must have pixels, not {tuple(x.shape)}")


def _check_resize(op: str, x: jt.Var, height: int, width: int) -> None:
    _check_map(op, x)
    check_count(op, "height", height)
    check_count(op, "width", width)


def gather(x: jt.Var, rows: np.ndarray, columns: np.ndarray) -> jt.Var:
    """The rows and columns of x (N, C, H, W) by their indices, int32: (N, C, len(rows), len(columns))."""
    rows, columns = jt.array(rows).stop_grad(), jt.array(columns).stop_grad()
    return _Gather()(x, rows, columns) if use_kernel(x) else gather_reference(x, rows, columns)


def gather_reference(x: jt.Var, rows: jt.Var, columns: jt.Var) -> jt.Var:
    """The pixels of x (N, C, H, W) at the given source rows and columns, from stock Jittor."""
    return x[:, :, rows, :][:, :, :, columns]


class _Gather(Function):
    def execute(self, x: jt.Var, rows: jt.Var, columns: jt.Var) -> jt.Var:
        self.saved = x.shape, rows, columns
        return call_kernel(
            "gather_forward(x_p, rows_p, columns_p, y_p, (int64_t)x_shape0*x_shape1, x_shape2, x_shape3,"
            " y_shape2, y_shape3)",
            {"x": x, "rows": rows, "columns": columns},
            {"y": [*x.shape[:2], rows.shape[0], columns.shape[0]]},
            cpu="resize.h",
        )

    def grad(self, g: jt.Var) -> tuple[jt.Var, None, None]:
        shape, rows, columns = self.saved
        d_x = call_kernel(
            "gather_backward(g_p, rows_p, columns_p, d_x_p, (int64_t)g_shape0*g_shape1, d_x_shape2,"
            " d_x_shape3, g_shape2, g_shape3)",
            {"g": g, "rows": rows, "columns": columns},
            {"d_x": shape},
            cpu="resize.h",
        )
        return d_x, None, None


def bilinear(x: jt.Var, height: int, width: int, align_corners: bool = False) -> jt.Var:
    """Resizes x (N, C, H, W) to (N, C, height, width), as PyTorch's interpolate with a given size."""
    _check_resize("bilinear", x, height, width)
    h, w = x.shape[2:]
    if (h, w) == (height, width):
        return x
    if not use_kernel(x):
        return bilinear_reference(x, height, width, align_corners)
    rows, columns = _samples(h, height, align_corners), _samples(w, width, align_corners)
    return _Bilinear()(x, *(jt.array(v).stop_grad() for v in (*rows, *columns)))


def bilinear_reference(x: jt.Var, height: int, width: int, align_corners: bool = False) -> jt.Var:
    """`bilinear` from stock Jittor: a gather and a weighted sum for each axis."""
    for axis, size in ((2, height), (3, width)):
        low, high, fraction = (jt.array(v) for v in _samples(x.shape[axis], size, align_corners))
        fraction = fraction.cast(x.dtype).reshape([-1] + [1] * (3 - axis))
        first, second = (x[:, :, i] if axis == 2 else x[:, :, :, i] for i in (low, high))
        x = first + (second - first) * fraction
    return x


def _samples(n: int, m: int, align_corners: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of m outputs from n samples: the two source indices, and the weight of the second."""
    out = np.arange(m, dtype=np.float32)
    if align_corners:
        position = out * np.float32((n - 1) / (m - 1) if m > 1 else 0)
    else:
        position = np.maximum((out + np.float32(0.5)) * np.float32(n / m) - np.float32(0.5), 0)
    low = np.minimum(position.astype(np.int32), n - 1)
    return low, np.minimum(low + 1, n - 1), (position - low).astype(np.float32)


_SAMPLES = ("low_row", "high_row", "row_fraction", "low_column", "high_column", "column_fraction")
_AXES = "{low_row_p, high_row_p, row_fraction_p}, {low_column_p, high_column_p, column_fraction_p}"


class _Bilinear(Function):
    def execute(self, x: jt.Var, *samples: jt.Var) -> jt.Var:
        self.saved = x.shape, dict(zip(_SAMPLES, samples, strict=True))
        return call_kernel(
            f"bilinear_forward(x_p, {_AXES}, y_p, (int64_t)x_shape0*x_shape1, x_shape2, x_shape3,"
            " y_shape2, y_shape3)",
            {"x": x, **self.saved[1]},
            {"y": [*x.shape[:2], samples[0].shape[0], samples[3].shape[0]]},
            cpu="resize.h",
        )

    def grad(self, g: jt.Var) -> tuple[jt.Var | None, ...]:
        shape, samples = self.saved
        d_x = call_kernel(
            f"bilinear_backward(g_p, {_AXES}, d_x_p, (int64_t)g_shape0*g_shape1, d_x_shape2, d_x_shape3,"
            " g_shape2, g_shape3)",
            {"g": g, **samples},
            {"d_x": shape},
            cpu="resize.h",
        )
        return d_x, *[None] * 6
