"""The range of values that becomes black and white: images of more than 8 bits, and of floating point.

One policy for every command, `--range`:

* `auto`: the full range of the type if the images of a folder use at least half of it; [0, 1] for
  floating point within it; otherwise one range for the whole folder, its own minimum and maximum, so
  that two frames of one camera have one scale;
* `full`: the full range of the type, or [0, 1];
* `LOW:HIGH`: these values;
* `percentile P`: from the P-th to the (100 - P)-th percentile of the folder's values.

Images of 8 bits stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jfusion.errors import UserError

SAMPLED = 100_000  # pixels of an image that a percentile looks at
LOOKED_AT = 10_000  # and of one whose values might be crowded
KEPT = (np.arange(200) + 0.5) / 200  # the quantiles of these that are kept, of a folder of any size
CROWDED = 0.1  # of a range; almost all values in so small a part of it are few gray levels


class Range(NamedTuple):
    """The values that become 0 and 255."""

    low: float
    high: float

    def __str__(self) -> str:
        low, high = f"{self.low:.9g}", f"{self.high:.9g}"
        # 17 digits give every number back, where 9 would make the ends of a narrow range equal.
        return f"{low}:{high}" if low != high else f"{self.low:.17g}:{self.high:.17g}"

    @classmethod
    def parse(cls, text: str) -> Range:
        """From the text that `str` gives, as a file or a run records it. Raises UserError."""
        chosen = RangePolicy.parse(text).fixed
        if chosen is None:
            raise UserError(f"{text!r} is not a range of values, LOW:HIGH")
        return chosen


def recorded_ranges(attributes: Mapping[str, Any]) -> dict[str, Range]:
    """The ranges of the sides "a" and "b" in an H5 file's attributes, or in the record of a run."""
    return {
        side: Range.parse(str(attributes[f"range_{side}"]))
        for side in "ab"
        if attributes.get(f"range_{side}")
    }


