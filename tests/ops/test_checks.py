"""An operator refuses wrong inputs in one sentence, before anything runs."""

from __future__ import annotations

import numpy as np
import pytest

from jfusion.errors import UserError
from jfusion.ops import conv, depthwise, expand, group_norm, matmul, norm, norm_conv
from jfusion.ops.checks import check_divisible, check_float, check_shape
from jfusion.runtime import jt


def of_shape(shape, dtype=np.float32):
    return jt.array(np.ones(shape, dtype))


def feed_forward(x, w, b, *weights):
    return expand.gated_feed_forward(x, (w, b), *weights)


def norm_then_conv(x, scale, shift, weight, bias):
    return norm_conv.norm_silu_conv(x, 2, (scale, shift), (weight, bias))


IMAGE = (1, 4, 6, 5)
WRONG = {
    "a weight of fewer channels": (
        conv.conv, [(1, 3, 16, 16), (4, 1, 3, 3)],
        "conv: weight must be (O, 3, K, K) for an input of 3 channels, not (4, 1, 3, 3)"),
    "an input of three axes": (
        conv.conv, [(3, 16, 16), (4, 3, 3, 3)], "conv: x must be (N, C, H, W), not (3, 16, 16)"),
    "a kernel that is no square": (
        conv.conv, [IMAGE, (4, 4, 3, 5)], "conv: weight must be (O, 4, K, K)"),
    "a kernel of an even size": (
        conv.conv, [IMAGE, (4, 4, 2, 2)], "conv: weight must have kernels of an odd size, not 2 x 2"),
    "a bias of another length": (
        conv.conv, [IMAGE, (3, 4, 3, 3), (4,)],
        "conv: bias must be (3,) for an output of 3 channels, not (4,)"),
    "a 3x3 kernel in a 1x1 convolution": (
        conv.conv1x1, [IMAGE, (3, 4, 3, 3)], "conv1x1: weight must be (O, 4, 1, 1)"),
    "silu_conv": (conv.silu_conv, [IMAGE, (3, 5, 3, 3)], "silu_conv: weight must be (O, 4, K, K)"),
    "a full kernel in a depthwise convolution": (
        conv.depthwise3x3, [IMAGE, (4, 4, 3, 3)], "depthwise3x3: weight must be (4, 1, 3, 3)"),
    "a group too few": (
        depthwise.depthwise, [IMAGE, (3, 1, 5, 5)], "depthwise: weight must be (4, 1, K, K)"),
    "more padding than the kernel": (
        lambda x, w: depthwise.depthwise(x, w, 3), [IMAGE, (4, 1, 3, 3)],
        "depthwise: padding must be 0 to 2 for a kernel of 3, not 3"),
    "an image smaller than the kernel": (
        lambda x, w: depthwise.depthwise(x, w, 0), [(1, 4, 6, 5), (4, 1, 7, 7)],
        "depthwise: an image of 6x5 with padding 0 is smaller than the kernel, 7x7"),
    "channels that are no fours": (
        depthwise.pixel_shuffle, [(1, 6, 4, 4)],
        "pixel_shuffle: the channels of x must be divisible by 4, and there are 6"),
    "an odd height": (
        depthwise.pixel_unshuffle, [(1, 6, 3, 4)],
        "pixel_unshuffle: the height of x must be divisible by 2, and there are 3"),
    "a gate of another size": (
        lambda *x: depthwise.shuffled_gate(*x, "gelu"), [IMAGE, (1, 4, 6, 4), (1, 1, 3, 3)],
        "shuffled_gate: b must be (1, 4, 6, 5) as a is, not (1, 4, 6, 4)"),
    "a gate with another activation": (
        lambda *x: depthwise.shuffled_gate(*x, "relu"), [IMAGE, IMAGE, (1, 1, 3, 3)],
        "shuffled_gate: activation must be gelu or mish, not 'relu'"),
    "expand": (
        expand.expand_depthwise, [IMAGE, (8, 3, 1, 1), (8, 1, 3, 3)],
        "expand_depthwise: expand must be (D, 4, 1, 1) for an input of 4 channels"),
    "expand, then fewer kernels": (
        expand.expand_depthwise, [IMAGE, (8, 4, 1, 1), (7, 1, 3, 3)],
        "expand_depthwise: depthwise must be (8, 1, 3, 3) for 8 expanded channels"),
    "feed forward": (
        feed_forward, [IMAGE, (4,), (4,), (8, 4, 1, 1), (8, 1, 3, 3), (4, 8, 1, 1)],
        "gated_feed_forward: project must be (O, 4, 1, 1) for 8 expanded channels"),
    "feed forward without a half": (
        feed_forward, [IMAGE, (4,), (4,), (7, 4, 1, 1), (7, 1, 3, 3), (4, 3, 1, 1)],
        "gated_feed_forward: the channels of expand must be divisible by 2, and there are 7"),
    "layer norm": (
        norm.channel_layer_norm, [IMAGE, (4,), (5,)],
        "channel_layer_norm: bias must be (4,) for an input of 4 channels, not (5,)"),
    "batch norm": (
        lambda *x: norm.leaky_batch_norm(*x, lambda v: v), [IMAGE, (4,), (4,), (4,), (1, 4)],
        "leaky_batch_norm: var must be (4,) for an input of 4 channels, not (1, 4)"),
    "groups": (
        lambda x, w, b: group_norm.group_norm(x, 3, w, b), [IMAGE, (4,), (4,)],
        "group_norm: the channels of x must be divisible by 3, and there are 4"),
    "no groups": (
        lambda x, w, b: group_norm.group_norm(x, 0, w, b), [IMAGE, (4,), (4,)],
        "group_norm: the channels of x must be divisible by 0"),
    "group norm": (
        lambda x, w, b: group_norm.group_norm(x, 2, w, b), [IMAGE, (8,), (8,)],
        "group_norm: weight must be (4,) or (1, 4) for an input of (1, 4, 6, 5), not (8,)"),
    "norm and convolution": (
        norm_then_conv, [IMAGE, (4,), (4,), (6, 3, 3, 3), (6,)],
        "norm_silu_conv: conv weight must be (O, 4, K, K) for an input of 4 channels"),
    "products of other lengths": (
        matmul.matmul, [(2, 3, 4), (2, 5, 6)],
        "matmul: b must be (2, 4, N) for a of shape (2, 3, 4), not (2, 5, 6)"),
    "products of other batches": (
        lambda a, b: matmul.matmul(a, b, tb=True), [(2, 3, 4), (3, 6, 4)],
        "matmul: b must be (2, N, 4) for a of shape (2, 3, 4), not (3, 6, 4)"),
    "a product of a vector": (
        matmul.matmul, [(4,), (4, 3)], "matmul: a must be (..., M, K), not (4,)"),
    "linear": (
        matmul.linear, [(2, 5, 4), (3, 5)],
        "linear: weight must be (O, 4) for an input of 4 features, not (3, 5)"),
    "linear's bias": (
        matmul.linear, [(2, 5, 4), (3, 4), (4,)],
        "linear: bias must be (3,) for an output of 3 features, not (4,)"),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])  # the kernel, and the reference
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_shape_is_one_sentence_that_names_the_argument(name, dtype):
    operator, shapes, message = WRONG[name]
    with pytest.raises(UserError) as raised:
        operator(*(of_shape(shape, dtype) for shape in shapes))
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


