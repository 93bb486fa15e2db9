"""What a caller in Python may hand over as images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jfusion import arrays
from jfusion.errors import UserError

GRAY = np.arange(20, dtype=np.uint8).reshape(4, 5)
COLOR = np.stack([GRAY, GRAY + 1, GRAY + 2], -1)


@pytest.mark.parametrize(
    ("x", "layout", "shapes"),
    [
        (GRAY, "image", [(4, 5)]),
        (COLOR, "image", [(4, 5, 3)]),
        (GRAY[..., None], "image", [(4, 5)]),
        (np.moveaxis(COLOR, 2, 0), "CHW", [(4, 5, 3)]),
        (GRAY[None, None], "NCHW", [(4, 5)]),
        (np.stack([np.moveaxis(COLOR, 2, 0)] * 2), "NCHW", [(4, 5, 3)] * 2),
        ([GRAY, COLOR], "list", [(4, 5), (4, 5, 3)]),
        (Image.fromarray(COLOR), "image", [(4, 5, 3)]),
    ],
)
def test_images_come_back_as_they_were_handed_over(x, layout, shapes):
    read = arrays.read(x, "a")
    assert (read.layout, [v.shape for v in read.arrays]) == (layout, shapes)
    back = arrays.write(read.arrays, read)
    if isinstance(x, list):
        assert all((u == v).all() for u, v in zip(back, x, strict=True))
    elif x is not None and layout != "image":
        assert back.shape == x.shape and back.dtype == x.dtype and (back == x).all()
    assert type(back) is type(x)


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]), st.integers(1, 3))
def test_a_batch_of_any_size_keeps_its_values(h, w, c, n):
    x = np.random.default_rng(0).random((n, c, h, w), dtype=np.float32)
    read = arrays.read(x, "a")
    np.testing.assert_array_equal(arrays.write(read.arrays, read), x)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        ("a.png", "must be a NumPy array, a PIL image, a Jittor Var or a list of these, not str"),
        (np.zeros((2, 3, 4, 5, 6)), r"must be \(H, W\), .* not \(2, 3, 4, 5, 6\)"),
        (np.zeros((7, 5, 2)), "with 1 or 3 channels"),
        (np.array([["a"]]), "must hold numbers"),
        (np.zeros((0, 4)), "is empty"),
        (np.full((2, 2), np.nan), "not finite"),
        ([], "a list of single images"),
        (Image.new("I;16", (2, 2)), "mode I;16"),
    ],
)
def test_what_is_no_image_is_refused_in_one_sentence(x, said):
    with pytest.raises(UserError, match=said) as refused:
        arrays.read(x, "a")
    assert "\n" not in str(refused.value)


def test_vars_are_known_without_importing_jittor():
    from jfusion.runtime import jt

    var = jt.array(GRAY[None, None].astype(np.float32))
    read = arrays.read(var, "a")
    assert (read.kind, read.layout) == ("jittor", "NCHW")
    assert isinstance(arrays.write(read.arrays, read), jt.Var)
