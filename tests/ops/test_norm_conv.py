"""GroupNorm, SiLU, dropout and a convolution in one."""

from __future__ import annotations

import numpy as np
import pytest

from jfusion.ops import conv, group_norm, norm_conv
from jfusion.runtime import jt
from tests.ops.compare import arrays


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_norm_silu_dropout_and_convolution_in_one_are_the_four_after_each_other(share):
    shapes = (2, 4, 5, 6), (4,), (4,), (6, 4, 3, 3), (6,)
    x, scale, shift, w, b = (jt.array(v) for v in arrays(5, *shapes))
    weights = jt.array(arrays(6, (2, 6, 5, 6))[0])
    jt.set_global_seed(3)
    ours = norm_conv.norm_silu_conv(x, 2, (scale, shift), (w, b), share)
    ours.sync()
    jt.set_global_seed(3)
    kept = norm_conv.dropout(jt.ones(x.shape), jt.rand(1), share)
    kept.sync()
    y = group_norm.group_norm_reference(x, 2, scale.reshape(1, -1), shift.reshape(1, -1), silu=True)
    plain = conv.conv_reference(y * kept.detach(), w, b)
    np.testing.assert_allclose(ours.numpy(), plain.numpy(), atol=1e-5)
    inputs = [x, scale, shift, w, b]
    found = [jt.grad((v * weights).sum(), inputs) for v in (ours, plain)]
    for mine, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), atol=2e-4)


def test_dropout_drops_its_share_and_keeps_the_mean():
    x, seeds = jt.ones(200, 500), [jt.array(np.float32([v])) for v in (0.25, 0.5)]
    first, again, other = (norm_conv.dropout(x, s, 0.1).numpy() for s in (*seeds[:1] * 2, seeds[1]))
    np.testing.assert_array_equal(first, again)
    assert set(np.unique(first)) == {np.float32(0), np.float32(1 / 0.9)}
    for made in (first, other):
        assert abs((made == 0).mean() - 0.1) < 0.005
        assert abs((made == 0).mean(0) - 0.1).max() < 0.1  # no columns
    both = ((first == 0) & (other == 0)).mean()
    assert abs(both - 0.01) < 0.003  # two seeds have nothing to do with each other
