"""The range of values that becomes black and white."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jfusion.data.depth import Range, RangePolicy, recorded_ranges, to_uint8
from jfusion.errors import UserError

RAMP = np.arange(16384, dtype=np.uint16).reshape(128, 128)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ([RAMP], (0, 16383)),
        ([RAMP * 4], (0, 65535)),
        ([RAMP % 256, RAMP % 257], (0, 256)),  # two frames of one camera: one scale
        ([RAMP.astype(np.int16) - 10000], (-10000, 6383)),
        ([RAMP / 16383], (0, 1)),
        ([RAMP / 16383 * 60 - 20], (-20, 40)),
        ([np.full((2, 2), 7, np.uint16)], (7, 8)),
        ([np.zeros((2, 2), np.uint8)], None),
    ],
)
def test_auto_is_the_full_range_or_that_of_the_folder(images, expected):
    chosen = RangePolicy().resolve(images)
    assert chosen == expected if expected is None else chosen == pytest.approx(expected)


@pytest.mark.parametrize("spoiled", [65535, -1.0])  # a dead pixel; a value that means "unknown"
def test_auto_says_that_one_value_takes_the_gray_levels_from_all_others(spoiled):
    notes, frame = [], (RAMP // 64 + 20000).astype(np.uint16 if spoiled == 65535 else np.float32)
    assert RangePolicy().resolve([frame, frame], notes.append) == (20000, 20255) and not notes
    frame[5, 5] = spoiled
    RangePolicy().resolve([frame, frame], notes.append)
    (note,) = notes
    assert "a small part of the range" in note and "--range 'percentile 0.5'" in note
    low, high = RangePolicy.parse("percentile 0.5").resolve([frame])
    assert 20000 <= low < high <= 20255


@pytest.mark.parametrize("chosen, said", [("20000:30000", True), ("-5:0", True), ("0:1", False)])
def test_a_fixed_range_that_holds_no_value_is_said(chosen, said):
    notes = []
    RangePolicy.parse(chosen).resolve([RAMP], notes.append)
    assert [n.startswith(f"--range {chosen} leaves one gray level") for n in notes] == [True] * said


def test_whole_numbers_beside_floating_point_are_said():
    notes = []
    RangePolicy().resolve([RAMP, RAMP], notes.append)
    assert not notes
    RangePolicy().resolve([RAMP, RAMP / 16383], notes.append)
    assert notes[0].startswith("some hold whole numbers, others floating point; one range, 0:16383")


def test_full_fixed_and_percentile():
    assert RangePolicy.parse("full").resolve([RAMP]) == (0, 65535)
    assert RangePolicy.parse("-20:40.5").resolve([RAMP]) == (-20, 40.5)
    low, high = RangePolicy.parse("percentile 1").resolve([RAMP])
    assert low == pytest.approx(164, abs=2) and high == pytest.approx(16219, abs=2)
    assert RangePolicy.parse("percentile:1") == RangePolicy.parse("percentile 1")


@pytest.mark.parametrize(
    "text", ["", "half", "5:5", "9:1", "1:", "nan:2", "percentile 50", "percentile"]
)
def test_anything_else_is_one_line(text):
    with pytest.raises(UserError, match="--range must be auto, full, LOW:HIGH"):
        RangePolicy.parse(text)


def test_eight_bits_stay_and_sixteen_full_ones_keep_the_upper_eight():
    x = np.arange(256, dtype=np.uint8)
    assert to_uint8(x, None) is x
    deep = np.arange(65536).astype(np.uint16)
    np.testing.assert_array_equal(to_uint8(deep, Range(0, 65535)), deep >> 8)


@given(st.floats(-1e5, 1e5, allow_subnormal=False), st.floats(1e-3, 1e5))
def test_the_ends_become_black_and_white_and_what_is_beyond_them_too(low, width):
    chosen = Range(low, low + width)
    values = np.array([low - width, low, low + width / 2, low + width, low + 2 * width])
    np.testing.assert_allclose(to_uint8(values, chosen), [0, 0, 127.5, 255, 255], atol=0.6)


def test_a_range_survives_its_text():
    for chosen in (
        Range(-20.0, 40.25),
        Range(0.0, 65535.0),
        Range(51241.0, 52181.0),
        Range(1e9, 1e9 + 1),
    ):
        assert Range.parse(str(chosen)) == chosen
    assert recorded_ranges({"range_a": "0:5", "task": "IVF"}) == {"a": Range(0, 5)}


HUGE = np.finfo(np.float64).max


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("policy", "values", "expected"),
    [
        ("auto", [-HUGE, 0, HUGE], [0, 128, 255]),
        ("percentile 0", [-HUGE, 0, HUGE], [0, 128, 255]),
        ("-1.7e308:1.7e308", [-HUGE, 0, HUGE], [0, 128, 255]),
        ("0:1e-300", [-1, 0, 1e-300, 1], [0, 0, 255, 255]),
        ("auto", [0, 1e-300], [0, 0]),  # within 0 and 1
        ("auto", [-1e-300, 0], [0, 255]),
        ("auto", [1e300, 1e300], [0, 0]),
        ("auto", [HUGE, HUGE], [0, 0]),
        ("auto", [-HUGE, -HUGE], [0, 0]),
    ],
)
def test_huge_and_tiny_values_are_in_range_without_a_warning(policy, values, expected):
    x = np.array([values], np.float64)
    assert to_uint8(x, RangePolicy.parse(policy).resolve([x]))[0].tolist() == expected
