"""Attention between channels against stock operations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jfusion.ops import channel_attention
from jfusion.runtime import jt
from tests.ops.compare import arrays, assert_same, few, sizes


@given(few, st.sampled_from([(1, 1), (2, 3), (4, 4)]), sizes, sizes)
@example(1, (2, 4), 70, 61)
@settings(max_examples=8)
def test_channel_attention(n, heads_and_width, h, w):
    heads, d = heads_and_width
    width = 3 * heads * d
    inputs = arrays(5, (n, 4, h, w), (4,), (4,), (width, 4, 1, 1), (width, 1, 3, 3), (heads, 1, 1))

    def call(function):
        return lambda x, w, b, *rest: function(x, (w, b), *rest)

    kernel, reference = (
        call(channel_attention.channel_attention),
        call(channel_attention.channel_attention_reference),
    )
    tolerance = 1e-3 if h * w < 9 else 3e-4  # a few pixels: norms near zero
    assert_same(lambda *x: kernel(*x)[0], lambda *x: reference(*x)[0], inputs, tolerance)
    out, weights = (v.numpy() for v in kernel(*map(jt.array, inputs)))
    _, expected = (v.numpy() for v in reference(*map(jt.array, inputs)))
    np.testing.assert_allclose(weights, expected, atol=1e-4)
    assert out.shape == (n, heads * d, h, w)


@given(few, st.sampled_from([1, 2]), few, sizes, sizes)
@settings(max_examples=8)
def test_cosine_attention(n, heads, d, h, w):
    qkv, temperature = arrays(0, (n, 3 * heads * d, h, w), (heads, 1, 1))
    assert_same(
        channel_attention.cosine_attention,
        lambda *x: channel_attention.cosine_attention_reference(*x)[0],
        [qkv + 0.5, temperature],
        tolerance=1e-4,
    )


@given(few, st.sampled_from([1, 2]), few, sizes, sizes)
@settings(max_examples=8)
def test_swapped_query_cosine_attention(n, heads, d, h, w):
    qkv, temperature = arrays(22, (2 * n, 3 * heads * d, h, w), (heads, 1, 1))
    assert_same(
        channel_attention.swapped_query_cosine_attention,
        channel_attention.swapped_query_cosine_attention_reference,
        [qkv + 0.5, temperature],
        tolerance=1e-4,
    )


@pytest.mark.parametrize(
    ("samples", "operator"),
    [
        (1, channel_attention.cosine_attention),
        (2, channel_attention.swapped_query_cosine_attention),
    ],
)
def test_one_pixel_gives_its_queries_and_keys_no_gradient(samples, operator):
    # Normalized, it is its sign. Rounding noise in place of zero becomes whole steps of Adam.
    qkv, temperature, g = arrays(7, (samples, 24, 1, 1), (2, 1, 1), (samples, 8, 1, 1))
    x = jt.array(qkv)
    gradient = jt.grad((operator(x, jt.array(temperature)) * jt.array(g)).sum(), x).numpy()
    assert not gradient[:, :16].any() and gradient[:, 16:].all()
