"""What is known of a fused image by itself: its metrics, and whether it can be what it claims."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jfusion import metrics
from jfusion.data import image
from jfusion.data.h5 import Pair
from jfusion.metrics.plausibility import Plausibility, plausibility

# FILM's columns, and two that show a negative, which has good values of most others.
COLUMNS = (*metrics.PAPER, "CC", "SCD")


def levels(pair: Pair) -> dict[str, np.ndarray]:
    """The gray sources of a pair, A and B, (H, W) uint8."""
    return {
        side: np.round(x[0] * 255).astype(np.uint8) for side, x in (("A", pair.a), ("B", pair.b))
    }


def shown(pair: Pair) -> dict[str, np.ndarray]:
    """The sources of a pair as they look, A and B, (H, W) or (H, W, 3) uint8."""
    colored = {"A": pair.rgb_a, "B": pair.rgb_b}
    return {
        side: gray if colored[side] is None else colored[side]
        for side, gray in levels(pair).items()
    }


def evaluate(
    result: Path, pair: Pair, columns: Sequence[str] = COLUMNS, preset: str = metrics.DEFAULT_PRESET
) -> tuple[dict[str, float], Plausibility]:
    """The metrics of a result and its plausibility, on the gray images as `jfusion test` has them.

    Raises UserError for a file that cannot be read.
    """
    pixels = image.Reader("full").levels(result)
    gray = np.round(metrics.prepare(pixels, preset).pixels).astype(np.uint8)
    h, w = gray.shape  # a system may drop a border
    a, b = (x[:h, :w] for x in levels(pair).values())
    return metrics.evaluate(gray, a, b, preset, columns), plausibility(gray, a, b)
