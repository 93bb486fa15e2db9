"""Group normalization, with and without SiLU."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings

from jfusion.ops import group_norm
from jfusion.runtime import jt
from tests.ops.compare import arrays, assert_same, few, sizes


@given(few, few, few, sizes, sizes)
@example(2, 2, 2, 70, 61)
@settings(max_examples=8)
def test_group_norm(n, groups, k, h, w):
    h += 1  # a single value is normalized to zero
    inputs = arrays(14, (n, groups * k, h, w), (groups * k,), (groups * k,))
    assert_same(
        lambda x, *rest: group_norm.group_norm(x, groups, *rest),
        lambda x, *rest: group_norm.group_norm_reference(x, groups, *rest),
        inputs,
        3e-4,
    )


def test_silu_after_a_norm_is_finite_for_large_values():
    x = jt.array(np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 4, 4, 4))
    y = group_norm.group_norm(x, 2, jt.ones(4) * 1e3, jt.zeros(4), silu=True)
    assert np.isfinite(y.numpy()).all() and np.isfinite(jt.grad(y.sum(), x).numpy()).all()
