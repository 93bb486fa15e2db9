"""Reading and resizing images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jfusion.data import color, image
from jfusion.errors import UserError
from tests.commands.test_preprocess import random_pair


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 30), st.integers(1, 30))
def test_resize_stays_within_the_values_and_keeps_a_ramp(h, w, height, width):
    x = np.random.default_rng(0).random((h, w)).astype(np.float32)
    y = image.resize(x, height, width)
    assert y.shape == (height, width) and y.min() >= x.min() - 1e-6 and y.max() <= x.max() + 1e-6
    np.testing.assert_array_equal(image.resize(x, h, w), x)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "I;16", "1", "CMYK"])
def test_every_kind_of_image_is_read(tmp_path, mode):
    rgb = random_pair(4)[1]
    suffix = "tiff" if mode == "CMYK" else "png"
    if mode == "I;16":
        Image.fromarray(color.gray(rgb).astype(np.uint16) * 256).save(tmp_path / f"x.{suffix}")
    else:
        Image.fromarray(rgb).convert(mode).save(tmp_path / f"x.{suffix}")
    found = image.read_rgb(tmp_path / f"x.{suffix}")
    assert found.shape == rgb.shape and found.dtype == np.uint8
    if mode in ("L", "LA", "I;16"):
        assert np.abs(color.gray(found) - color.gray(rgb)).max() <= 1


def test_reader_equals_the_authors(golden, tmp_path):
    values = golden("metrics/metrics.npz")
    Image.fromarray(values["reader.rgb"]).save(tmp_path / "x.png")
    np.testing.assert_array_equal(
        color.gray(image.read_rgb(tmp_path / "x.png")), values["reader.gray"]
    )


def test_two_images_of_a_pair_have_one_size_and_pseudo_colors_only_where_gray(tmp_path):
    gray, rgb = random_pair(1)
    paths = [tmp_path / f"{name}.png" for name in ("gray", "rgb", "small")]
    for path, pixels in zip(paths, (gray, rgb, gray[:5]), strict=True):
        image.write(path, pixels)
    a, b = image.Reader().pair(*paths[:2], pseudo_color="a", background="black")
    np.testing.assert_array_equal(a, color.jet(gray, "black"))
    np.testing.assert_array_equal(b, rgb)
    with pytest.raises(UserError, match=r"rgb\.png is in color; pseudo-colors are for gray images"):
        image.Reader().pair(*paths[:2], pseudo_color="b")
    with pytest.raises(UserError, match=r"12x10 and .* is 5x10; both must have one size"):
        image.Reader().pair(paths[0], paths[2])
    with pytest.raises(UserError, match="pseudo_color must be one of none, a, b"):
        image.Reader().pair(*paths[:2], pseudo_color="c")
