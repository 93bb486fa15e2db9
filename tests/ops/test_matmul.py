"""Batched matrix products."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jfusion.ops import matmul
from jfusion.runtime import jt
from tests.ops.compare import arrays, assert_same, few, sizes


@given(st.lists(few, max_size=2), sizes, sizes, sizes, st.booleans(), st.booleans())
@settings(max_examples=8)
def test_matmul(lead, m, k, n, ta, tb):
    a = (*lead, k, m) if ta else (*lead, m, k)
    b = (*lead, n, k) if tb else (*lead, k, n)
    assert_same(
        lambda x, y: matmul.matmul(x, y, ta, tb),
        lambda x, y: matmul.matmul_reference(x, y, ta, tb),
        arrays(8, a, b),
    )


def test_a_sum_of_nothing_is_zero():
    garbage = [jt.array(np.full(64, 9, np.float32)) for _ in range(40)]
    for each in garbage:
        each.sync()
    del garbage
    jt.gc()
    assert (matmul.matmul(jt.zeros((2, 0)), jt.zeros((0, 4))).numpy() == 0).all()
    assert (matmul.linear(jt.zeros((2, 0)), jt.zeros((4, 0))).numpy() == np.zeros((2, 4))).all()
    weight = jt.ones((4, 3))
    gradient = jt.grad(matmul.linear(jt.zeros((0, 3)), weight).sum(), weight)
    assert (gradient.numpy() == 0).all()
