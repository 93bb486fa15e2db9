"""LayerNorm2d; tests/ops/test_norm.py has its operator."""

from __future__ import annotations

import numpy as np

from jfusion.layers.norm import LayerNorm2d
from jfusion.runtime import jt


def test_each_pixel_is_normalized_over_its_channels():
    x = np.random.default_rng(0).standard_normal((2, 8, 5, 3)).astype(np.float32)
    norm = LayerNorm2d(8)
    y = norm(jt.array(x)).numpy()
    np.testing.assert_allclose(y.mean(1), 0, atol=1e-6)
    np.testing.assert_allclose(y.var(1), 1, atol=1e-3)
    weight, bias = norm.pair()
    assert (weight.numpy() == 1).all() and (bias.numpy() == 0).all()
    weight.update(weight * 2)
    bias.update(bias + 3)
    np.testing.assert_allclose(norm(jt.array(x)).numpy(), 2 * y + 3, atol=1e-5)
