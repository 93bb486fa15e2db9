"""Softmax over the last axis."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from jfusion.ops import softmax
from tests.ops.compare import arrays, assert_same, few, sizes


@given(st.lists(few, max_size=2), sizes, sizes)
@settings(max_examples=8)
def test_softmax(lead, rows, columns):
    assert_same(
        softmax.softmax,
        softmax.softmax_reference,
        [3 * x for x in arrays(7, (*lead, rows, columns))],
    )
