"""The grid of images: its size, where the cells are, and how they are scaled."""

from __future__ import annotations

import numpy as np
import pytest

from jfusion.data.image import read_rgb
from jfusion.errors import UserError
from jfusion.report.figures import GAP, HEAD, grid

BLACK, GRAY = np.zeros((10, 20), np.uint8), np.full((5, 5), 128, np.uint8)
RED = np.zeros((20, 20, 3), np.uint8)
RED[..., 0] = 255


def test_cells_are_scaled_to_one_height_and_stand_in_columns(tmp_path):
    path = grid(tmp_path / "new/grid.png", ["A", "fused"], [[BLACK, RED], [GRAY, GRAY]], height=40)
    pixels = read_rgb(path)
    # the first column is as wide as its widest cell, 20x10 at a height of 40
    assert pixels.shape == (HEAD + 2 * (40 + GAP), 80 + 40 + 3 * GAP, 3)
    second, below = GAP + 80 + GAP, HEAD + 40 + GAP
    assert (pixels[HEAD : HEAD + 40, GAP : GAP + 80] == 0).all()
    assert (pixels[HEAD : HEAD + 40, second : second + 40] == [255, 0, 0]).all()
    assert (pixels[below : below + 40, GAP : GAP + 40] == 128).all()
    assert (pixels[below : below + 40, second : second + 40] == 128).all()
    assert (pixels[HEAD:, second + 40 :] == 255).all()  # the rest is white
    assert (pixels[below : below + 40, GAP + 40 : second] == 255).all()


def test_each_column_has_its_label(tmp_path):
    cells = [[BLACK, BLACK]]
    labeled = read_rgb(grid(tmp_path / "a.png", ["A", "B"], cells))
    blank = read_rgb(grid(tmp_path / "b.png", ["", ""], cells))
    assert (blank[:HEAD] == 255).all() and (labeled[HEAD:] == blank[HEAD:]).all()
    halves = np.split(labeled[:HEAD], [labeled.shape[1] // 2], axis=1)
    assert all((half < 255).any() for half in halves)


def test_a_very_flat_cell_keeps_a_pixel(tmp_path):
    tall = np.zeros((1000, 1), np.uint8)
    assert read_rgb(grid(tmp_path / "a.png", ["A"], [[tall]], height=10)).shape[1] == 1 + 2 * GAP


def test_a_figure_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written"):
        grid(tmp_path / "file/grid.png", ["A"], [[BLACK]])
