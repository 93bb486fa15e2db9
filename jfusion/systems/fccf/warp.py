"""Warping an image by a displacement field."""

from __future__ import annotations

import numpy as np

from jfusion.runtime import jt


def warp(image: jt.Var, field: jt.Var) -> jt.Var:
    """out(y, x) = image(y + field_y, x + field_x), bilinear; a corner outside the image counts as 0.

    image (N, C, H, W); field (N, H, W, 2) in pixels, x first -> (N, C, H, W). Gradients flow to both.
    """
    n, c, h, w = image.shape
    rows = jt.array(np.arange(h, dtype=np.float32).reshape(1, h, 1)) + field[..., 1]
    columns = jt.array(np.arange(w, dtype=np.float32).reshape(1, 1, w)) + field[..., 0]
    top, left = (jt.floor(v).detach() for v in (rows, columns))
    out = 0
    for dy in (0, 1):
        for dx in (0, 1):
            y, x = top + dy, left + dx
            weight = (1 - jt.abs(rows - y)) * (1 - jt.abs(columns - x))
            inside = (y >= 0).logical_and(y <= h - 1).logical_and(x >= 0).logical_and(x <= w - 1)
            corner = [jt.clamp(v, 0, m - 1).int32() for v, m in ((y, h), (x, w))]
            values = image.reindex(
                [n, c, h, w], ["i0", "i1", "@e0(i0,i2,i3)", "@e1(i0,i2,i3)"], extras=corner
            )
            out = out + values * (weight * inside.float32()).reshape(n, 1, h, w)
    return out
