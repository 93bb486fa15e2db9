"""Warping by a displacement field, against the authors' numbers."""

from __future__ import annotations

import numpy as np

from jfusion.data import alignment
from jfusion.runtime import jt
from jfusion.systems.fccf.warp import warp
from tests.systems.fccf.golden import arrays, close


def test_warping_and_its_gradients(golden):
    z = arrays(golden, "warp")
    x, field = jt.array(z["image"]), jt.array(z["field"])
    out = warp(x, field)
    close(out, z["warped"], 1e-5)
    close(warp(x, jt.array(z["unit_field"])), z["unit_warped"], 1e-5)
    d_image, d_field = jt.grad((out * jt.array(z["w"])).sum(), [x, field])
    close(d_image, z["d_image"], 1e-5)
    close(d_field, z["d_field"], 1e-4)


def test_images_are_warped_alike_without_jittor(golden):
    z = arrays(golden, "warp")
    for image, field, expected in zip(z["image"], z["field"], z["warped"], strict=True):
        moved = alignment.warp(np.moveaxis(image, 0, 2), field)
        close(np.moveaxis(moved, 2, 0), expected, 1e-5)
