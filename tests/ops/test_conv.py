"""Convolutions against stock ones, and a convolution with SiLU before it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jfusion.ops import activation, conv, depthwise
from jfusion.runtime import jt
from tests.ops.compare import arrays, assert_same, few, run, sizes


def test_the_reference_convolution_accepts_a_single_bias_that_has_just_been_loaded():
    x, w, b = (jt.array(v) for v in arrays(5, (1, 3, 4, 5), (1, 3, 1, 1), (1,)))
    b = jt.zeros(1).update(b)
    out = jt.sigmoid(
        conv.conv_reference(x, w, b)
    ).numpy()  # all in one kernel, where the bias is a constant
    expected = np.einsum("nchw,oc->nohw", x.numpy(), w.numpy()[:, :, 0, 0]) + b.numpy()
    np.testing.assert_allclose(out, 1 / (1 + np.exp(-expected)), atol=1e-6)


@pytest.mark.skipif(not jt.flags.use_cuda, reason="needs a GPU")
def test_convolutions_in_bfloat16_are_near_those_in_float32(monkeypatch):
    inputs = arrays(4, (2, 3, 8, 9), (4, 3, 3, 3), (4,))
    (exact,), exact_gradients = run(conv.conv, inputs, np.float32)
    monkeypatch.setenv("JFUSION_PRECISION", "bfloat16")
    (out,), gradients = run(conv.conv, inputs, np.float32)
    for narrow, wide in zip([out, *gradients[:2]], [exact, *exact_gradients[:2]], strict=True):
        assert narrow.dtype == np.float32
        assert 1e-4 < abs(narrow - wide).max() / abs(wide).max() < 2e-2


@given(few, few, few, sizes, sizes)
@example(2, 3, 5, 70, 61)  # more than one block of pixels
@settings(max_examples=8)
def test_conv1x1(n, c, o, h, w):
    assert_same(conv.conv1x1, conv.conv_reference, arrays(0, (n, c, h, w), (o, c, 1, 1), (o,)))


@pytest.mark.parametrize("h, w", [(3, 5), (32, 64)])  # rows of the second lie 2**11 values apart
def test_conv1x1_plus_something(h, w):
    assert_same(
        lambda x, weight, bias, added: conv.conv1x1(x, weight, bias, added=added),
        lambda x, weight, bias, added: conv.conv_reference(x, weight, bias) + added,
        arrays(3, (2, 3, h, w), (5, 3, 1, 1), (5,), (2, 5, h, w)),
    )


@given(few, few, few, sizes, sizes, st.sampled_from([1, 3, 5]))
@example(1, 32, 3, 9, 70, 3)  # more than one block of rows
@example(2, 130, 128, 3, 5, 3)  # few pixels, many channels
@example(1, 129, 128, 7, 1, 5)
@settings(max_examples=8)
def test_conv(n, c, o, h, w, k):
    assert_same(conv.conv, conv.conv_reference, arrays(1, (n, c, h, w), (o, c, k, k), (o,)))


@pytest.mark.parametrize(
    "n, c, o, h, w",
    [
        (2, 17, 16, 31, 33),
        (3, 16, 20, 1, 400),
        (3, 16, 20, 400, 1),
        (1, 190, 700, 6, 280),  # several blocks of rows of tiles
    ],
)
def test_winograd(n, c, o, h, w):
    x, weight, bias = arrays(23, (n, c, h, w), (o, c, 3, 3), (o,))
    with jt.no_grad():
        actual = conv.conv(jt.array(x), jt.array(weight), jt.array(bias)).numpy()
        exact = [jt.array(v.astype(np.float64)) for v in (x, weight, bias)]
        with jt.flag_scope(use_cuda=0):
            expected = conv.conv_reference(*exact).numpy()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5 * abs(expected).max())


@pytest.mark.parametrize(
    "n, c, o, h, w",
    [
        (1, 16, 19, 1, 300),  # the kernels' gradient alone, on tiles of 2x2
        (1, 16, 19, 30, 40),  # all on tiles of 2x2, but the input's gradient
        (2, 17, 16, 61, 70),  # tiles of 4x4
        (1, 130, 300, 20, 280),  # several blocks of rows of tiles
    ],
)
def test_the_gradients_of_a_training_step_by_winograd(n, c, o, h, w):
    x, weight, bias, g = arrays(24, (n, c, h, w), (o, c, 3, 3), (o,), (n, o, h, w))

    def step(dtype, function):
        inputs = [jt.array(v.astype(dtype)) for v in (x, weight, bias)]
        y = function(*inputs)
        return y.numpy(), *(
            v.numpy() for v in jt.grad((y * jt.array(g.astype(dtype))).sum(), inputs)
        )

    actual = step(np.float32, conv.conv)
    with jt.flag_scope(use_cuda=0):
        expected = step(np.float64, conv.conv_reference)
    for narrow, wide, tolerance in zip(actual, expected, (5e-6, 2e-5, 2e-5, 5e-6), strict=True):
        np.testing.assert_allclose(narrow, wide, rtol=0, atol=tolerance * abs(wide).max())
    if not jt.flags.use_cuda:  # the larger tiles would round by twice as much as this
        rms = [
            np.sqrt((v.astype(np.float64) ** 2).mean())
            for v in (actual[0] - expected[0], expected[0])
        ]
        assert rms[0] < 6e-7 * rms[1]


@given(few, few, sizes, sizes)
@settings(max_examples=8)
def test_depthwise3x3(n, c, h, w):
    assert_same(
        conv.depthwise3x3,
        lambda x, w: depthwise.depthwise_reference(x, w, 1),
        arrays(2, (n, c, h, w), (c, 1, 3, 3)),
    )


def test_silu_conv_equals_silu_then_conv():
    rng = np.random.default_rng(0)
    x, w = (
        jt.array(rng.standard_normal(s).astype(np.float32)) for s in ((2, 3, 5, 4), (6, 3, 3, 3))
    )
    b = jt.array(rng.standard_normal(6).astype(np.float32))
    weights = jt.array(rng.standard_normal((2, 6, 5, 4)).astype(np.float32))
    y, reference = conv.silu_conv(x, w, b), conv.conv_reference(activation.silu_reference(x), w, b)
    np.testing.assert_allclose(y.numpy(), reference.numpy(), atol=1e-5)
    gradients = [jt.grad((v * weights).sum(), [x, w, b]) for v in (y, reference)]
    for actual, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(actual.numpy(), expected.numpy(), atol=1e-4)
