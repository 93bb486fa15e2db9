"""1x1 and depthwise convolutions in one kernel, and the gated feed-forward network."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jfusion.ops import expand
from jfusion.runtime import jt, nn
from tests.ops.compare import arrays, assert_same, few, sizes


@given(few, few, st.integers(1, 20), sizes, sizes)
@example(2, 3, 19, 130, 70)  # several bands of rows, an incomplete last group of channels
@settings(max_examples=8)
def test_expand_depthwise(n, c, d, h, w):
    inputs = arrays(12, (n, c, h, w), (d, c, 1, 1), (d, 1, 3, 3))
    assert_same(expand.expand_depthwise, expand.expand_depthwise_reference, inputs)


@given(few, few, st.integers(1, 20), few, sizes, sizes, st.booleans())
@example(2, 3, 19, 4, 130, 70, True)
@settings(max_examples=8)
def test_gated_feed_forward(n, c, d, o, h, w, adds):
    c += 1  # a single channel is normalized to zeros
    weights = (2 * d, c, 1, 1), (2 * d, 1, 3, 3), (o, d, 1, 1)
    added = [(n, o, h, w)] if adds else []

    def run(function):
        return lambda x, weight, bias, expand, depthwise, project, *added: function(
            x, (weight, bias), expand, depthwise, project, added=added[0] if added else None
        )

    assert_same(
        run(expand.gated_feed_forward),
        run(expand.gated_feed_forward_reference),
        arrays(13, (n, c, h, w), (c,), (c,), *weights, *added),
        3e-4,
    )


@given(few, few, st.integers(1, 9), few, sizes, sizes)
@example(1, 4, 17, 4, 130, 70)
@settings(max_examples=6)
def test_gated_feed_forward_in_groups_of_two_without_gradients(n, c, d, o, h, w):
    shapes = (n, c, h, w), (4 * d, c, 1, 1), (4 * d, 2, 3, 3), (o, 2 * d, 1, 1), (n, o, h, w)
    x, *weights, added = arrays(14, *shapes)
    with jt.no_grad():
        out = expand.gated_feed_forward(
            jt.array(x), None, *map(jt.array, weights), added=jt.array(added)
        )
        x, *weights, added = (jt.array(v.astype(np.float64)) for v in (x, *weights, added))
        hidden = nn.conv2d(nn.conv2d(x, weights[0]), weights[1], padding=1, groups=2 * d)
        first, second = hidden.chunk(2, 1)
        expected = nn.conv2d(nn.gelu(first) * second, weights[2]) + added
        by_parts = expand.gated_feed_forward_reference(x, None, *weights, added=added)
    scale = max(1.0, float(jt.abs(expected).max()))
    np.testing.assert_allclose(out.numpy(), expected.numpy(), rtol=0, atol=2e-5 * scale)
    np.testing.assert_allclose(by_parts.numpy(), expected.numpy(), rtol=0, atol=2e-5 * scale)


@given(few, few, st.integers(1, 40), few, st.integers(2, 19), st.integers(2, 19))
@example(1, 3, 35, 2, 130, 70)
@example(2, 3, 35, 2, 2, 2)
@settings(max_examples=6)
def test_bottleneck(n, c, d, o, h, w):
    inputs = arrays(15, (n, c, h, w), (d, c, 1, 1), (d, 1, 3, 3), (o, d, 1, 1))
    with jt.no_grad():
        out = expand.bottleneck(*map(jt.array, inputs))
        expected = expand.bottleneck_reference(*(jt.array(v.astype(np.float64)) for v in inputs))
    np.testing.assert_allclose(out.numpy(), expected.numpy(), rtol=0, atol=5e-5)
    assert_same(expand.bottleneck, expand.bottleneck_reference, inputs, 1e-4)
