"""Color conversions, against the numbers of OpenCV and Pillow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jfusion.data import color
from jfusion.errors import UserError


def test_conversions_are_opencvs_integers(golden):
    z = golden("fccf/color.npz")
    np.testing.assert_array_equal(color.ycrcb(z["rgb"]), z["ycrcb"])
    np.testing.assert_array_equal(color.from_ycrcb(z["ycrcb_in"])[..., ::-1], z["bgr_out"])
    np.testing.assert_array_equal(color.gray_by_pillow(z["rgb"]), z["gray_pil"])
    made = np.arange(256, dtype=np.float32) / np.float32(255) * 2 - 1
    np.testing.assert_allclose(made, z["to_float"], rtol=0, atol=1e-7)
    assert abs(color.gray(z["rgb"]) - z["gray_eval"]).max() <= 1  # at exact halves
    np.testing.assert_array_equal(color.jet(np.arange(256, dtype=np.uint8)), z["jet_rgb"])


def test_gray_is_the_rounded_luma_and_has_no_chroma():
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (5, 7, 3), np.uint8)
    np.testing.assert_array_equal(color.gray(rgb), np.round(color.luma(rgb.astype(np.float32))))
    flat = np.repeat(rgb[..., :1], 3, 2)
    assert color.is_color(rgb) and not color.is_color(flat)
    assert (color.chroma(flat) == 128).all()
    np.testing.assert_array_equal(color.with_chroma(flat[..., 0], color.chroma(flat)), flat)


def test_weighted_chroma_prefers_the_stronger_color():
    a, b = np.array([[[128, 200]]] * 2, np.uint8), np.array([[[90, 128]]] * 2, np.uint8)
    assert color.weighted_chroma(a, b)[0].tolist() == [[90, 200]]
    gray = np.full((2, 1, 2), 128, np.uint8)
    assert color.weighted_chroma(gray, gray).tolist() == gray.tolist()


def test_a_pair_gets_the_chroma_of_its_rule():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 4, 6, 3), np.uint8)
    np.testing.assert_array_equal(color.pair_chroma(a, b, "a"), color.chroma(a))
    np.testing.assert_array_equal(color.pair_chroma(a, b, "b"), color.chroma(b))
    both = color.weighted_chroma(color.chroma(a), color.chroma(b))
    np.testing.assert_array_equal(color.pair_chroma(a, b, "weighted"), both)
    np.testing.assert_array_equal(color.pair_chroma(None, b, "weighted"), color.chroma(b))
    assert color.pair_chroma(a, b, "none") is None and color.pair_chroma(None, b, "a") is None


def test_pseudo_colors_rise_from_a_black_background_where_it_is_wanted():
    levels = np.arange(256, dtype=np.uint8)
    table, black = color.jet(levels), color.jet(levels, "black")
    assert tuple(table[0]) == (0, 0, 128) and tuple(black[0]) == (0, 0, 0)
    np.testing.assert_array_equal(table[32:], black[32:])
    with pytest.raises(UserError, match="--background must be one of jet, black"):
        color.jet(levels, "white")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@given(seed=st.integers(0, 1000))
def test_recombined_colors_keep_the_luma_within_a_level(dtype, seed):
    rng = np.random.default_rng(seed)
    top = np.iinfo(dtype).max
    y = rng.choice([0, 1, top // 2, top - 1, top, *rng.integers(0, top, 3)], (9, 11)).astype(dtype)
    crcb = color.chroma(rng.integers(0, 256, (9, 11, 3), np.uint8))
    rgb = color.with_chroma(y, crcb)
    assert rgb.dtype == dtype
    assert abs(color.luma(rgb.astype(np.float64)) - y).max() < 1 + top / 255 * 0.2


def test_large_images_are_recolored_band_by_band_with_the_same_result(monkeypatch):
    rng = np.random.default_rng(0)
    rgb, other = rng.integers(0, 256, (2, 40, 30, 3), np.uint8)

    def everything():
        chroma = color.weighted_chroma(color.chroma(rgb), color.chroma(other))
        return color.gray(rgb), chroma, color.with_chroma(rgb[..., 0], chroma)

    whole = everything()
    monkeypatch.setattr(color, "_bands", lambda h, w: (slice(i, i + 7) for i in range(0, h, 7)))
    for found, expected in zip(everything(), whole, strict=True):
        np.testing.assert_array_equal(found, expected)
