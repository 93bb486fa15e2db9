"""Batched matrix products."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from jfusion.ops import matmul
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
