"""An operator refuses wrong inputs in one sentence, before anything runs."""

from __future__ import annotations

import numpy as np
import pytest

from jfusion.errors import UserError
from jfusion.ops import (
    activation,
    channel_attention,
    conv,
    depthwise,
    expand,
    filters,
    group_norm,
    matmul,
    norm,
    norm_conv,
    pixel_attention,
    resize,
    softmax,
)
from jfusion.ops.checks import check_divisible, check_float, check_shape, once_per_shape
from jfusion.runtime import jt
from jfusion.systems.film import attention as cross_attention
from jfusion.text import ops as bert


def of_shape(shape, dtype=np.float32):
    return jt.array(np.ones(shape, dtype))


def feed_forward(x, w, b, *weights):
    return expand.gated_feed_forward(x, (w, b), *weights)


def norm_then_conv(x, scale, shift, weight, bias):
    return norm_conv.norm_silu_conv(x, 2, (scale, shift), (weight, bias))


def attend(x, w, b, *rest):
    return channel_attention.channel_attention(x, (w, b), *rest)


def self_attention(qkv, lengths=(5, 2), heads=2):
    return bert.self_attention(qkv, jt.array(np.array(lengths, np.int32)), heads)


def add_norm(x, bias, residual, weight, shift):
    return bert.add_norm(x, bias, residual, weight, shift, 1e-12)


