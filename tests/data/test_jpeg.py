"""JPEGs whose pixels are not whole."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jfusion.data import image
from jfusion.errors import UserError

KINDS = {
    "color": ("RGB", {}),
    "gray": ("L", {}),
    "progressive": ("RGB", {"progressive": True}),
    "restarts": ("RGB", {"restart_marker_blocks": 8}),
    "cmyk": ("CMYK", {}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def made(kind: str, height: int = 48, width: int = 64) -> bytes:
    mode, options = KINDS[kind]
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "jpeg", quality=90, **options)
    return file.getvalue()


def readers() -> list:
    return [image.read_rgb, image.header]


@every_kind
def test_pixels_that_end_early_are_refused(tmp_path, kind):
    whole, path = made(kind), tmp_path / "x.jpg"
    start = whole.index(b"\xff\xda") + 20
    for cut in range(start, len(whole) - 10, (len(whole) - start) // 8):
        path.write_bytes(whole[:cut] + b"\xff\xd9")  # Pillow shows gray from here on
        for read in readers():
            with pytest.raises(
                UserError, match=r"x.jpg cannot be read: it is truncated or damaged \(.*; copy or"
            ):
                read(path)


def test_pixels_in_the_place_of_which_others_stand_are_refused(tmp_path):
    whole, path = made("color"), tmp_path / "x.jpg"
    path.write_bytes(whole[:1000] + bytes(500) + whole[1500:])
    for read in readers():
        with pytest.raises(UserError, match=r"x.jpg cannot be read: it is truncated or damaged"):
            read(path)


@every_kind
@pytest.mark.parametrize("behind", [b"", bytes(100), b"\0\xff\xd8\xff", b"a map of depth" * 50])
def test_what_follows_the_image_does_not_matter(tmp_path, kind, behind):
    path = tmp_path / "x.jpg"
    path.write_bytes(made(kind) + behind)
    assert image.header(path)[:2] == (48, 64) and image.read_rgb(path).shape == (48, 64, 3)


def test_a_camera_may_fill_up_the_pixels(tmp_path):
    whole, path = made("color"), tmp_path / "x.jpg"
    path.write_bytes(whole[:-2] + bytes(16) + whole[-2:])
    assert image.read_rgb(path).shape == (48, 64, 3)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(sorted(KINDS)))
def test_every_size_is_read(tmp_path_factory, height, width, kind):
    path = tmp_path_factory.getbasetemp() / "x.jpg"
    path.write_bytes(made(kind, height, width))
    assert image.header(path)[:2] == (height, width) == image.read_rgb(path).shape[:2]
