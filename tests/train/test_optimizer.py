"""Adam against its formulas in float64, and its state."""

from __future__ import annotations

import numpy as np
import pytest

from jfusion.runtime import jt
from jfusion.systems.base import OptimizerConfig
from jfusion.train.optimizer import Adam


def adam(values, gradients, rate, decay, clip, decoupled):
    """Kingma and Ba's algorithm 1 with epsilon as in PyTorch, several steps on one array."""
    x, m, v = np.float64(values), 0.0, 0.0
    for t, g in enumerate(np.float64(gradients), 1):
        if clip is not None:
            g = g * min(1.0, clip / (np.sqrt((g * g).sum()) + 1e-6))
        if decoupled:
            x = x * (1 - rate * decay)
        else:
            g = g + decay * x
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        x = x - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return x


@pytest.mark.parametrize(
    ("decay", "clip", "decoupled"),
    [(0.0, None, False), (0.1, None, False), (0.1, 0.5, True)],
)
def test_adam_is_pytorchs(decay, clip, decoupled):
    rng = np.random.default_rng(0)
    values, gradients = rng.standard_normal((2, 3)), rng.standard_normal((4, 2, 3))
    parameter = jt.array(values.astype(np.float32))
    optimizer = Adam({"x": parameter}, weight_decay=decay, clip_norm=clip, decoupled=decoupled)
    for gradient in gradients:
        optimizer.apply([jt.array(gradient.astype(np.float32))], 0.01)
    expected = adam(values, gradients, 0.01, decay, clip, decoupled)
    np.testing.assert_allclose(parameter.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_saved_state_continues_exactly():
    rng = np.random.default_rng(1)
    gradients = [jt.array(rng.standard_normal(3).astype(np.float32)) for _ in range(4)]
    first, second = (jt.array(np.ones(3, np.float32)) for _ in range(2))
    config = OptimizerConfig("all", {"x": first}, lambda epoch: 0.1, betas=(0.5, 0.9), eps=1e-3)
    whole = Adam.from_config(config)
    assert whole.betas == (0.5, 0.9) and whole.eps == 1e-3
    for g in gradients:
        whole.apply([g], 0.1)
    half = Adam({"x": second}, (0.5, 0.9), 1e-3)
    for g in gradients[:2]:
        half.apply([g], 0.1)
    resumed = Adam({"x": second}, (0.5, 0.9), 1e-3)
    resumed.load_state(half.state())
    for g in gradients[2:]:
        resumed.apply([g], 0.1)
    assert resumed.steps == 4
    np.testing.assert_array_equal(first.numpy(), second.numpy())


def test_a_step_goes_down_the_gradient():
    parameter = jt.array(np.array([3.0], np.float32))
    Adam({"x": parameter}).step((parameter * parameter).sum(), 0.5)
    np.testing.assert_allclose(parameter.numpy(), [2.5], rtol=1e-5)


def test_gradients_whose_squares_are_denormal_keep_parameters_finite():
    gradient = np.logspace(-24, -10, 1000).astype(np.float32)
    parameter = jt.array(np.ones(1000, np.float32))
    Adam({"x": parameter}).apply([jt.array(gradient)], 1e-3)
    found = parameter.numpy()
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, 1 - 1e-3 * gradient / (gradient + 1e-8), rtol=1e-6)