IMAGE = (1, 4, 6, 5)
QKV, HEADS = (2, 12, 6, 5), (2, 1, 1)
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
        "group_norm: groups must be a whole number of 1 or more, not 0"),
    "half a group": (
        lambda x, w, b: group_norm.group_norm(x, 2.0, w, b), [IMAGE, (4,), (4,)],
        "group_norm: groups must be a whole number of 1 or more, not 2.0"),
    "an epsilon that is no number": (
        lambda x, w, b: group_norm.group_norm(x, 2, w, b, float("nan")), [IMAGE, (4,), (4,)],
        "group_norm: eps must be a finite number above 0, not nan"),
    "a probability of one": (
        lambda *x: norm_conv.norm_silu_conv(x[0], 2, x[1:3], x[3:], 1.0),
        [IMAGE, (4,), (4,), (3, 4, 3, 3), (3,)],
        "norm_silu_conv: drop_probability must be at least 0 and below 1, not 1.0"),
    "heads that are a truth": (
        lambda x: pixel_attention.pixel_attention(x, True, False), [QKV],
        "pixel_attention: heads must be a whole number of 1 or more, not True"),
    "half a pixel of padding": (
        lambda x: resize.pad(x, 0.5, "edge"), [IMAGE],
        "pad: padding must be a whole number of 0 or more, not 0.5"),
    "half a row": (
        lambda x: resize.nearest(x, 3.5, 2), [IMAGE],
        "nearest: height must be a whole number of 1 or more, not 3.5"),
    "group norm": (
        lambda x, w, b: group_norm.group_norm(x, 2, w, b), [IMAGE, (8,), (8,)],
        "group_norm: weight must be (4,) or (1, 4) for an input of (1, 4, 6, 5), not (8,)"),
    "norm and convolution": (
        norm_then_conv, [IMAGE, (4,), (4,), (6, 3, 3, 3), (6,)],
        "norm_silu_conv: conv_weight must be (O, 4, K, K) for an input of 4 channels"),
    "a norm for each sample, and convolution": (
        norm_then_conv, [(2, 4, 6, 5), (2, 4), (2, 4), (6, 4, 3, 3), (6,)],
        "norm_silu_conv: norm_weight must be (4,) for an input of 4 channels, not (2, 4)"),
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
    "a slope for each channel": (
        activation.prelu, [IMAGE, (4,)], "prelu: slope must be (1,), not (4,)"),
    "a gate of odd channels": (
        activation.gelu_gate, [(1, 5, 6, 5)],
        "gelu_gate: the channels of x must be divisible by 2, and there are 5"),
    "a gate of three axes": (
        activation.gelu_gate, [(4, 6, 5)], "gelu_gate: x must be (N, 2C, H, W), not (4, 6, 5)"),
    "star relu's scale": (
        activation.star_relu, [IMAGE, (4,), (1,)], "star_relu: scale must be (1,), not (4,)"),
    "star relu's bias": (
        activation.star_relu, [IMAGE, (1,), (1, 1)], "star_relu: bias must be (1,), not (1, 1)"),
    "a branch of another size": (
        activation.add_scaled, [IMAGE, (1, 4, 6, 4), (4,)],
        "add_scaled: branch must be (1, 4, 6, 5) as x is, not (1, 4, 6, 4)"),
    "a layer scale": (
        activation.add_scaled, [IMAGE, IMAGE, (3,)],
        "add_scaled: scale must be (4,) for 4 channels, not (3,)"),
    "channel attention's norm": (
        attend, [IMAGE, (4,), (3,), (12, 4, 1, 1), (12, 1, 3, 3), HEADS],
        "channel_attention: norm bias must be (4,) for an input of 4 channels, not (3,)"),
    "channel attention's expansion": (
        attend, [IMAGE, (4,), (4,), (12, 5, 1, 1), (12, 1, 3, 3), HEADS],
        "channel_attention: expand must be (3C, 4, 1, 1) for an input of 4 channels"),
    "channel attention's kernels": (
        attend, [IMAGE, (4,), (4,), (12, 4, 1, 1), (11, 1, 3, 3), HEADS],
        "channel_attention: depthwise must be (12, 1, 3, 3) for 12 expanded channels"),
    "channels that the heads cannot share": (
        attend, [IMAGE, (4,), (4,), (15, 4, 1, 1), (15, 1, 3, 3), HEADS],
        "channel_attention: the channels of expand must be divisible by 6, and there are 15"),
    "a temperature of one axis": (
        channel_attention.cosine_attention, [QKV, (2,)],
        "cosine_attention: temperature must be (heads, 1, 1), not (2,)"),
    "heads of cosine attention": (
        channel_attention.cosine_attention, [QKV, (3, 1, 1)],
        "cosine_attention: the channels of qkv must be divisible by 9, and there are 12"),
    "an odd batch": (
        channel_attention.swapped_query_cosine_attention, [(3, 12, 6, 5), HEADS],
        "swapped_query_cosine_attention: the samples of qkv must be divisible by 2, and there are 3"),
    "heads of pixel attention": (
        lambda qkv: pixel_attention.pixel_attention(qkv, 3, True), [QKV],
        "pixel_attention: the channels of qkv must be divisible by 9, and there are 12"),
    "no heads": (
        lambda qkv: pixel_attention.pixel_attention(qkv, 0, True), [QKV],
        "pixel_attention: heads must be a whole number of 1 or more, not 0"),
    "an image of three axes": (
        lambda x: resize.nearest(x, 3, 3), [(4, 6, 5)],
        "nearest: x must be (N, C, H, W), not (4, 6, 5)"),
    "no width": (
        lambda x: resize.bilinear(x, 3, 0), [IMAGE],
        "bilinear: width must be a whole number of 1 or more, not 0"),
    "no pixels": (
        lambda x: resize.bilinear(x, 3, 3), [(1, 4, 0, 5)],
        "bilinear: x must have pixels, not (1, 4, 0, 5)"),
    "more padding than pixels": (
        lambda x: resize.pad(x, 5, "reflect"), [IMAGE],
        "pad: padding must be 0 to 4 to reflect an x of (1, 4, 6, 5), not 5"),
    "padding of another kind": (
        lambda x: resize.pad(x, 1, "wrap"), [IMAGE],
        "pad: mode must be 'reflect' or 'edge', not 'wrap'"),
    "multiples of nothing": (
        lambda x: resize.pad_to_multiple(x, 0, "reflect"), [IMAGE],
        "pad_to_multiple: multiple must be a whole number of 1 or more, not 0"),
    "Sobel of colors": (
        filters.sobel_magnitude, [IMAGE], "sobel_magnitude: x must be (N, 1, H, W)"),
    "a pair of derivatives": (
        filters.sobel_pair, [(4, 6, 5)], "sobel_pair: x must be (N, C, H, W)"),
    "a window of even length": (
        lambda x: filters.separable(x, np.ones(4)), [IMAGE],
        "separable: window must be one axis of odd length, not (4,)"),
    "softmax of nothing": (
        softmax.softmax, [(2, 0)], "softmax: x must have values on its last axis, not (2, 0)"),
    "keys of another width": (
        lambda *x: cross_attention.averaged_attention(*x, 2), [(2, 5, 4), (2, 7, 6), (2, 7, 3)],
        "averaged_attention: k must be (2, S, 4) for this q, not (2, 7, 6)"),
    "values for other keys": (
        lambda *x: cross_attention.averaged_attention(*x, 2), [(2, 5, 4), (2, 7, 4), (2, 6, 3)],
        "averaged_attention: x must be (2, 7, E) for this k, not (2, 6, 3)"),
    "heads of cross attention": (
        lambda *x: cross_attention.averaged_attention(*x, 3), [(2, 5, 4), (2, 7, 4), (2, 7, 3)],
        "averaged_attention: the last axis of q must be divisible by 3, and there are 4"),
    "heads of self attention": (
        lambda qkv: self_attention(qkv, heads=3), [(2, 5, 12)],
        "self_attention: the last axis of qkv must be divisible by 9, and there are 12"),
    "lengths of other sequences": (
        lambda qkv: self_attention(qkv, (5, 2, 1)), [(2, 5, 12)],
        "self_attention: lengths must be (2,) for 2 sequences, not (3,)"),
    "a residual of another length": (
        add_norm, [(2, 5, 4), (4,), (2, 6, 4), (4,), (4,)],
        "add_norm: residual must be (2, 5, 4) as x is, not (2, 6, 4)"),
    "add_norm's weight": (
        add_norm, [(2, 5, 4), (4,), (2, 5, 4), (5,), (4,)],
        "add_norm: weight must be (4,) for this x, not (5,)"),
    "bias_gelu's bias": (
        bert.bias_gelu, [(2, 5, 4), (5,)], "bias_gelu: bias must be (4,) for this x, not (5,)"),
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
    "prelu": (activation.prelu, [IMAGE, (1,)]),
    "gelu_gate": (activation.gelu_gate, [IMAGE]),
    "squared_relu": (activation.squared_relu, [IMAGE]),
    "star_relu": (activation.star_relu, [IMAGE, (1,), (1,)]),
    "silu": (activation.silu, [IMAGE]),
    "absolute": (activation.absolute, [IMAGE]),
    "tanh": (activation.tanh, [IMAGE]),
    "relu6": (activation.relu6, [IMAGE]),
    "add_scaled": (activation.add_scaled, [IMAGE, IMAGE, (4,)]),
    "channel_attention": (
        attend,
        [IMAGE, (4,), (4,), (12, 4, 1, 1), (12, 1, 3, 3), HEADS],
    ),
    "cosine_attention": (channel_attention.cosine_attention, [QKV, HEADS]),
    "swapped_query_cosine_attention": (
        channel_attention.swapped_query_cosine_attention,
        [QKV, HEADS],
    ),
    "pixel_attention": (lambda qkv: pixel_attention.pixel_attention(qkv, 2, True), [QKV]),
    "nearest": (lambda x: resize.nearest(x, 3, 3), [IMAGE]),
    "bilinear": (lambda x: resize.bilinear(x, 3, 3), [IMAGE]),
    "pad": (lambda x: resize.pad(x, 1, "edge"), [IMAGE]),
    "pad_to_multiple": (lambda x: resize.pad_to_multiple(x, 4, "reflect"), [IMAGE]),
    "sobel_magnitude": (filters.sobel_magnitude, [(1, 1, 6, 5)]),
    "sobel_pair": (filters.sobel_pair, [IMAGE]),
    "separable": (lambda x: filters.separable(x, np.ones(3)), [IMAGE]),
    "softmax": (softmax.softmax, [IMAGE]),
    "averaged_attention": (
        lambda *x: cross_attention.averaged_attention(*x, 2),
        [(2, 5, 4), (2, 7, 4), (2, 7, 3)],
    ),
    "self_attention": (self_attention, [(2, 5, 12)]),
    "add_norm": (add_norm, [(2, 5, 4), (4,), (2, 5, 4), (4,), (4,)]),
    "bias_gelu": (bert.bias_gelu, [(2, 5, 4), (4,)]),
}


