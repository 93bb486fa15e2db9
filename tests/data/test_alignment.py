"""Finding pairs whose images are shifted against each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from jfusion.cli import main
from jfusion.commands.preprocess import Options, preprocess
from jfusion.data import h5
from jfusion.data.alignment import (
    Shift,
    estimate_shift,
    find_shift,
    move,
    normalized_mutual_information,
)
from tests.commands.test_preprocess import make_dataset


def scene(seed=0, shape=(96, 120)):
    """Two images of one scene in [0, 1] whose brightnesses have nothing to do with each other."""
    rng = np.random.default_rng(seed)
    regions = ndimage.zoom(rng.integers(0, 8, (8, 10)), np.array(shape) / (8, 10), order=0)
    a, b = (rng.permutation(8)[regions] / 8 for _ in "ab")
    noise = 0.02 * rng.standard_normal((2, *shape))
    return a + noise[0], b + noise[1]


@settings(max_examples=20, deadline=None)
@given(st.integers(-10, 10), st.integers(-10, 10), st.integers(0, 5))
def test_a_shift_is_found_whatever_the_brightnesses(rows, columns, seed):
    a, b = scene(seed)
    shift = find_shift(a, np.roll(b, (rows, columns), (0, 1)))
    assert (shift.rows, shift.columns) == (rows, columns)
    assert shift.suspicious == (np.hypot(rows, columns) >= 2)


def test_large_images_are_searched_from_small_to_large():
    a, b = scene(1, (330, 410))
    shift = find_shift(a, np.roll(b, (7, -10), (0, 1)))
    assert (shift.rows, shift.columns) == (7, -10)
    assert str(shift) == "b is shifted by -10 columns and +7 rows from a"


@settings(max_examples=12, deadline=None)
@given(st.integers(-24, 24), st.integers(-24, 24), st.integers(0, 3))
def test_a_far_shift_is_estimated(rows, columns, seed):
    a, b = scene(seed, (160, 180))
    shift = estimate_shift([(a, np.roll(b, (rows, columns), (0, 1)))])
    assert (shift.rows, shift.columns) == (rows, columns) and shift.certainty > 1


def test_pairs_of_one_shift_are_estimated_together():
    rng = np.random.default_rng(0)
    pairs = []
    for seed in range(6):
        a, b = scene(seed, (160, 180))
        a, b = (x + 0.7 * rng.standard_normal(x.shape) for x in (a, np.roll(b, (9, -14), (0, 1))))
        pairs.append((a, b))
    shift = estimate_shift(pairs)
    assert (shift.rows, shift.columns) == (9, -14)
    assert shift.certainty > np.mean([estimate_shift([p]).certainty for p in pairs])


def test_nothing_is_estimated_of_what_is_too_small_or_unrelated():
    noise = np.random.default_rng(0).random((2, 160, 160))
    assert estimate_shift([noise[:, :12, :12]]) == (0, 0, 0)
    assert np.isfinite(estimate_shift([(np.zeros((80, 80)), np.zeros((80, 80)))]).certainty)


@given(st.integers(-5, 5), st.integers(-5, 5))
def test_a_moved_image_fits_and_the_rest_is_filled(rows, columns):
    a = np.arange(1, 13).reshape(3, 4)
    moved = move(a, Shift(rows, columns, 1.0), np.zeros((3, 4), int))
    for y in range(3):
        for x in range(4):
            inside = 0 <= y - rows < 3 and 0 <= x - columns < 4
            assert moved[y, x] == (a[y - rows, x - columns] if inside else 0)


def test_pairs_that_tell_nothing_are_not_suspected():
    rng = np.random.default_rng(0)
    noise = rng.random((2, 96, 96))
    assert not find_shift(*noise).suspicious
    assert not find_shift(noise[0], np.zeros((96, 96))).suspicious
    tiny = noise[:, :20, :20]
    assert find_shift(tiny[0], np.roll(tiny[0], 5, 0)).length == 0


def test_mutual_information_is_one_for_strangers_and_two_for_twins():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 400, 400))
    assert normalized_mutual_information(a, 1 - a) == pytest.approx(2, abs=0.01)
    assert normalized_mutual_information(a, b) == pytest.approx(1, abs=0.01)


def test_preprocessing_lists_misaligned_pairs_and_remembers_them(tmp_path, capsys):
    a, b = ((np.clip(x, 0, 1) * 255).astype(np.uint8) for x in scene())
    make_dataset(tmp_path, {"good": (a, b), "bad": (a, np.roll(b, (5, 3), (0, 1)))})
    data = ["--task", "IVF", "--dataset", "Set", "--split", "test", "--root", str(tmp_path)]
    for _ in range(2):  # written, and up to date
        assert main(["preprocess", *data, "--out", str(tmp_path / "o.h5")]) == 0
        said = capsys.readouterr().out
        assert "1 of 2 pairs may be misaligned" in said
        assert "bad: b is shifted by +3 columns and +5 rows from a" in said and "good" not in said
    made = Options(
        "IVF", "Set", "test", str(tmp_path), str(tmp_path / "p.h5"), check_alignment=False
    )
    assert preprocess(made).misaligned == [] and h5.PairFile(tmp_path / "p.h5").names


@pytest.mark.parametrize("smooth", [0, 2, 5])
def test_no_shift_is_certain_between_images_that_share_nothing(smooth):
    rng = np.random.default_rng(1)
    trusted = 0
    for _ in range(8):
        a, b = (ndimage.gaussian_filter(x, smooth) for x in rng.random((2, 160, 160)))
        trusted += estimate_shift([(a, b)]).certainty >= 1
    assert trusted <= 1