RIGHT = {
    "conv": (conv.conv, [IMAGE, (3, 4, 3, 3), (3,)]),
    "conv1x1": (conv.conv1x1, [IMAGE, (3, 4, 1, 1), (3,)]),
    "silu_conv": (conv.silu_conv, [IMAGE, (3, 4, 3, 3), (3,)]),
    "depthwise3x3": (conv.depthwise3x3, [IMAGE, (4, 1, 3, 3)]),
    "depthwise": (depthwise.depthwise, [IMAGE, (4, 1, 5, 5)]),
    "shuffled_gate": (
        lambda *x: depthwise.shuffled_gate(*x, "gelu"),
        [IMAGE, IMAGE, (1, 1, 3, 3)],
    ),
    "expand_depthwise": (expand.expand_depthwise, [IMAGE, (8, 4, 1, 1), (8, 1, 3, 3)]),
    "gated_feed_forward": (
        feed_forward,
        [IMAGE, (4,), (4,), (8, 4, 1, 1), (8, 1, 3, 3), (4, 4, 1, 1)],
    ),
    "channel_layer_norm": (norm.channel_layer_norm, [IMAGE, (4,), (4,)]),
    "leaky_batch_norm": (
        lambda *x: norm.leaky_batch_norm(*x, lambda v: v),
        [IMAGE, (4,), (4,), (4,), (4,)],
    ),
    "group_norm": (lambda x, w, b: group_norm.group_norm(x, 2, w, b), [IMAGE, (4,), (4,)]),
    "norm_silu_conv": (norm_then_conv, [IMAGE, (4,), (4,), (6, 4, 3, 3), (6,)]),
    "matmul": (matmul.matmul, [(2, 3, 4), (2, 4, 6)]),
    "linear": (matmul.linear, [(2, 5, 4), (3, 4), (3,)]),
}


@pytest.mark.parametrize("name", RIGHT)
def test_inputs_of_two_types_or_of_integers_are_refused(name):
    operator, shapes = RIGHT[name]
    for i in range(len(shapes)):
        inputs = [of_shape(shape) for shape in shapes]
        inputs[i] = of_shape(shapes[i], np.int32)
        with pytest.raises(UserError, match=rf"^\w+: [\w ]+ must be .*not .*(int32|float32)$"):
            operator(*inputs)
    inputs = [of_shape(shape) for shape in shapes]
    inputs[-1] = inputs[-1].numpy()
    with pytest.raises(UserError, match=r"^\w+: \w+ must be a Jittor Var, not ndarray$"):
        operator(*inputs)


def test_a_check_names_the_operator_the_argument_and_both_shapes():
    x = of_shape((2, 3))
    check_shape("op", "x", x, ("N", 3))
    check_shape("op", "x", x, ("N", "C"))
    check_float("op", x=x, y=x)
    check_divisible("op", "the channels of x", 6, 3)
    for pattern, wanted in (
        (("N", "N"), "(N, N)"),
        (("N",), "(N,)"),
        ((2, 4), "(2, 4)"),
        (("N", 3, 1), "(N, 3, 1)"),
    ):
        with pytest.raises(UserError) as raised:
            check_shape("op", "x", x, pattern, "for a test")
        assert str(raised.value) == f"op: x must be {wanted} for a test, not (2, 3)"
