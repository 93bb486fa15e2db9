"""The base and detail extractors against plain forms of what they compute."""

from __future__ import annotations

import numpy as np
import pytest

from jfusion.layers.decomposition import (
    BaseAttention,
    BaseExtractor,
    CouplingNode,
    DetailExtractor,
    GroupedFeedForward,
    sum_of_halves,
)
from jfusion.layers.restormer import Restormer
from jfusion.ops.channel_attention import cosine_attention
from jfusion.runtime import jt, nn


def features(seed, shape=(2, 16, 7, 9)):
    return jt.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def test_the_one_convolution_of_the_attention_is_its_two():
    x, attention = features(0), BaseAttention(16, 8)
    two = attention.spread(attention.expand(x))
    expected = attention.project(cosine_attention(two, attention.scale))
    np.testing.assert_allclose(attention(x).numpy(), expected.numpy(), atol=1e-5)


def test_the_feed_forward_is_a_grouped_convolution_and_a_gate():
    x, module = features(0), GroupedFeedForward(16)
    first, second = module.depthwise(module.expand(x)).chunk(2, 1)
    expected = module.project(nn.gelu(first) * second)
    np.testing.assert_allclose(module(x).numpy(), expected.numpy(), atol=1e-5)


def test_a_coupling_node_can_be_inverted():
    x, node = features(0), CouplingNode(16, lambda width: nn.Conv(width, width, 1))
    z1, z2 = node(x).chunk(2, 1)
    first = (z1 - node.eta(z2)) / jt.exp(node.rho(z2))
    mixed = jt.concat([first, z2 - node.phi(first)], 1)
    matrix = node.shuffle.weight.numpy().reshape(16, 16)
    centered = (mixed - node.shuffle.bias.reshape(1, -1, 1, 1)).numpy()
    restored = np.einsum("oi,nihw->nohw", np.linalg.inv(matrix), centered)
    np.testing.assert_allclose(restored, x.numpy(), atol=1e-3)


@pytest.mark.parametrize("module", [BaseExtractor(16), DetailExtractor(16, 2), Restormer(16)])
def test_shapes_stay_and_samples_do_not_see_each_other(module):
    with jt.no_grad():
        x = features(0)
        y = module(x)
        np.testing.assert_allclose(module(x[1:]).numpy(), y.numpy()[1:], atol=1e-5)
    assert y.shape == x.shape


def test_the_halves_of_a_batch_are_added():
    x = features(0, (6, 2, 3, 4))
    np.testing.assert_array_equal(sum_of_halves(x).numpy(), (x[:3] + x[3:]).numpy())
