"""Promises that hold for any image, and the fast forms against the formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.signal import convolve2d
from skimage.metrics import structural_similarity

from jfusion import metrics
from jfusion.errors import UserError
from jfusion.metrics import edges, feature, gray_image, information, perceptual, structure, vif

images = hnp.arrays(np.uint8, (50, 45), elements=st.integers(0, 255))
small = hnp.arrays(np.uint8, (6, 5), elements=st.integers(0, 9))
NOT_SYMMETRIC = {"FMI_pixel", "FMI_dct"}  # see their docstrings


@given(images, images, images)
@settings(max_examples=20)
def test_sources_can_be_exchanged(f, a, b):
    there, back = (metrics.evaluate(f, *s, names="all") for s in ((a, b), (b, a)))
    for name in set(there) - NOT_SYMMETRIC:
        np.testing.assert_allclose(there[name], back[name], rtol=1e-9, atol=1e-9, err_msg=name)


@given(images, images, images)
@settings(max_examples=20)
def test_bounds(f, a, b):
    found = metrics.evaluate(f, a, b, names="all")
    bounds = {
        **{"EN": (0, 8), "CC": (-1, 1), "SCD": (-2, 2), "SSIM": (-2, 2), "Qabf": (0, 1)},
        **{"Nabf": (0, 1), "NMI": (0, 2), "Qcb": (0, 1), "VIF": (0, math.inf)},
        **dict.fromkeys(("SD", "SF", "AG", "MI", "MSE", "RMSE", "EI", "Qcv"), (0, math.inf)),
    }
    for name, (low, high) in bounds.items():
        assert math.isnan(found[name]) or low - 1e-9 <= found[name] <= high + 1e-9, name


@given(images)
@settings(max_examples=20)
def test_an_identical_triple(x):
    found = metrics.evaluate(x, x, x, names="all")
    assert found["MSE"] == found["RMSE"] == found["CE"] == found["Nabf"] == 0
    assert found["PSNR"] == (math.inf if x.any() else pytest.approx(math.nan, nan_ok=True))
    assert found["SSIM"] == pytest.approx(2)
    assert found["FMI_pixel"] == found["FMI_dct"] == 1
    if np.ptp(x):
        assert found["CC"] == pytest.approx(1)
        assert found["VIF"] == pytest.approx(2, abs=1e-6)
        assert found["NMI"] == pytest.approx(2)
        assert found["MI"] / math.log(2) == pytest.approx(2 * found["EN"])


@pytest.mark.parametrize("shape", [(1, 1), (1, 60), (60, 1), (6, 7), (2, 2), (3, 41)])
@pytest.mark.parametrize("preset", list(metrics.PRESETS))
def test_images_of_a_few_pixels_give_a_number_or_nan(shape, preset):
    x = np.arange(np.prod(shape)).reshape(shape) % 251
    values = metrics.evaluate(x, x[::-1], x // 2, preset, "all")
    assert all(isinstance(v, float) for v in values.values())
    assert math.isfinite(values["SD"]) and math.isfinite(values["SF"])
    if min(shape) < vif.SHORTEST:
        assert math.isnan(values["VIF"])


@pytest.mark.parametrize("level", [0, 1, 255])
def test_constant_images_give_the_documented_values(level):
    flat, ramp = np.full((50, 60), level), np.add.outer(np.arange(50), np.arange(60))
    values = metrics.evaluate(flat, ramp, ramp, names="all")
    assert values["EN"] == values["SD"] == values["SF"] == values["AG"] == values["MI"] == 0
    assert math.isnan(values["CC"]) and values["VIF"] == 0
    assert math.isnan(values["Qcb"])
    assert math.isnan(values["Qcv"]) == (level != 0)


def test_errors_name_what_is_wrong():
    x = np.zeros((8, 9))
    with pytest.raises(UserError, match=r"unknown metric 'Qbaf'; did you mean 'Qabf'\?"):
        metrics.evaluate(x, x, x, names=["Qbaf"])
    with pytest.raises(UserError, match="one size"):
        metrics.evaluate(x, x[:5], x)
    with pytest.raises(UserError, match="one pixel or more a side"):
        metrics.evaluate(x[:0], x[:0], x[:0])
    with pytest.raises(UserError, match=r"unknown preset 'flim'; did you mean 'film'\?"):
        metrics.evaluate(x, x, x, preset="flim")
    with pytest.raises(UserError, match="source B has values that are not finite"):
        metrics.evaluate(x, x, np.full_like(x, np.nan))


# ---- the formulas written out ------------------------------------------------------------------


@given(hnp.arrays(np.uint8, st.tuples(st.integers(17, 70), st.integers(17, 90))), st.integers(1, 2))
@settings(max_examples=20)
def test_filter_is_a_convolution_where_the_window_fits(x, step):
    window = gray_image.gaussian(17, 3.4)
    expected = convolve2d(x, np.outer(window, window), "valid")[::step, ::step]
    np.testing.assert_allclose(
        gray_image.valid(x.astype(float), window, step), expected, 1e-12, 1e-12
    )


def literal_vif(reference, distorted):
    numerator = denominator = 0.0
    for scale in (1, 2, 3, 4):
        side = 2 ** (5 - scale) + 1
        y, x = np.mgrid[:side, :side] - side // 2
        window = np.exp(-(x * x + y * y) / (2 * (side / 5) ** 2))
        window /= window.sum()
        if scale > 1:
            reference, distorted = (
                convolve2d(i, window, "valid")[::2, ::2] for i in (reference, distorted)
            )
        m1, m2, e1, e2, e12 = (
            convolve2d(i, window, "valid")
            for i in (reference, distorted, reference**2, distorted**2, reference * distorted)
        )
        v1, v2 = np.maximum(e1 - m1 * m1, 0), np.maximum(e2 - m2 * m2, 0)
        for one, two, c in np.nditer([v1, v2, e12 - m1 * m2]):
            g = c / (one + 1e-10)
            s = two - g * c
            if one < 1e-10:
                g, s, one = 0.0, two, 0.0
            if two < 1e-10:
                g, s = 0.0, 0.0
            if g < 0:
                s, g = two, 0.0
            s = max(s, 1e-10)
            numerator += math.log10(1 + g * g * one / (s + 2))
            denominator += math.log10(1 + one / 2)
    return numerator / denominator if denominator else 1.0


@given(hnp.arrays(np.uint8, (2, 44, 47)))
@settings(max_examples=10)
def test_vif_written_out(pair):
    fused, a = pair.astype(float)
    expected = literal_vif(a, fused) + literal_vif(fused, fused)
    np.testing.assert_allclose(vif.viff(fused, a, fused), expected, rtol=1e-6, atol=1e-9)


@given(images, images)
@settings(max_examples=20)
def test_mutual_information_written_out(x, y):
    joint = np.histogram2d(x.ravel(), y.ravel(), bins=256, range=[[0, 256]] * 2)[0] / x.size
    expected = sum(
        joint[i, j] * math.log(joint[i, j] / joint[i].sum() / joint[:, j].sum())
        for i, j in zip(*np.nonzero(joint), strict=True)
    )
    np.testing.assert_allclose(information.mutual_information(x, y, y), 2 * expected, atol=1e-9)


@given(images, images)
@settings(max_examples=20)
def test_ssim_is_that_of_scikit_image(x, y):
    expected = structural_similarity(x.astype(float), y.astype(float), data_range=255)
    np.testing.assert_allclose(structure.ssim(x, y, y), 2 * expected, rtol=1e-9, atol=1e-12)
    expected = structural_similarity(
        x.astype(float),
        y.astype(float),
        data_range=255,
        gaussian_weights=True,
        use_sample_covariance=False,
    )
    found = structure.ssim(x, y, y, window=structure.GAUSSIAN)
    np.testing.assert_allclose(found, 2 * expected, rtol=1e-9, atol=1e-12)


def literal_qabf(fused, sources):
    def edge(x):
        x = x.astype(float)
        gx = convolve2d(x, [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], "same")
        gy = convolve2d(x, [[1, 2, 1], [0, 0, 0], [-1, -2, -1]], "same")
        angle = [math.pi / 2 if h == 0 else math.atan(v / h) for h, v in zip(gx.flat, gy.flat)]  # noqa: B905
        return list(zip(np.hypot(gx, gy).flat, angle, strict=True))

    kept = total = 0.0
    for source in sources:
        for (gf, af), (gs, angle) in zip(edge(fused), edge(source), strict=True):
            ratio = gf if gf == gs else min(gf, gs) / max(gf, gs)
            aligned = 1 - abs(angle - af) / (math.pi / 2)
            q = 0.9994 / (1 + math.exp(-15 * (ratio - 0.5)))
            kept += q * 0.9879 / (1 + math.exp(-22 * (aligned - 0.8))) * gs
            total += gs
    return kept / total if total else math.nan


@given(small, small, small)
def test_qabf_written_out(f, a, b):
    np.testing.assert_allclose(edges.qabf(f, a, b), literal_qabf(f, [a, b]), rtol=1e-9)


def literal_window(a, f):
    """Normalized mutual information of two 3x3 windows as distributions, loop by loop."""

    def distribution(x):
        low, high = x.min(), x.max()
        x = np.ones(9) if low == high else (x - low) / (high - low)
        return x / x.sum()

    def entropy(p):
        return -sum(v * math.log2(abs(v)) for v in np.ravel(p) if v != 0)

    a, f = distribution(a), distribution(f)
    place, fa, ff = np.arange(1, 10), np.cumsum(a), np.cumsum(f)
    spread = math.prod(
        math.sqrt(max((place**2 * p).sum() - (place * p).sum() ** 2, 0)) for p in (a, f)
    )
    da, df = a - 1 / 9, f - 1 / 9
    c = 0.0 if abs(da @ df) < 1e-17 else (da @ df) / math.sqrt((da @ da) * (df @ df))
    bound = np.array([[min(x, y) if c >= 0 else max(x + y - 1, 0.0) for y in fa] for x in ff])
    share = 0.0
    if c and spread:
        share = c / ((bound - np.outer(ff, fa)).sum() / spread)
    padded = np.pad(bound, ((1, 0), (1, 0)))
    mass = padded[1:, 1:] - padded[:-1, 1:] - padded[1:, :-1] + padded[:-1, :-1]
    both = entropy(a) + entropy(f)
    shared = both - entropy(share * mass + (1 - share) * np.outer(f, a))
    return 2 * shared / both if shared else 0.0


@given(hnp.arrays(np.uint8, (2, 3, 4), elements=st.integers(0, 255), unique=True))
def test_feature_mutual_information_written_out(pair):
    a, f = pair.astype(float)
    expected = np.mean(
        [literal_window(a[:, i : i + 3].ravel("F"), f[:, i : i + 3].ravel("F")) for i in (0, 1)]
    )
    np.testing.assert_allclose(feature.fmi_pixel(f, a, a), expected, rtol=1e-6, atol=1e-9)


def test_contrast_metrics_prefer_the_sharper_image():
    rng = np.random.default_rng(0)
    a = np.kron(rng.integers(0, 256, (8, 9)), np.ones((8, 8)))
    blurred = np.pad(convolve2d(a, np.full((5, 5), 1 / 25), "valid"), 2, mode="edge")
    assert perceptual.qcb(a, a, a) > perceptual.qcb(blurred, a, a)
    assert perceptual.qcv(a, a, a) == 0 < perceptual.qcv(blurred, a, a)
