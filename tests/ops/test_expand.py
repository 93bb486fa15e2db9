"""1x1 and depthwise convolutions in one kernel, and the gated feed-forward network."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from jfusion.ops import expand
from tests.ops.compare import arrays, assert_same, few, sizes


@given(few, few, st.integers(1, 20), sizes, sizes)
@example(2, 3, 19, 130, 70)  # several bands of rows, an incomplete last group of channels
@settings(max_examples=8)
def test_expand_depthwise(n, c, d, h, w):
    inputs = arrays(12, (n, c, h, w), (d, c, 1, 1), (d, 1, 3, 3))
    assert_same(expand.expand_depthwise, expand.expand_depthwise_reference, inputs)


@given(few, few, st.integers(1, 20), few, sizes, sizes)
@example(2, 3, 19, 4, 130, 70)
@settings(max_examples=8)
def test_gated_feed_forward(n, c, d, o, h, w):
    c += 1  # a single channel is normalized to zeros
    weights = (2 * d, c, 1, 1), (2 * d, 1, 3, 3), (o, d, 1, 1)
    assert_same(
        lambda x, w, b, *rest: expand.gated_feed_forward(x, (w, b), *rest),
        lambda x, w, b, *rest: expand.gated_feed_forward_reference(x, (w, b), *rest),
        arrays(13, (n, c, h, w), (c,), (c,), *weights),
        3e-4,
    )
