"""Whether a fused image can be what it claims: signs of a negative or of crushed tones.

Sharpness and contrast can be had without fusing: a negative has the entropy, the deviation and the
gradients of its positive, and a network that is rewarded for gradients may find it. So the correlation
with each source and the clipped pixels are looked at as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

MOST_CLIPPED = 0.01  # of an image's pixels
NAMED = 3  # images that a warning names


class Plausibility(NamedTuple):
    """The correlation with each source, in [-1, 1] (NaN for a constant image), and the clipped fraction."""

    with_a: float
    with_b: float
    clipped: float

    @property
    def correlation(self) -> float:
        """The lower of the two correlations; NaN where neither is defined."""
        defined = [x for x in (self.with_a, self.with_b) if np.isfinite(x)]
        return min(defined, default=float("nan"))


def plausibility(fused: np.ndarray, a: np.ndarray, b: np.ndarray) -> Plausibility:
    """How a fused image stands to its sources; all are gray (H, W) levels 0..255.

    A pixel is clipped where the fused image is black and neither source is, or is white and neither
    source is: what both sources show there is lost.
    """
    low, high = np.minimum(a, b), np.maximum(a, b)
    clipped = ((fused <= 0) & (low > 0)) | ((fused >= 255) & (high < 255))
    return Plausibility(_correlation(fused, a), _correlation(fused, b), float(clipped.mean()))


def warnings(images: Mapping[str, Plausibility]) -> list[str]:
    """One line for each kind of suspicious result, with how many there are and the worst of them.

    images: the values by the name of the image. An image is suspicious when it is anti-correlated with
    a source, or when more than 1 % of its pixels are clipped.
    """
    negative = {k: v.correlation for k, v in images.items() if v.correlation < 0}
    clipped = {k: -v.clipped for k, v in images.items() if v.clipped > MOST_CLIPPED}
    return [
        *_line(negative, len(images), "anti-correlated with a source", lambda x: f"{x:.2f}"),
        *_line(
            clipped, len(images), "clipped in more than 1 % of the pixels", lambda x: f"{-x:.1%}"
        ),
    ]


def _line(
    suspicious: Mapping[str, float], count: int, what: str, shown: Callable[[float], str]
) -> list[str]:
    """The warning of one kind; the lowest values are the worst."""
    if not suspicious:
        return []
    worst = sorted(suspicious, key=suspicious.__getitem__)[:NAMED]
    listed = ", ".join(f"{name} ({shown(suspicious[name])})" for name in worst)
    more = f" and {len(suspicious) - NAMED} more" if len(suspicious) > NAMED else ""
    verb = "is" if len(suspicious) == 1 else "are"
    return [f"warning: {len(suspicious)} of {count} fused images {verb} {what}: {listed}{more}"]


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation of two images; NaN where one is constant."""
    x, y = (np.asarray(v, np.float64) - np.mean(v, dtype=np.float64) for v in (x, y))
    power = np.sqrt((x * x).sum() * (y * y).sum())
    return float((x * y).sum() / power) if power > 0 else float("nan")
