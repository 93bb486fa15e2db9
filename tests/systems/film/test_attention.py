"""FILM's attention from a paragraph to an image."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jfusion.runtime import jt
from jfusion.systems.film import attention
from tests.ops.compare import arrays, assert_same, few, sizes


@pytest.fixture(autouse=True, scope="module")
def keep_float64():
    with jt.flag_scope(auto_convert_64_to_32=0):
        yield


@given(few, sizes, sizes, st.sampled_from([(1, 2), (2, 4)]))
@example(1, 40, 33, (2, 3))
@settings(max_examples=8)
def test_averaged_attention(n, t, s, heads_and_width):
    heads, d = heads_and_width
    inputs = arrays(6, (n, t, heads * d), (n, s, heads * d), (n, s, 5))
    assert_same(
        lambda *x: attention.averaged_attention(*x, heads),
        lambda *x: attention.averaged_attention_reference(*x, heads),
        inputs,
    )
