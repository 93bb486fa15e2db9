"""GroupNorm, SiLU, dropout and a convolution in one."""

from __future__ import annotations

import numpy as np
import pytest

from jfusion.ops import conv, group_norm, norm_conv
from jfusion.runtime import jt
from tests.ops.compare import arrays


@pytest.mark.parametrize("probability", [0.0, 0.3])
def test_norm_silu_conv_equals_norm_silu_dropout_and_conv_in_turn(probability):
    shapes = (2, 4, 5, 6), (4,), (4,), (6, 4, 3, 3), (6,)
    x, scale, shift, w, b = (jt.array(v) for v in arrays(5, *shapes))
    weights = jt.array(arrays(6, (2, 6, 5, 6))[0])
    jt.set_global_seed(3)
    y_fused = norm_conv.norm_silu_conv(x, 2, (scale, shift), (w, b), probability)
    y_fused.sync()
    jt.set_global_seed(3)
    mask = norm_conv.dropout(jt.ones(x.shape), jt.rand(1), probability)
    mask.sync()
    y = group_norm.group_norm_reference(x, 2, scale.reshape(1, -1), shift.reshape(1, -1), silu=True)
    reference = conv.conv_reference(y * mask.detach(), w, b)
    np.testing.assert_allclose(y_fused.numpy(), reference.numpy(), atol=1e-5)
    inputs = [x, scale, shift, w, b]
    gradients = [jt.grad((v * weights).sum(), inputs) for v in (y_fused, reference)]
    for actual, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(actual.numpy(), expected.numpy(), atol=2e-4)


def test_dropout_drops_with_its_probability_and_keeps_the_mean():
    x, seeds = jt.ones(200, 500), [jt.array(np.float32([v])) for v in (0.25, 0.5)]
    first, again, other = (norm_conv.dropout(x, s, 0.1).numpy() for s in (*seeds[:1] * 2, seeds[1]))
    np.testing.assert_array_equal(first, again)
    assert set(np.unique(first)) == {np.float32(0), np.float32(1 / 0.9)}
    for y in (first, other):
        assert abs((y == 0).mean() - 0.1) < 0.005
        assert abs((y == 0).mean(0) - 0.1).max() < 0.1  # no columns
    both = ((first == 0) & (other == 0)).mean()
    assert abs(both - 0.01) < 0.003  # two seeds choose independently
