"""Comparison strips: regions, where methods differ, enlargements, and palettes."""

from __future__ import annotations

import numpy as np
import pytest

from jfusion.errors import UserError
from jfusion.report import strips
from jfusion.report.strips import BORDER, GAP, HEAD, WIDTH

GRAY = np.full((80, 160), 100, np.uint8)


def images():
    """Two sources and two methods that differ in a square at x 100, y 40, which is white in one."""
    marked = GRAY.copy()
    marked[40:60, 100:120] = 255
    return {"IR": GRAY, "VI": np.dstack([GRAY] * 3), "one": GRAY, "two": marked}


def test_the_automatic_region_is_where_the_methods_differ_most():
    x, y, w, h = strips.automatic_region(list(images().values())[2:])
    assert (x, y, w, h) == (100, 40, 20, 20)
    assert strips.automatic_region([GRAY, GRAY]) == (0, 0, 20, 20)


def test_a_sky_of_another_brightness_is_no_region_of_interest():
    dark, bright = np.zeros((2, 80, 160), np.uint8)
    bright[:, :120] = 200  # a large flat area
    dark[40:60, 130:150:2] = 90  # fine structure
    x, _, w, h = strips.automatic_region([dark, bright])
    assert x > 85 and w == h == 20  # not inside the flat area


def test_a_strip_has_a_column_each_and_the_enlarged_region_below():
    pixels = np.asarray(strips.strip(images()))
    assert pixels.shape == (HEAD + WIDTH // 2 + GAP + WIDTH, 4 * WIDTH + 3 * GAP, 3)
    top, middle = HEAD + WIDTH // 2 + GAP, WIDTH // 2
    inside = np.s_[top + BORDER : top + WIDTH - BORDER]
    last, first = 3 * (WIDTH + GAP), 0
    assert (pixels[inside, last + middle] == 255).all()
    assert (pixels[inside, first + middle] == 100).all()
    assert (pixels[top, first + middle] == strips.COLORS[0]).all()
    assert (pixels[:HEAD, :WIDTH] < 128).any()  # the label


def test_every_region_has_its_box_color_and_row():
    regions = strips.parse_zoom(["0,0,20,10", "100,20,10,60"])
    pixels = np.asarray(strips.strip(images(), regions))
    tall = round(1.5 * WIDTH)  # as tall as is allowed, and narrower than the column
    assert pixels.shape[0] == HEAD + WIDTH // 2 + GAP + WIDTH // 2 + GAP + tall
    top = HEAD + WIDTH // 2 + GAP + WIDTH // 2 + GAP
    assert (pixels[top, WIDTH // 2] == strips.COLORS[1]).all() and (pixels[top, 2] == 255).all()


def test_a_palette_colors_the_first_image_if_it_is_gray():
    plain, colored = (np.asarray(strips.strip(images(), palette=p)) for p in ("gray", "inferno"))
    at = (HEAD + 40, 10)
    assert np.ptp(colored[at].astype(int)) > 50 and np.ptp(plain[at]) == 0
    assert (colored[:, WIDTH:] == plain[:, WIDTH:]).all()
    rgb = np.zeros((80, 160, 3), np.uint8)
    rgb[..., 0] = 200
    shown = np.asarray(strips.strip({**images(), "IR": rgb}, palette="inferno"))
    assert shown[at].tolist() == [200, 0, 0]


@pytest.mark.parametrize(
    ("zoom", "words"),
    [
        (["1,2,3"], "must be x,y,w,h"),
        (["1,2,3,-4"], "must be x,y,w,h"),
        (["1,2,0,4"], "1 or more"),
        (["1,2,3,4"] * 5, "4 are the most"),
    ],
)
def test_a_region_is_four_numbers(zoom, words):
    with pytest.raises(UserError, match=words):
        strips.parse_zoom(zoom)


def test_a_region_outside_and_unequal_sizes_are_named():
    with pytest.raises(UserError, match="150,0,20,20 is not inside an image of 160x80"):
        strips.strip(images(), [(150, 0, 20, 20)])
    with pytest.raises(UserError, match="sizes differ: IR 80x160, VI 2x2"):
        strips.strip({"IR": GRAY, "VI": GRAY[:2, :2]})


@pytest.mark.parametrize(("kind", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_strips_are_written_as_png_and_pdf(tmp_path, kind, magic):
    path = strips.write(tmp_path / f"new/x.{kind}", strips.strip({"Größe →": GRAY, "x" * 99: GRAY}))
    assert path.read_bytes().startswith(magic)
