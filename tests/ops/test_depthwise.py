"""Depthwise convolutions and the gate on pixel-shuffled images, against stock operations."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jfusion.ops import depthwise
from jfusion.runtime import jt
from tests.ops.compare import arrays, assert_same, few, sizes


@given(few, few, sizes, sizes, st.sampled_from([3, 5, 7]), st.integers(0, 3))
@example(2, 3, 5, 70, 7, 3)  # a block of 64 pixels, and a rest
@example(1, 2, 70, 61, 3, 1)  # two of a GPU's blocks share a sum
@settings(max_examples=10)
def test_depthwise(n, c, h, w, k, padding):
    h, w = (max(size, k - 2 * padding) for size in (h, w))
    padding = min(padding, k - 1)
    assert_same(
        lambda *x: depthwise.depthwise(*x, padding),
        lambda *x: depthwise.depthwise_reference(*x, padding),
        arrays(18, (n, c, h, w), (c, 1, k, k)),
    )


@given(few, few, sizes, sizes, st.sampled_from([(7, "gelu"), (5, "mish"), (3, "mish")]))
@example(2, 2, 5, 70, (7, "gelu"))
@settings(max_examples=8)
def test_shuffled_gate(n, c, h, w, kind):
    assert_same(
        lambda *x: depthwise.shuffled_gate(*x, kind[1]),
        lambda *x: depthwise.shuffled_gate_reference(*x, kind[1]),
        arrays(19, (n, 4 * c, h, w), (n, 4 * c, h, w), (c, 1, kind[0], kind[0])),
    )


def test_mish_far_out():
    b = np.array([-1e4, -90, -20, -1e-20, 0, 1e-20, 19, 21, 90, 1e4], np.float32)
    b = b.reshape(1, 1, 1, -1).repeat(4, 1)
    assert_same(
        lambda *x: depthwise.shuffled_gate(*x, "mish"),
        lambda *x: depthwise.shuffled_gate_reference(*x, "mish"),
        [np.ones_like(b), b, np.ones((1, 1, 1, 1), np.float32)],
        1e-6,
    )


@given(few, few, sizes, sizes)
@settings(max_examples=6)
def test_pixel_unshuffle_undoes_pixel_shuffle(n, c, h, w):
    x = arrays(20, (n, 4 * c, h, w))[0]
    shuffled = depthwise.pixel_shuffle(jt.array(x))
    np.testing.assert_array_equal(shuffled.numpy()[:, :, 0::2, 1::2], x[:, 1::4])
    np.testing.assert_array_equal(depthwise.pixel_unshuffle(shuffled).numpy(), x)