@pytest.mark.parametrize("name", RIGHT)
def test_inputs_of_two_types_or_of_integers_are_refused(name):
    operator, shapes = RIGHT[name]
    for i in range(len(shapes)):
        inputs = [of_shape(shape) for shape in shapes]
        inputs[i] = of_shape(shapes[i], np.int32)
        with pytest.raises(UserError, match=r"^\w+: [\w ]+ must be .*not .*(int32|float32)$"):
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
    for pattern, expected in (
        (("N", "N"), "(N, N)"),
        (("N",), "(N,)"),
        ((2, 4), "(2, 4)"),
        (("N", 3, 1), "(N, 3, 1)"),
    ):
        with pytest.raises(UserError) as raised:
            check_shape("op", "x", x, pattern, "for a test")
        assert str(raised.value) == f"op: x must be {expected} for a test, not (2, 3)"


def test_a_check_runs_once_for_each_shape_and_type():
    calls = []

    @once_per_shape
    def check(op, x, size=None, *, weight=None):
        check_float(op, x=x)
        check_shape(op, "x", x, ("N", 3))
        calls.append((op, *x.shape))

    for _ in range(3):
        check("f", of_shape((2, 3)))
        check("f", of_shape((4, 3)))
        check("f", of_shape((4, 3)), 1)
        check("g", of_shape((2, 3)))
        check("g", of_shape((2, 3)), weight=of_shape((2, 3)))
    assert calls == [("f", 2, 3), ("f", 4, 3), ("f", 4, 3), ("g", 2, 3), ("g", 2, 3)]
    for wrong in (
        of_shape((3, 2)),
        of_shape((2, 3), np.int32),
        np.ones((2, 3), np.float32),
        [1, 2],
    ):
        for _ in range(2):  # what was refused is not remembered as accepted
            with pytest.raises(UserError):
                check("f", wrong)
