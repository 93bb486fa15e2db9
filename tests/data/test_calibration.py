"""Homographies of a rig: from files, from points, from images."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from jfusion.data import calibration
from jfusion.data.calibration import Calibration
from jfusion.errors import UserError

MATRIX = np.array([[1.1, 0.02, -5], [-0.03, 1.05, 7], [1e-5, -2e-5, 1]])
YAML = """%YAML:1.0
---
camera: "left"
H: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 1.1, 0.02, -5., -0.03, 1.05,
       7., 1e-5, -2e-5, 1. ]
"""


def smooth(shape, seed=0):
    """A random image with structure of several sizes, 0..255."""
    rng = np.random.default_rng(seed)
    layers = [
        ndimage.zoom(rng.random((n, n)), np.array(shape) / n, order=1) / n**0.5 for n in (6, 12, 24)
    ]
    x = sum(layers)
    return (x - x.min()) / np.ptp(x) * 255


@pytest.mark.parametrize(
    "name, text",
    [
        ("c.json", json.dumps({"homography": MATRIX.tolist(), "size_a": [60, 80]})),
        ("c.json", json.dumps(MATRIX.tolist())),
        (
            "c.json",
            json.dumps({"H": {"rows": 3, "cols": 3, "dt": "d", "data": MATRIX.ravel().tolist()}}),
        ),
        ("c.yaml", YAML),
        ("c.yml", YAML.replace("H:", "warp:")),
    ],
)
def test_a_homography_is_read_from_each_format(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    np.testing.assert_allclose(calibration.read(tmp_path / name).homography, MATRIX)


@pytest.mark.parametrize(
    "text, said",
    [
        ("{}", "holds no homography"),
        ("[[1, 2], [3, 4]]", "holds no homography"),
        ("nonsense", "holds no homography"),
        ('{"homography": [[1, 0, 0], [0, NaN, 0], [0, 0, 1]]}', "holds no homography"),
        ('{"homography": [[1, 0, 0], [0, 0, 0], [0, 0, 1]]}', "has no inverse"),
        (
            '{"homography": [[1, 0, 0], [0, 1, 0], [0, 0, 1]], "size_a": [0, 4]}',
            "holds no homography",
        ),
        ("%YAML:1.0\n---\nH: [", "holds no homography"),
    ],
)
def test_a_file_without_a_homography_is_one_line(tmp_path, text, said):
    (tmp_path / "c").write_text(text)
    with pytest.raises(UserError, match=said):
        calibration.read(tmp_path / "c")


def test_what_is_written_is_read_again(tmp_path):
    before = Calibration(MATRIX, (60, 80), (120, 160), 0.5)
    calibration.write(tmp_path / "c.json", before)
    after = calibration.read(tmp_path / "c.json")
    np.testing.assert_array_equal(after.homography, MATRIX)
    assert after[1:] == before[1:]


@given(st.integers(0, 50), st.integers(4, 12))
def test_exact_points_give_the_homography_back(seed, count):
    a = np.random.default_rng(seed).uniform(0, 300, (count, 2))
    fit = calibration.from_points(a, calibration.transformed(MATRIX, a))
    corners = np.array([[0, 0], [300, 0], [0, 300], [300, 300]])
    if count > 5:  # four random points may nearly be on a line
        expected = calibration.transformed(MATRIX, corners)
        np.testing.assert_allclose(
            calibration.transformed(fit.homography, corners), expected, atol=0.01
        )
    assert fit.residual < 1e-3


def test_points_are_read_with_commas_headers_and_comments(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("xa,ya,xb,yb\n0,0,1,1\n10 0 11 1  # a lamp\n\n0;10;1;11\n10, 10, 11, 11\n")
    a, b = calibration.read_points(path)
    assert a.shape == b.shape == (4, 2) and (b - a == 1).all()
    for text, said in (
        ("0 0 1 1\n", "needs 4 or more"),
        ("0 0 1 1\n0 0 1\n", "line 2: a line must hold four numbers"),
        ("0 0 1 1\na b c d\n", "line 2"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=said):
            calibration.read_points(path)
    with pytest.raises(UserError, match="do not decide"):
        calibration.from_points(
            np.array([[i, i] for i in range(5)]), np.array([[i, i] for i in range(5)])
        )


def test_a_is_laid_on_bs_grid_and_b_shows_where_a_ends():
    a = np.zeros((20, 30, 3), np.uint8)
    a[5, 7] = 200
    b = np.full((40, 60, 3), 9, np.uint8)
    shifted = Calibration(np.array([[1.0, 0, 10], [0, 1, 4], [0, 0, 1]]))
    out = shifted.apply(a, b)
    assert out[9, 17, 0] == 200 and out.shape == b.shape and out.dtype == np.uint8
    assert out[0, 0, 0] == 9 and out[39, 59, 0] == 9 and out[10, 12, 0] == 0
    doubled = Calibration(np.eye(3), (20, 30), (20, 30))
    assert doubled.apply(a, b)[10:12, 14:16].max() > 100  # both sizes scale it


def test_a_rig_is_estimated_from_its_images():
    """A sees a part of B at 0.8 of the scale, a little rotated, with unrelated brightness."""
    true = np.array([[1.25, -0.025, 10], [0.025, 1.25, 6], [2e-5, 1e-5, 1]])
    pairs = []
    for seed in range(2):
        b = smooth((150, 200), seed)
        blank = np.zeros((105, 140, 1), np.float32)
        a = Calibration(np.linalg.inv(true)).apply(b[..., None].astype(np.float32), blank)[..., 0]
        pairs.append((255 - np.sqrt(a) * 15, b))
    fit = calibration.estimate(pairs)
    corners = np.array([[0, 0], [139, 0], [0, 104], [139, 104.0]])
    error = calibration.transformed(fit.homography, corners) - calibration.transformed(
        true, corners
    )
    assert np.linalg.norm(error, axis=1).max() < 1.5 and fit.residual < 1
    assert fit.size_a == (105, 140) and fit.size_b == (150, 200)


def test_images_that_share_nothing_are_refused():
    noise = np.random.default_rng(0).random((2, 96, 128))
    with pytest.raises(UserError, match="use more pairs"):
        calibration.estimate([tuple(noise)])
