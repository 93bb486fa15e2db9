"""Interpolation and padding against stock operations."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jfusion.ops import resize
from jfusion.runtime import jt
from tests.ops.compare import arrays, assert_same, few, sizes


@given(few, few, sizes, sizes, sizes, sizes, st.booleans())
@settings(max_examples=8)
def test_bilinear(n, c, h, w, height, width, align):
    assert_same(
        lambda x: resize.bilinear(x, height, width, align),
        lambda x: resize.bilinear_reference(x, height, width, align),
        arrays(16, (n, c, h, w)),
    )


@given(few, few, sizes, sizes, sizes, sizes)
@settings(max_examples=8)
def test_nearest(n, c, h, w, height, width):
    rows, columns = (jt.array(resize.nearest_index(*x)) for x in ((h, height), (w, width)))
    assert_same(
        lambda x: resize.nearest(x, height, width),
        lambda x: resize.gather_reference(x, rows, columns),
        arrays(9, (n, c, h, w)),
    )


@given(
    few,
    few,
    st.integers(6, 12),
    st.integers(6, 12),
    st.integers(1, 5),
    st.sampled_from(["reflect", "edge"]),
)
@settings(max_examples=8)
def test_pad(n, c, h, w, padding, mode):
    (x,) = arrays(0, (n, c, h, w))
    widths = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    np.testing.assert_array_equal(
        resize.pad(jt.array(x), padding, mode).numpy(), np.pad(x, widths, mode)
    )
    rows, columns = (np.pad(np.arange(s, dtype=np.int32), padding, mode=mode) for s in (h, w))
    assert_same(
        lambda x: resize.pad(x, padding, mode),
        lambda x: resize.gather_reference(x, jt.array(rows), jt.array(columns)),
        [x],
    )
