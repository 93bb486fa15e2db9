"""Layer normalization over channels, and batch normalization with its own statistics."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jfusion.ops import group_norm, norm
from jfusion.runtime import jt, nn
from tests.ops.compare import arrays, assert_same, few, sizes


@given(few, st.integers(2, 9), sizes, sizes)
@example(1, 3, 70, 61)
@settings(max_examples=8)
def test_channel_layer_norm(n, c, h, w):
    inputs = arrays(3, (n, c, h, w), (c,), (c,))
    assert_same(norm.channel_layer_norm, norm.channel_layer_norm_reference, inputs, 2e-4)


@pytest.mark.parametrize("function", ["channel_layer_norm", "group_norm"])
def test_norms_keep_their_digits_far_from_zero(function):
    x = 300 + 0.1 * arrays(15, (1, 8, 5, 6))[0].astype(np.float64)
    ones, zeros = (jt.array(np.full(8, v, np.float32)) for v in (1, 0))
    exact = x - x.mean((1, 2, 3) if function == "group_norm" else 1, keepdims=True)
    exact /= np.sqrt(
        (exact**2).mean((1, 2, 3) if function == "group_norm" else 1, keepdims=True) + 1e-5
    )
    groups = (1,) if function == "group_norm" else ()
    module = {"channel_layer_norm": norm, "group_norm": group_norm}[function]
    actual = getattr(module, function)(jt.array(x.astype(np.float32)), *groups, ones, zeros).numpy()
    np.testing.assert_allclose(actual, exact, atol=5e-3)  # the input itself is rounded to 3e-5


def test_the_gradient_of_batch_norm_flows_through_its_statistics():
    rng = np.random.default_rng(0)
    x = jt.array(rng.standard_normal((2, 3, 5, 4)).astype(np.float32))
    w, b = (jt.array(rng.random(3).astype(np.float32)) for _ in "wb")
    weights = jt.array(rng.standard_normal(x.shape).astype(np.float32))
    mean = x.mean(3).mean(2).mean(0)
    centered = x - mean.reshape(1, -1, 1, 1)
    var = (centered * centered).mean(3).mean(2).mean(0)
    expected = centered / jt.sqrt(var + 1e-5).reshape(1, -1, 1, 1) * w.reshape(1, -1, 1, 1)
    expected = nn.leaky_relu(expected + b.reshape(1, -1, 1, 1), 0.2)
    y = norm.leaky_batch_norm(x, w, b, mean, var, lambda v: v)
    np.testing.assert_allclose(y.numpy(), expected.numpy(), atol=1e-5)
    gradients = [jt.grad((v * weights).sum(), [x, w, b]) for v in (y, expected)]
    for actual, desired in zip(*gradients, strict=True):
        np.testing.assert_allclose(actual.numpy(), desired.numpy(), atol=1e-4)
