"""The displacement field of Diff-FCCF for a pair of images, as `jfusion align` uses it."""

from __future__ import annotations

import numpy as np

from jfusion.data import color
from jfusion.ops.resize import pad_to_multiple
from jfusion.runtime import jt
from jfusion.systems.fccf.network import Denoiser


def displacement_field(network: Denoiser, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The displacement that the network predicts for b: (H, W, 2) float32 in pixels, x first, in (0, 1).

    a, b (H, W, 3) uint8: the structural and the functional image. The network sees their lumas at the
    last time step, both as conditions and, without noise, as the noisy images. (This use is ours; in
    training the field is that of a random time step.)
    """
    s, f = color.gray_by_pillow(a), color.ycrcb(b)[..., 0].astype(np.float32)
    x = jt.array(np.stack([s, f, s, f])[None] / np.float32(127.5) - 1)
    with jt.no_grad():
        output = network(pad_to_multiple(x, 8, "symmetric"), np.zeros(1, int))
        return output.field.numpy()[0, : a.shape[0], : a.shape[1]]
