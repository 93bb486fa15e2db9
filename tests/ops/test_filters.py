"""Sobel's and separable filters."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from jfusion.ops import filters
from tests.ops.compare import arrays, assert_same, few, sizes


@given(few, sizes, sizes)
@settings(max_examples=8)
def test_sobel(n, h, w):
    assert_same(
        filters.sobel_magnitude, filters.sobel_magnitude_reference, arrays(10, (n, 1, h, w))
    )


@given(few, few, sizes, sizes, st.sampled_from([3, 5, 11]))
@settings(max_examples=8)
def test_separable(n, c, h, w, size):
    window = filters.gaussian_window(size, 1.5)
    assert_same(
        lambda x: filters.separable(x, window),
        lambda x: filters.separable_reference(x, window),
        arrays(11, (n, c, h, w)),
    )
