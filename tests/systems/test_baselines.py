"""The methods without weights: their equations, and that they start no Jittor."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jfusion
from jfusion.systems import base
from jfusion.systems.guided.system import guided_filter
from jfusion.systems.laplacian import pyramid

BASELINES = ("average", "maximum", "laplacian", "guided", "mertens")
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (17, 40), (33, 32)])
def test_an_image_fused_with_itself_stays_what_it_is(name, shape):
    x = RNG.integers(0, 256, shape, dtype=np.uint8)
    fused = jfusion.create(name).fuse(x, x)
    assert abs(fused.astype(int) - x).max() <= 1


@pytest.mark.parametrize("name", BASELINES)
def test_results_stay_in_range_and_keep_color(name):
    a = RNG.integers(0, 256, (24, 31), dtype=np.uint8)
    b = RNG.integers(0, 256, (24, 31, 3), dtype=np.uint8)
    fused = jfusion.create(name).fuse(a, b)
    assert fused.shape == (24, 31, 3) and fused.dtype == np.uint8
    assert jfusion.create(name).fuse(a, a[::-1]).shape == (24, 31)


def test_average_and_maximum_are_what_they_say():
    a, b = RNG.random((2, 2, 1, 5, 6), dtype=np.float32)
    np.testing.assert_allclose(
        jfusion.create("average", weight=0.3).fuse(a, b), 0.3 * a + 0.7 * b, 1e-6
    )
    np.testing.assert_array_equal(jfusion.create("maximum").fuse(a, b), np.maximum(a, b))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 4), st.sampled_from([0.375, 0.4]))
def test_a_pyramid_collapses_to_its_image(h, w, levels, a):
    x = RNG.random((2, h, w), dtype=np.float32)
    levels, window = pyramid.depth(h, w, levels), pyramid.kernel(a)
    parts = pyramid.laplacian(x, levels, window)
    np.testing.assert_allclose(pyramid.collapse(parts, window), x, atol=1e-5)
    flat = pyramid.laplacian(np.full((h, w), 0.7, np.float32), levels, window)
    assert all(abs(detail).max() < 1e-6 for detail in flat[:-1])


def test_reduce_and_expand_are_the_papers_sums():
    """Equations 1 and 2 of Burt and Adelson at a pixel inside, written out."""
    x, window = RNG.random((16, 16), dtype=np.float32), pyramid.GAUSSIAN
    i, j = 3, 4
    expected = sum(
        window[m + 2] * window[n + 2] * x[2 * i + m, 2 * j + n]
        for m in range(-2, 3)
        for n in range(-2, 3)
    )
    assert pyramid.reduce(x, window)[i, j] == pytest.approx(expected, rel=1e-5)
    small, (i, j) = RNG.random((8, 8), dtype=np.float32), (7, 6)
    expected = 4 * sum(
        window[m + 2] * window[n + 2] * small[(i - m) // 2, (j - n) // 2]
        for m in range(-2, 3)
        for n in range(-2, 3)
        if (i - m) % 2 == 0 and (j - n) % 2 == 0
    )
    assert pyramid.expand(small, 16, 16, window)[i, j] == pytest.approx(expected, rel=1e-5)


def test_the_laplacian_pyramid_keeps_the_stronger_detail():
    a, b = np.zeros((2, 1, 1, 32, 32), np.float32) + 0.5
    a[0, 0, 8, 8], b[0, 0, 24, 24] = 1.0, 0.0
    fused = jfusion.create("laplacian").fuse(a, b)[0, 0]
    assert fused[8, 8] > 0.9 and fused[24, 24] < 0.1


def test_the_guided_filter_solves_its_least_squares():
    """Equations 5 and 6 of He et al. by explicit loops over windows."""
    p, guide = RNG.random((2, 9, 11))
    radius, eps = 2, 0.01
    h, w = p.shape
    a, b = np.zeros((2, h, w))
    for i in range(h):
        for j in range(w):
            window = np.s_[max(0, i - radius) : i + radius + 1, max(0, j - radius) : j + radius + 1]
            x, y = guide[window].ravel(), p[window].ravel()
            a[i, j] = np.mean((x - x.mean()) * (y - y.mean())) / (x.var() + eps)
            b[i, j] = y.mean() - a[i, j] * x.mean()
    expected = np.zeros((h, w))
    for i in range(h):
        for j in range(w):
            window = np.s_[max(0, i - radius) : i + radius + 1, max(0, j - radius) : j + radius + 1]
            expected[i, j] = a[window].mean() * guide[i, j] + b[window].mean()
    np.testing.assert_allclose(guided_filter(p, guide, radius, eps), expected, atol=1e-10)


def test_the_guided_fusion_takes_the_sharp_half_of_each_image():
    x = RNG.random((64, 64)).astype(np.float32)
    from scipy.ndimage import gaussian_filter

    blurred = gaussian_filter(x, 3)
    left, right = x.copy(), x.copy()
    left[:, 32:], right[:, :32] = blurred[:, 32:], blurred[:, :32]
    fused = jfusion.create("guided").fuse(left, right)
    errors = [np.mean((v - x) ** 2) for v in (fused, left, right)]
    assert errors[0] < 0.1 * min(errors[1:])


def test_exposure_fusion_weights_are_the_papers_product():
    x = RNG.random((3, 5, 6)).astype(np.float32)
    weight = jfusion.create("mertens").weights(x, in_color=True)[0, 2, 3]
    gray = np.tensordot([0.299, 0.587, 0.114], x, 1)
    contrast = abs(gray[1, 3] + gray[3, 3] + gray[2, 2] + gray[2, 4] - 4 * gray[2, 3])
    exposedness = np.prod(np.exp(-((x[:, 2, 3] - 0.5) ** 2) / (2 * 0.2**2)))
    assert weight == pytest.approx(contrast * x[:, 2, 3].std() * exposedness, rel=1e-4)


def test_exposure_fusion_prefers_what_is_well_exposed():
    rng = np.random.default_rng(1)
    texture = rng.random((48, 48, 3)) * 0.3 + 0.35
    over, under = texture.copy(), texture.copy()
    over[:, :24], under[:, 24:] = 1.0, 0.0
    to_uint8 = lambda v: np.round(v * 255).astype(np.uint8)  # noqa: E731
    pair = to_uint8(over), to_uint8(under)
    errors = [
        abs(jfusion.create(name).fuse(*pair) / 255 - texture).mean()
        for name in ("mertens", "average")
    ]
    assert errors[0] < 0.5 * errors[1]


def test_no_baseline_starts_jittor():
    code = f"""
import sys
import numpy as np
import jfusion
x = np.zeros((8, 8), np.uint8)
for name in {BASELINES}:
    jfusion.create(name).fuse(x, x)
print("jittor" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_large_images_are_fused_band_by_band_without_a_seam(monkeypatch):
    settings = {"mean_size": 5, "base_radius": 6, "detail_radius": 2, "saliency_radius": 2}
    system = jfusion.create("guided", **settings)
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 1, 1, 90, 23), np.float32)
    whole = system.fuse(a, b)
    monkeypatch.setattr(base, "BAND_PIXELS", 23 * 11)
    np.testing.assert_allclose(system.fuse(a, b), whole, rtol=0, atol=1e-6)
