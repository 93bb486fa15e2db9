"""Each CPU kernel against its plain form: values and gradients, over shapes.

The plain form runs in float64, so the differences are the kernel's own rounding.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jfusion.ops import (
    activation,
    attention,
    channel_attention,
    conv,
    depthwise,
    expand,
    filters,
    group_norm,
    matmul,
    norm,
    norm_conv,
    resize,
)
from jfusion.runtime import jt, nn
from jfusion.text import ops as encoder

sizes = st.integers(1, 19)
few = st.integers(1, 4)


@pytest.fixture(autouse=True, scope="module")
def keep_float64():
    with jt.flag_scope(auto_convert_64_to_32=0):
        yield


def arrays(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(s).astype(np.float32) for s in shapes]


def both(kernel, plain, inputs, tolerance=2e-5):
    """Outputs and gradients of a random weighted sum of them agree."""
    out, gradients = run(kernel, inputs, np.float32)
    with jt.flag_scope(use_cuda=0):  # a GPU has no products of float64
        expected, expected_gradients = run(plain, inputs, np.float64)
    for found, wanted in zip([*out, *gradients], [*expected, *expected_gradients], strict=True):
        assert found.shape == wanted.shape
        scale = max(1.0, np.abs(wanted).max(initial=0))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * scale)


def run(function, inputs, dtype):
    variables = [jt.array(x.astype(dtype)) for x in inputs]
    out = function(*variables)
    out = list(out) if isinstance(out, tuple | list) else [out]
    weights = arrays(99, *[o.shape for o in out])
    total = sum((o * jt.array(w.astype(dtype))).sum() for o, w in zip(out, weights, strict=True))
    return [o.numpy() for o in out], [g.numpy() for g in jt.grad(total, variables)]


def test_a_plain_convolution_takes_a_bias_of_one_number_just_loaded():
    x, w, b = (jt.array(v) for v in arrays(5, (1, 3, 4, 5), (1, 3, 1, 1), (1,)))
    b = jt.zeros(1).update(b)
    out = jt.sigmoid(
        conv.plain_conv(x, w, b)
    ).numpy()  # all in one kernel, where the bias is a constant
    expected = np.einsum("nchw,oc->nohw", x.numpy(), w.numpy()[:, :, 0, 0]) + b.numpy()
    np.testing.assert_allclose(out, 1 / (1 + np.exp(-expected)), atol=1e-6)


@pytest.mark.skipif(not jt.flags.use_cuda, reason="a GPU's alone")
def test_convolutions_in_bfloat16_are_near_those_in_float32(monkeypatch):
    inputs = arrays(4, (2, 3, 8, 9), (4, 3, 3, 3), (4,))
    (exact,), slopes = run(conv.conv, inputs, np.float32)
    monkeypatch.setenv("JFUSION_PRECISION", "bfloat16")
    (out,), found = run(conv.conv, inputs, np.float32)
    for narrow, wide in zip([out, *found[:2]], [exact, *slopes[:2]], strict=True):
        assert narrow.dtype == np.float32
        assert 1e-4 < abs(narrow - wide).max() / abs(wide).max() < 2e-2


@given(few, few, few, sizes, sizes)
@example(2, 3, 5, 70, 61)  # more than one block of pixels
@settings(max_examples=8)
def test_conv1x1(n, c, o, h, w):
    both(conv.conv1x1, conv.plain_conv, arrays(0, (n, c, h, w), (o, c, 1, 1), (o,)))


@given(few, few, few, sizes, sizes, st.sampled_from([1, 3, 5]))
@example(1, 32, 3, 9, 70, 3)  # more than one block of rows
@example(2, 130, 128, 3, 5, 3)  # few pixels, many channels
@example(1, 129, 128, 7, 1, 5)
@settings(max_examples=8)
def test_conv(n, c, o, h, w, k):
    both(conv.conv, conv.plain_conv, arrays(1, (n, c, h, w), (o, c, k, k), (o,)))


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
        found = conv.conv(jt.array(x), jt.array(weight), jt.array(bias)).numpy()
        exact = [jt.array(v.astype(np.float64)) for v in (x, weight, bias)]
        with jt.flag_scope(use_cuda=0):
            expected = conv.plain_conv(*exact).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * abs(expected).max())


@given(few, few, sizes, sizes)
@settings(max_examples=8)
def test_depthwise3x3(n, c, h, w):
    both(
        conv.depthwise3x3,
        lambda x, w: depthwise.plain_depthwise(x, w, 1),
        arrays(2, (n, c, h, w), (c, 1, 3, 3)),
    )


@given(few, few, sizes, sizes, st.sampled_from([3, 5, 7]), st.integers(0, 3))
@example(2, 3, 5, 70, 7, 3)  # a block of 64 pixels, and a rest
@example(1, 2, 70, 61, 3, 1)  # two of a GPU's blocks share a sum
@settings(max_examples=10)
def test_depthwise(n, c, h, w, k, padding):
    h, w = (max(size, k - 2 * padding) for size in (h, w))
    padding = min(padding, k - 1)
    both(
        lambda *x: depthwise.depthwise(*x, padding),
        lambda *x: depthwise.plain_depthwise(*x, padding),
        arrays(18, (n, c, h, w), (c, 1, k, k)),
    )


@given(few, few, sizes, sizes, st.sampled_from([(7, "gelu"), (5, "mish"), (3, "mish")]))
@example(2, 2, 5, 70, (7, "gelu"))
@settings(max_examples=8)
def test_shuffled_gate(n, c, h, w, kind):
    both(
        lambda *x: depthwise.shuffled_gate(*x, kind[1]),
        lambda *x: depthwise.plain_shuffled_gate(*x, kind[1]),
        arrays(19, (n, 4 * c, h, w), (n, 4 * c, h, w), (c, 1, kind[0], kind[0])),
    )


def test_tanh_has_a_gradient_where_it_is_saturated():
    x = jt.array(np.float32([-1e4, -20, -1, 0, 1, 20, 1e4]))
    y = activation.tanh(x)
    np.testing.assert_allclose(y.numpy(), np.tanh(x.numpy()), rtol=1e-6)
    slope = jt.grad(y.sum(), x).numpy()
    np.testing.assert_allclose(slope, 1 - np.tanh(x.numpy()) ** 2, rtol=1e-5, atol=1e-7)


def test_mish_far_out():
    b = np.array([-1e4, -90, -20, -1e-20, 0, 1e-20, 19, 21, 90, 1e4], np.float32)
    b = b.reshape(1, 1, 1, -1).repeat(4, 1)
    both(
        lambda *x: depthwise.shuffled_gate(*x, "mish"),
        lambda *x: depthwise.plain_shuffled_gate(*x, "mish"),
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


@given(few, st.integers(2, 9), sizes, sizes)
@example(1, 3, 70, 61)
@settings(max_examples=8)
def test_channel_layer_norm(n, c, h, w):
    inputs = arrays(3, (n, c, h, w), (c,), (c,))
    both(norm.channel_layer_norm, norm.plain_channel_layer_norm, inputs, 2e-4)


@given(few, few, few, sizes, sizes)
@example(2, 2, 2, 70, 61)
@settings(max_examples=8)
def test_group_norm(n, groups, k, h, w):
    h += 1  # one value alone is normalised to nothing
    inputs = arrays(14, (n, groups * k, h, w), (groups * k,), (groups * k,))
    both(
        lambda x, *rest: group_norm.group_norm(x, groups, *rest),
        lambda x, *rest: group_norm.plain_group_norm(x, groups, *rest),
        inputs,
        3e-4,
    )


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
    found = getattr(module, function)(jt.array(x.astype(np.float32)), *groups, ones, zeros).numpy()
    np.testing.assert_allclose(found, exact, atol=5e-3)  # the input itself is rounded to 3e-5


@given(few, few, sizes, sizes, sizes, sizes, st.booleans())
@settings(max_examples=8)
def test_bilinear(n, c, h, w, height, width, align):
    both(
        lambda x: resize.bilinear(x, height, width, align),
        lambda x: resize.plain_bilinear(x, height, width, align),
        arrays(16, (n, c, h, w)),
    )


@given(few, few, sizes, sizes)
@example(1, 4, 60, 61)  # more than one block
@settings(max_examples=8)
def test_prelu(n, c, h, w):
    both(activation.prelu, activation.plain_prelu, arrays(17, (n, c, h, w), (1,)))


@given(few, few, sizes, sizes)
@example(1, 4, 60, 61)  # more than one block
@settings(max_examples=8)
def test_elementwise(n, c, h, w):
    x, branch, scale, one, two = arrays(21, (n, c, h, w), (n, c, h, w), (c,), (1,), (1,))
    both(activation.squared_relu, activation.plain_squared_relu, [x])
    both(activation.relu6, activation.plain_relu6, [5 * x])
    both(activation.silu, activation.plain_silu, [5 * x])
    both(activation.star_relu, activation.plain_star_relu, [x, one, two], 1e-4)
    both(activation.add_scaled, activation.plain_add_scaled, [x, branch, scale])


@given(few, few, sizes, sizes)
@settings(max_examples=8)
def test_gelu_gate(n, c, h, w):
    both(
        activation.gelu_gate,
        activation.plain_gelu_gate,
        [3 * x for x in arrays(4, (n, 2 * c, h, w))],
    )


def test_gelu_gate_far_out():
    x = np.array([-1e4, -12, -6, -1e-20, 0, 1e-20, 6, 12, 1e4], np.float32).reshape(1, 1, 1, -1)
    x = np.concatenate([x, np.ones_like(x)], 1)
    both(activation.gelu_gate, activation.plain_gelu_gate, [x], 1e-6)


@given(few, few, st.integers(1, 20), sizes, sizes)
@example(2, 3, 19, 130, 70)  # several bands of rows, an incomplete last group of channels
@settings(max_examples=8)
def test_expand_depthwise(n, c, d, h, w):
    inputs = arrays(12, (n, c, h, w), (d, c, 1, 1), (d, 1, 3, 3))
    both(expand.expand_depthwise, expand.plain_expand_depthwise, inputs)


@given(few, few, st.integers(1, 20), few, sizes, sizes)
@example(2, 3, 19, 4, 130, 70)
@settings(max_examples=8)
def test_gated_feed_forward(n, c, d, o, h, w):
    c += 1  # one channel alone is normalised to nothing
    weights = (2 * d, c, 1, 1), (2 * d, 1, 3, 3), (o, d, 1, 1)
    both(
        lambda x, w, b, *rest: expand.gated_feed_forward(x, (w, b), *rest),
        lambda x, w, b, *rest: expand.plain_gated_feed_forward(x, (w, b), *rest),
        arrays(13, (n, c, h, w), (c,), (c,), *weights),
        3e-4,
    )


@given(few, st.sampled_from([(1, 1), (2, 3), (4, 4)]), sizes, sizes)
@example(1, (2, 4), 70, 61)
@settings(max_examples=8)
def test_channel_attention(n, heads_and_width, h, w):
    heads, d = heads_and_width
    width = 3 * heads * d
    inputs = arrays(5, (n, 4, h, w), (4,), (4,), (width, 4, 1, 1), (width, 1, 3, 3), (heads, 1, 1))

    def call(function):
        return lambda x, w, b, *rest: function(x, (w, b), *rest)

    kernel, plain = (
        call(channel_attention.channel_attention),
        call(channel_attention.plain_channel_attention),
    )
    tolerance = 1e-3 if h * w < 9 else 3e-4  # a few pixels: norms near zero
    both(lambda *x: kernel(*x)[0], lambda *x: plain(*x)[0], inputs, tolerance)
    out, weights = (v.numpy() for v in kernel(*map(jt.array, inputs)))
    _, expected = (v.numpy() for v in plain(*map(jt.array, inputs)))
    np.testing.assert_allclose(weights, expected, atol=1e-4)
    assert out.shape == (n, heads * d, h, w)


@given(few, sizes, sizes, st.sampled_from([(1, 2), (2, 4)]))
@example(1, 40, 33, (2, 3))
@settings(max_examples=8)
def test_averaged_attention(n, t, s, heads_and_width):
    heads, d = heads_and_width
    inputs = arrays(6, (n, t, heads * d), (n, s, heads * d), (n, s, 5))
    both(
        lambda *x: attention.averaged_attention(*x, heads),
        lambda *x: attention.plain_averaged_attention(*x, heads),
        inputs,
    )


@given(st.lists(few, max_size=2), sizes, sizes)
@settings(max_examples=8)
def test_softmax(lead, rows, columns):
    both(
        attention.softmax,
        attention.plain_softmax,
        [3 * x for x in arrays(7, (*lead, rows, columns))],
    )


@given(st.lists(few, max_size=2), sizes, sizes, sizes, st.booleans(), st.booleans())
@settings(max_examples=8)
def test_matmul(lead, m, k, n, ta, tb):
    a = (*lead, k, m) if ta else (*lead, m, k)
    b = (*lead, n, k) if tb else (*lead, k, n)
    both(
        lambda x, y: matmul.matmul(x, y, ta, tb),
        lambda x, y: matmul.plain_matmul(x, y, ta, tb),
        arrays(8, a, b),
    )


@given(few, few, sizes, sizes, sizes, sizes)
@settings(max_examples=8)
def test_nearest(n, c, h, w, height, width):
    rows, columns = (jt.array(resize.nearest_index(*x)) for x in ((h, height), (w, width)))
    both(
        lambda x: resize.nearest(x, height, width),
        lambda x: resize.plain_gather(x, rows, columns),
        arrays(9, (n, c, h, w)),
    )


@given(few, sizes, sizes)
@settings(max_examples=8)
def test_sobel(n, h, w):
    both(filters.sobel_magnitude, filters.plain_sobel_magnitude, arrays(10, (n, 1, h, w)))


@given(few, few, sizes, sizes, st.sampled_from([3, 5, 11]))
@settings(max_examples=8)
def test_separable(n, c, h, w, size):
    window = filters.gaussian_window(size, 1.5)
    both(
        lambda x: filters.separable(x, window),
        lambda x: filters.plain_separable(x, window),
        arrays(11, (n, c, h, w)),
    )


@given(few, st.integers(1, 40), few, st.integers(1, 9))
@settings(max_examples=8)
def test_encoder_layers(n, length, heads, size):
    """No gradients: the text encoder is frozen."""
    lengths = np.random.default_rng(1).integers(1, length + 1, n).astype(np.int32)
    h = heads * size
    cases = (
        (
            encoder.self_attention,
            encoder.plain_self_attention,
            [(n, length, 3 * h)],
            (lengths, heads),
        ),
        (
            encoder.add_norm,
            encoder.plain_add_norm,
            [(n, length, h), (h,), (n, length, h), (h,), (h,)],
            (1e-12,),
        ),
        (encoder.bias_gelu, encoder.plain_bias_gelu, [(n, length, h), (h,)], ()),
    )
    for kernel, plain, shapes, more in cases:
        if kernel is encoder.add_norm and h == 1:
            continue  # the variance of one value is rounding noise
        inputs = arrays(0, *shapes)
        more = [jt.array(m) if isinstance(m, np.ndarray) else m for m in more]
        found = kernel(*(jt.array(x) for x in inputs), *more).numpy()
        with jt.flag_scope(use_cuda=0):
            wanted = plain(*(jt.array(x.astype(np.float64)) for x in inputs), *more).numpy()
        np.testing.assert_allclose(found, wanted, rtol=0, atol=3e-5)


@given(
    few,
    few,
    st.integers(6, 12),
    st.integers(6, 12),
    st.integers(1, 5),
    st.sampled_from(["reflect", "edge"]),
)
@settings(max_examples=8)
def test_pad(n, c, h, w, reach, mode):
    (x,) = arrays(0, (n, c, h, w))
    widths = ((0, 0), (0, 0), (reach, reach), (reach, reach))
    np.testing.assert_array_equal(
        resize.pad(jt.array(x), reach, mode).numpy(), np.pad(x, widths, mode)
    )
    rows, columns = (np.pad(np.arange(s, dtype=np.int32), reach, mode=mode) for s in (h, w))
    both(
        lambda x: resize.pad(x, reach, mode),
        lambda x: resize.plain_gather(x, jt.array(rows), jt.array(columns)),
        [x],
    )


@given(few, st.sampled_from([1, 2]), few, sizes, sizes)
@settings(max_examples=8)
def test_cosine_attention(n, heads, d, h, w):
    qkv, temperature = arrays(0, (n, 3 * heads * d, h, w), (heads, 1, 1))
    both(
        channel_attention.cosine_attention,
        lambda *x: channel_attention.plain_cosine_attention(*x)[0],
        [qkv + 0.5, temperature],
        tolerance=1e-4,
    )


@given(few, st.sampled_from([1, 2]), few, sizes, sizes)
@settings(max_examples=8)
def test_crossed_cosine_attention(n, heads, d, h, w):
    qkv, temperature = arrays(22, (2 * n, 3 * heads * d, h, w), (heads, 1, 1))
    both(
        channel_attention.crossed_cosine_attention,
        channel_attention.plain_crossed_cosine_attention,
        [qkv + 0.5, temperature],
        tolerance=1e-4,
    )


def test_silu_and_tanh_of_large_values_are_finite():
    x = jt.array(np.array([-1e4, -200, -90, -88, 0, 88, 200, 1e4] * 4, np.float32))
    for f, at_ends in ((activation.silu, (0, 1e4)), (activation.tanh, (-1, 1))):
        y = f(x)
        slope = jt.grad(y.sum(), x).numpy()
        assert np.isfinite(slope).all()
        np.testing.assert_allclose(y.numpy()[[0, 7]], at_ends, atol=1e-6)


def test_silu_after_a_norm_is_finite_for_large_values():
    x = jt.array(np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 4, 4, 4))
    y = group_norm.group_norm(x, 2, jt.ones(4) * 1e3, jt.zeros(4), silu=True)
    assert np.isfinite(y.numpy()).all() and np.isfinite(jt.grad(y.sum(), x).numpy()).all()


def test_silu_and_convolution_in_one_is_the_two_after_each_other():
    rng = np.random.default_rng(0)
    x, w = (
        jt.array(rng.standard_normal(s).astype(np.float32)) for s in ((2, 3, 5, 4), (6, 3, 3, 3))
    )
    b = jt.array(rng.standard_normal(6).astype(np.float32))
    weights = jt.array(rng.standard_normal((2, 6, 5, 4)).astype(np.float32))
    ours, plain = conv.silu_conv(x, w, b), conv.plain_conv(activation.plain_silu(x), w, b)
    np.testing.assert_allclose(ours.numpy(), plain.numpy(), atol=1e-5)
    slopes = [jt.grad((y * weights).sum(), [x, w, b]) for y in (ours, plain)]
    for mine, theirs in zip(*slopes, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), atol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_norm_silu_dropout_and_convolution_in_one_are_the_four_after_each_other(share):
    shapes = (2, 4, 5, 6), (4,), (4,), (6, 4, 3, 3), (6,)
    x, scale, shift, w, b = (jt.array(v) for v in arrays(5, *shapes))
    weights = jt.array(arrays(6, (2, 6, 5, 6))[0])
    jt.set_global_seed(3)
    ours = norm_conv.norm_silu_conv(x, 2, (scale, shift), (w, b), share)
    ours.sync()
    jt.set_global_seed(3)
    kept = norm_conv.dropped(jt.ones(x.shape), jt.rand(1), share)
    kept.sync()
    y = group_norm.plain_group_norm(x, 2, scale.reshape(1, -1), shift.reshape(1, -1), silu=True)
    plain = conv.plain_conv(y * kept.detach(), w, b)
    np.testing.assert_allclose(ours.numpy(), plain.numpy(), atol=1e-5)
    inputs = [x, scale, shift, w, b]
    found = [jt.grad((v * weights).sum(), inputs) for v in (ours, plain)]
    for mine, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), atol=2e-4)


def test_dropout_drops_its_share_and_keeps_the_mean():
    x, seeds = jt.ones(200, 500), [jt.array(np.float32([v])) for v in (0.25, 0.5)]
    first, again, other = (norm_conv.dropped(x, s, 0.1).numpy() for s in (*seeds[:1] * 2, seeds[1]))
    np.testing.assert_array_equal(first, again)
    assert set(np.unique(first)) == {np.float32(0), np.float32(1 / 0.9)}
    for made in (first, other):
        assert abs((made == 0).mean() - 0.1) < 0.005
        assert abs((made == 0).mean(0) - 0.1).max() < 0.1  # no columns
    both = ((first == 0) & (other == 0)).mean()
    assert abs(both - 0.01) < 0.003  # two seeds have nothing to do with each other


def test_batch_norm_with_its_own_statistics_has_their_slopes():
    rng = np.random.default_rng(0)
    x = jt.array(rng.standard_normal((2, 3, 5, 4)).astype(np.float32))
    w, b = (jt.array(rng.random(3).astype(np.float32)) for _ in "wb")
    weights = jt.array(rng.standard_normal(x.shape).astype(np.float32))
    mean = x.mean(3).mean(2).mean(0)
    centred = x - mean.reshape(1, -1, 1, 1)
    var = (centred * centred).mean(3).mean(2).mean(0)
    plain = centred / jt.sqrt(var + 1e-5).reshape(1, -1, 1, 1) * w.reshape(1, -1, 1, 1)
    plain = nn.leaky_relu(plain + b.reshape(1, -1, 1, 1), 0.2)
    ours = norm.leaky_batch_norm(x, w, b, mean, var, lambda v: v)
    np.testing.assert_allclose(ours.numpy(), plain.numpy(), atol=1e-5)
    slopes = [jt.grad((y * weights).sum(), [x, w, b]) for y in (ours, plain)]
    for mine, theirs in zip(*slopes, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), atol=1e-4)
