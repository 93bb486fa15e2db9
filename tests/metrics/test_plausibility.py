"""Negatives and clipped tones are seen."""

from __future__ import annotations

import numpy as np
import pytest

from jfusion.metrics.plausibility import Plausibility, plausibility, warnings

RNG = np.random.default_rng(0)
A = RNG.integers(20, 200, (40, 50)).astype(np.uint8)
B = np.clip(A.astype(int) + RNG.integers(-15, 15, A.shape), 1, 254).astype(np.uint8)


def test_a_negative_is_anti_correlated_and_a_mean_is_not():
    mean = ((A.astype(float) + B) / 2).round().astype(np.uint8)
    assert plausibility(mean, A, B).correlation > 0.9
    negative = plausibility(255 - mean, A, B)
    assert negative.with_a == pytest.approx(np.corrcoef(255.0 - mean.ravel(), A.ravel())[0, 1])
    assert max(negative.with_a, negative.with_b) < -0.9


def test_a_pixel_is_clipped_where_neither_source_is_at_that_end():
    a, b, fused = (np.full((10, 10), v, np.uint8) for v in (0, 90, 60))
    fused[0, :5], fused[1, :3] = 0, 255
    assert plausibility(fused, a, b).clipped == pytest.approx(0.03)  # a is black all over
    assert plausibility(fused, b, b).clipped == pytest.approx(0.08)


def test_a_constant_image_has_no_correlation_and_no_warning():
    flat = np.full_like(A, 7)
    value = plausibility(A, flat, flat)
    assert np.isnan(value.correlation) and warnings({"x": value}) == []
    assert plausibility(A, flat, A).correlation == pytest.approx(1)


def test_warnings_count_and_name_the_worst():
    images = {f"{i}": Plausibility(0.5, 0.1 - i / 10, i / 200) for i in range(6)}
    negative, clipped = warnings(images)
    assert negative.startswith("warning: 4 of 6 fused images are anti-correlated with a source: ")
    assert negative.endswith("5 (-0.40), 4 (-0.30), 3 (-0.20) and 1 more")
    assert clipped.endswith("clipped in more than 1 % of the pixels: 5 (2.5%), 4 (2.0%), 3 (1.5%)")
    (line,) = warnings({"x": Plausibility(-0.5, 0.2, 0.01)})
    assert line == "warning: 1 of 1 fused images is anti-correlated with a source: x (-0.50)"