@dataclass(frozen=True)
class RangePolicy:
    """What `--range` says: a kind, "auto", "full", "fixed" or "percentile", and its numbers."""

    kind: str = "auto"
    fixed: Range | None = None
    percentile: float = 0.0

    @classmethod
    def parse(cls, text: str) -> RangePolicy:
        """From the text of the option. Raises UserError for anything else."""
        words = text.replace("percentile:", "percentile ").split()
        try:
            if words in (["auto"], ["full"]):
                return cls(words[0])
            if len(words) == 2 and words[0] == "percentile" and 0 <= float(words[1]) < 50:
                return cls("percentile", percentile=float(words[1]))
            low, high = map(float, text.split(":"))
            if np.isfinite([low, high]).all() and low < high:
                return cls("fixed", Range(low, high))
        except ValueError:
            pass
        raise UserError(
            f"--range must be auto, full, LOW:HIGH with LOW below HIGH (20:350), or 'percentile P' with P "
            f"from 0 to below 50, not {text!r}"
        )

    def resolve(
        self, images: Iterable[np.ndarray], note: Callable[[str], None] | None = None
    ) -> Range | None:
        """One range for all images of a folder; None where none is deeper than 8 bits.

        images: (H, W) or (H, W, 3) of any type; they are looked at one after the other. note is called
        where "auto" leaves almost all values in a small part of the range, as a dead pixel does, where whole
        numbers and floating point are mixed, and where a fixed range leaves one gray level.
        """
        types, low, high, samples = [], np.inf, -np.inf, []
        for x in images:
            if x.dtype == np.uint8:
                continue
            types.append(x.dtype)
            low, high = min(low, float(x.min())), max(high, float(x.max()))
            if self.kind == "percentile":
                samples.append(x.reshape(-1)[:: max(1, x.size // SAMPLED)].astype(np.float64))
            elif note and self.kind == "auto":
                samples.append(_quantiles(x))
        if not types:
            return None
        if self.fixed is not None:
            if note and (high <= self.fixed.low or low >= self.fixed.high):
                note(
                    f"--range {self.fixed} leaves one gray level; the values are {Range(low, high)}"
                )
            return self.fixed
        if self.kind == "percentile":
            return _not_empty(*_percentiles(samples, self.percentile))
        chosen = self._of_values(types, low, high)
        if note and len({t.kind == "f" for t in types}) > 1:
            note(f"some hold whole numbers, others floating point; one range, {chosen}, serves all")
        if self.kind == "auto" and note and low < high:
            ends = _percentiles(samples, 0.5)
            # divided first, since the difference of two huge values is not finite
            if ends[1] / 4 - ends[0] / 4 < CROWDED * (chosen.high / 4 - chosen.low / 4):
                note(
                    f"99 % of the values lie in {Range(*ends)}, a small part of the range {chosen}; "
                    "--range 'percentile 0.5' gives that part all gray levels"
                )
        return chosen

    def _of_values(self, types: list[np.dtype], low: float, high: float) -> Range:
        """The range of "auto" and "full" for values from `low` to `high`."""
        whole = [np.iinfo(t) for t in types if t.kind in "iu"]
        if len(whole) == len(types):
            full = Range(float(min(t.min for t in whole)), float(max(t.max for t in whole)))
            used = (high - low) / (full.high - full.low)
        else:
            full = Range(0.0, 1.0)
            used = 1.0 if low >= 0 and high <= 1 else 0.0
        return full if self.kind == "full" or used >= 0.5 else _not_empty(low, high)


def _quantiles(x: np.ndarray) -> np.ndarray:
    """The quantiles `KEPT` of some pixels of an image, float64."""
    pixels = x.reshape(-1, x.shape[2]) if x.ndim == 3 else x.reshape(-1)
    # an odd step, so that it does not look at a few columns again and again
    step = max(1, len(pixels) // LOOKED_AT) | 1
    return np.quantile(pixels[::step].astype(np.float64), KEPT, method="nearest")


def _percentiles(samples: list[np.ndarray], percent: float) -> tuple[float, float]:
    """The values below and above which so many percent of the samples lie."""
    # of a quarter of the values, since the difference of two huge ones is not finite
    quarters = np.concatenate(samples) / 4
    low, high = np.percentile(quarters, [percent, 100 - percent]) * 4
    return float(low), float(high)


def _not_empty(low: float, high: float) -> Range:
    """A range of one value is given room above, so that a constant image becomes black."""
    above = max(low + 1, math.nextafter(low, math.inf))  # a huge number plus 1 is the same number
    return Range(low, high if high > low else above)


def to_unit(x: np.ndarray, value_range: Range | None) -> np.ndarray:
    """Values of any type as float32 in [0, 1]: the range's ends (0 and 255 for uint8) become 0 and 1."""
    return (_scaled(x, value_range or Range(0, 255), 1.0)).astype(np.float32)


def to_uint8(x: np.ndarray, value_range: Range | None) -> np.ndarray:
    """Values of any type as 0..255: the range's ends become 0 and 255, what is beyond them too.

    uint8 stays as it is. The full range of 16 bits keeps the upper 8, as image readers do.
    """
    if x.dtype == np.uint8 or value_range is None:
        return x
    if x.dtype == np.uint16 and value_range == (0, 65535):
        return (x >> 8).astype(np.uint8)
    return np.round(_scaled(x, value_range, 255.0)).astype(np.uint8)


def _scaled(x: np.ndarray, value_range: Range, top: float) -> np.ndarray:
    """Values of any type, float64: the range's ends become 0 and `top`, what is beyond them too."""
    # All is multiplied by one power of two, which rounds nothing, so that the ends are within -1 and 1:
    # the differences of huge values and the reciprocals of tiny ones are not finite.
    power = -math.frexp(max(map(abs, value_range)))[1]
    low, high = (math.ldexp(end, power) for end in value_range)
    values = np.ldexp(np.clip(x.astype(np.float64), *value_range), power)
    return (values - low) * (top / (high - low))
