"""What `metrics.evaluate` accepts: kinds of images, batches, and values whose range is known."""

from __future__ import annotations

import numpy as np
import pytest

from jfusion import metrics
from jfusion.errors import UserError

RNG = np.random.default_rng(0)
LEVELS = RNG.integers(0, 256, (3, 48, 50), dtype=np.uint8)  # fused, a, b


def test_levels_of_any_type_give_the_same_numbers():
    expected = metrics.evaluate(*LEVELS)
    for dtype in (np.int64, np.uint16, np.float32, np.float64):
        assert metrics.evaluate(*LEVELS.astype(dtype)) == expected


def test_fractions_are_refused_unless_their_range_is_given():
    fractions = LEVELS / 255
    with pytest.raises(UserError, match=r"not levels 0\.\.255; say what they mean"):
        metrics.evaluate(*fractions)
    found = metrics.evaluate(*fractions, value_range=(0, 1))
    assert found == pytest.approx(metrics.evaluate(*LEVELS), abs=1e-9)


@pytest.mark.parametrize("bad", [LEVELS[0].astype(int) + 1, LEVELS[0].astype(int) - 1])
def test_values_beyond_the_levels_are_refused(bad):
    bad.flat[0], bad.flat[1] = (300, 0) if bad.max() > 255 else (-4, 0)
    with pytest.raises(UserError, match="source A has values from"):
        metrics.evaluate(LEVELS[0], bad, LEVELS[2])
    with pytest.raises(UserError, match=r"outside value_range=\(0, 255\)"):
        metrics.evaluate(LEVELS[0], bad, LEVELS[2], value_range=(0, 255))


def test_black_and_white_as_0_and_1_is_ambiguous():
    binary = (LEVELS > 127).astype(np.float32)
    with pytest.raises(UserError, match="values 0 and 1 alone"):
        metrics.evaluate(*binary)
    assert metrics.evaluate(*binary, value_range=(0, 1)) == pytest.approx(
        metrics.evaluate(*(binary * 255))
    )


def test_a_batch_gives_a_list():
    one = metrics.evaluate(*LEVELS)
    batch = [np.stack([x, x])[:, None] for x in LEVELS]
    assert metrics.evaluate(*batch) == [one, one]
    assert metrics.evaluate(*([x, x] for x in LEVELS)) == [one, one]
    with pytest.raises(UserError, match="as many fused images as sources"):
        metrics.evaluate(batch[0], LEVELS[1], LEVELS[2])


def test_pil_images_and_color_become_the_gray_of_the_preset():
    from PIL import Image

    rgb = RNG.integers(0, 256, (48, 50, 3), dtype=np.uint8)
    gray = np.round(rgb @ np.float32([0.299, 0.587, 0.114]))
    expected = metrics.evaluate(LEVELS[0], gray, LEVELS[2])
    assert metrics.evaluate(LEVELS[0], rgb, LEVELS[2]) == pytest.approx(expected)
    pil = [Image.fromarray(x) for x in (LEVELS[0], rgb, LEVELS[2])]
    assert metrics.evaluate(*pil) == pytest.approx(expected)
    by_pillow = np.asarray(Image.fromarray(rgb).convert("L"))
    assert metrics.evaluate(LEVELS[0], rgb, LEVELS[2], "film-nankai") == metrics.evaluate(
        LEVELS[0], by_pillow, LEVELS[2], "film-nankai"
    )


@pytest.mark.parametrize("value_range", [(0, np.inf), (0,), 3, "01", (1, 0), (0, np.nan)])
def test_a_range_is_two_finite_numbers_in_order(value_range):
    with pytest.raises(UserError, match="value_range must be two"):
        metrics.evaluate(*LEVELS, value_range=value_range)


def test_names_may_be_any_iterable_of_texts():
    names = ["EN", "SD"]
    assert metrics.evaluate(*LEVELS, names=iter(names)) == metrics.evaluate(*LEVELS, names=names)
    for wrong in (3, [3]):
        with pytest.raises(UserError, match="names of metrics must be texts"):
            metrics.evaluate(*LEVELS, names=wrong)


@pytest.mark.parametrize("preset", ["foo", None])
def test_an_unknown_preset_is_named_with_names_too(preset):
    with pytest.raises(UserError, match="unknown preset"):
        metrics.evaluate(*LEVELS, preset=preset, names=["EN"])


@pytest.mark.parametrize("value", [300, -5])
def test_gray_images_hold_levels(value):
    gray = metrics.GrayImage(np.full(LEVELS[0].shape[:2], value))
    with pytest.raises(UserError, match=r"outside 0\.\.255"):
        metrics.evaluate(gray, *LEVELS[1:])


def test_prepared_color_images_hold_levels_and_have_a_known_evaluator():
    rgb = RNG.integers(0, 256, (48, 50, 3), dtype=np.uint8)
    assert isinstance(metrics.prepare(rgb, "vifb"), metrics.ColorImage)
    assert isinstance(metrics.prepare(rgb, "film"), metrics.GrayImage)
    bright = metrics.prepare(rgb.astype(float) + 100, "vifb")
    with pytest.raises(UserError, match=r"ColorImage with values outside 0\.\.255"):
        metrics.evaluate(bright, *LEVELS[1:], preset="vifb")
    with pytest.raises(UserError, match="unknown preset"):
        metrics.prepare(rgb, "vfib")
