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
