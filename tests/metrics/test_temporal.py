"""The flicker of a fused clip."""

from __future__ import annotations

import numpy as np
import pytest

from jfusion.fusing.steady import Steady
from jfusion.metrics.clips import ClipValues
from jfusion.metrics.temporal import Flicker, flicker


@pytest.fixture
def sources():
    """Two resting clips with noise, and an object that moves in one of them."""
    rng = np.random.default_rng(0)
    scenes = rng.integers(40, 160, (2, 1, 8, 10)).repeat(8, 2).repeat(8, 3)
    clips = np.round(scenes + 1.2 * rng.standard_normal((2, 12, 64, 80)))
    for t in range(12):
        clips[0, t, 20:40, 4 * t : 4 * t + 12] = rng.integers(201, 256, (20, 12))
    return clips


def test_the_average_is_steady_and_a_pumping_brightness_is_not(sources):
    a, b = sources
    mean = (a + b) / 2
    assert flicker(mean, a, b) == pytest.approx(0.7, abs=0.15)
    pumping = mean + 3 * (np.arange(12) % 2)[:, None, None]
    assert flicker(pumping, a, b) > 1.5


def test_what_moves_does_not_count(sources):
    a, b = sources
    blinking = np.where(a > 200, 255 * (np.arange(12) % 2)[:, None, None], (a + b) / 2)
    assert flicker(blinking, a, b) < 1.2


def test_one_frame_and_clips_that_stand_still_have_no_flicker():
    ratio = Flicker()
    ratio.add(*np.zeros((3, 8, 8)))
    assert np.isnan(ratio.value)
    assert np.isnan(flicker(*np.zeros((3, 4, 8, 8))))


def test_the_filter_calms_what_rests_and_leaves_what_moves(sources):
    a, b = sources
    rng = np.random.default_rng(1)
    choice = rng.integers(0, 2, (12, 64, 80))
    decided = np.where(choice, np.maximum(a, b), (a + b) / 2).astype(np.uint8)  # anew in each frame
    moving = a > 200
    decided[moving] = a[moving]
    steady = Steady()
    calm = np.array([steady.next(*x) for x in zip(decided, a, b, strict=True)])
    assert flicker(calm, a, b) < 0.5 * flicker(decided, a, b)
    assert np.abs(calm - a)[moving].mean() < 3


def test_a_clip_continues_where_another_filter_stopped(sources):
    a, b = sources
    frames = ((a + b) / 2).astype(np.uint8)
    whole = Steady()
    expected = [whole.next(*x) for x in zip(frames, a, b, strict=True)]
    again = Steady()
    again.resume(expected[5], a[5], b[5])
    np.testing.assert_allclose(again.next(frames[6], a[6], b[6]), expected[6], atol=1)


def test_a_clip_whose_flicker_cannot_be_measured_is_not_called_unsteady():
    said = ClipValues(flicker={"one": float("nan"), "two": 0.5, "three": 2.0}).notes()
    assert "no flicker is measured" in said[0]
    assert [line.rpartition(" ")[2] for line in said[1:]] == ["steady)", "unsteady)"]
