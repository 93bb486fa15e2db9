"""Attention between pixels against its reference."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from jfusion.ops.pixel_attention import pixel_attention, pixel_attention_reference
from tests.ops.compare import arrays, assert_same, few, sizes


@given(few, st.sampled_from([1, 2]), few, sizes, sizes, st.booleans())
@example(2, 2, 3, 17, 16, True)  # more than two blocks of queries
@settings(max_examples=6)
def test_pixel_attention(n, heads, d, h, w, heads_first):
    assert_same(
        lambda qkv: pixel_attention(qkv, heads, heads_first),
        lambda qkv: pixel_attention_reference(qkv, heads, heads_first),
        arrays(24, (n, 3 * heads * d, h, w)),
    )
