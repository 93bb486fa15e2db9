"""Activations against stock operations, far out too."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings

from jfusion.ops import activation
from jfusion.runtime import jt
from tests.ops.compare import arrays, assert_same, few, sizes


def test_tanh_has_a_gradient_where_it_is_saturated():
    x = jt.array(np.float32([-1e4, -20, -1, 0, 1, 20, 1e4]))
    y = activation.tanh(x)
    np.testing.assert_allclose(y.numpy(), np.tanh(x.numpy()), rtol=1e-6)
    gradient = jt.grad(y.sum(), x).numpy()
    np.testing.assert_allclose(gradient, 1 - np.tanh(x.numpy()) ** 2, rtol=1e-5, atol=1e-7)


@given(few, few, sizes, sizes)
@example(1, 4, 60, 61)  # more than one block
@settings(max_examples=8)
def test_prelu(n, c, h, w):
    assert_same(activation.prelu, activation.prelu_reference, arrays(17, (n, c, h, w), (1,)))


@given(few, few, sizes, sizes)
@example(1, 4, 60, 61)  # more than one block
@settings(max_examples=8)
def test_elementwise(n, c, h, w):
    x, branch, scale, one, two = arrays(21, (n, c, h, w), (n, c, h, w), (c,), (1,), (1,))
    assert_same(activation.squared_relu, activation.squared_relu_reference, [x])
    assert_same(activation.relu6, activation.relu6_reference, [5 * x])
    assert_same(activation.silu, activation.silu_reference, [5 * x])
    assert_same(activation.star_relu, activation.star_relu_reference, [x, one, two], 1e-4)
    assert_same(activation.add_scaled, activation.add_scaled_reference, [x, branch, scale])


@given(few, few, sizes, sizes)
@settings(max_examples=8)
def test_gelu_gate(n, c, h, w):
    assert_same(
        activation.gelu_gate,
        activation.gelu_gate_reference,
        [3 * x for x in arrays(4, (n, 2 * c, h, w))],
    )


def test_gelu_gate_far_out():
    x = np.array([-1e4, -12, -6, -1e-20, 0, 1e-20, 6, 12, 1e4], np.float32).reshape(1, 1, 1, -1)
    x = np.concatenate([x, np.ones_like(x)], 1)
    assert_same(activation.gelu_gate, activation.gelu_gate_reference, [x], 1e-6)


def test_silu_and_tanh_of_large_values_are_finite():
    x = jt.array(np.array([-1e4, -200, -90, -88, 0, 88, 200, 1e4] * 4, np.float32))
    for f, at_ends in ((activation.silu, (0, 1e4)), (activation.tanh, (-1, 1))):
        y = f(x)
        gradient = jt.grad(y.sum(), x).numpy()
        assert np.isfinite(gradient).all()
        np.testing.assert_allclose(y.numpy()[[0, 7]], at_ends, atol=1e-6)
