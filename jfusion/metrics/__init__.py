"""Fusion metrics: one function each, from gray images (H, W) in 0..255 to a float. No Jittor here.

`METRICS` lists them under the names of the papers' tables, `PRESETS` the evaluators that the field
uses; `evaluate` computes several at once. Each preset's values are those of its evaluator, checked
by `tests/metrics` and shown in `docs/metrics.md`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from jfusion import arrays
from jfusion.data import color
from jfusion.errors import UserError, did_you_mean
from jfusion.metrics.gray_image import ColorImage, GrayImage
from jfusion.metrics.presets import DEFAULT_PRESET, METRICS, PAPER, PRESETS, Metric, Preset

__all__ = [
    "DEFAULT_PRESET",
    "METRICS",
    "PAPER",
    "PRESETS",
    "Metric",
    "ColorImage",
    "GrayImage",
    "Preset",
    "columns",
    "evaluate",
    "prepare",
    "preset",
]


def preset(name: str) -> Preset:
    """An evaluator by its name; raises UserError."""
    if not isinstance(name, str) or name not in PRESETS:
        raise UserError(f"unknown preset {name!r}{did_you_mean(str(name), PRESETS)}")
    return PRESETS[name]


def columns(names: str | Iterable[str] | None, of: str = DEFAULT_PRESET) -> list[str]:
    """The metrics of an option ("EN,SD", "all", None: those that the preset prints); raises UserError."""
    printed = preset(of).columns
    if names is None:
        return list(printed)
    if names == "all":
        return [name for name, metric in METRICS.items() if not metric.prepare]
    if isinstance(names, str):
        names = names.split(",")
    names = list(names) if isinstance(names, Iterable) else [names]
    if not all(isinstance(name, str) for name in names):
        raise UserError(f'names of metrics must be texts such as "EN", not {names!r}')
    spellings = {name.lower(): name for name in METRICS}
    for name in names:
        if name.strip().lower() not in spellings:
            raise UserError(f"unknown metric {name!r}{did_you_mean(name, METRICS)}")
    chosen = [spellings[name.strip().lower()] for name in names]
    for metric in (METRICS[name] for name in chosen):
        if metric.prepare:
            metric.prepare()
    return chosen


def evaluate(
    fused: Any,
    a: Any,
    b: Any,
    preset: str = DEFAULT_PRESET,
    names: str | Iterable[str] | None = None,
    value_range: tuple[float, float] | None = None,
) -> dict[str, float] | list[dict[str, float]]:
    """The metrics of a fused image and its two sources, by name; a list of them for a batch.

    fused, a, b: NumPy arrays, PIL images or Jittor Vars, one pair or a batch, as `System.fuse` accepts
    and returns them; color becomes gray as the preset's evaluator does it, or is evaluated channel by
    channel ("vifb", where the fused image has three channels). Values are levels 0..255:
    uint8, or whole numbers of another type. Anything else, such as fractions in [0, 1], is refused
    unless `value_range` gives the values that mean black and white, for example (0, 1); they are then
    scaled to 0..255 and not rounded. preset: an evaluator of `PRESETS`. names: metrics, "all", or None
    for those that the evaluator prints.

    To compare several methods, pass the sources as `prepare` returns them, or as `GrayImage`s (H, W) in
    0..255: what depends on one image alone is then computed once. NaN where a metric is not defined, as
    for the correlation with a constant image. Raises UserError for unequal sizes, unknown names and values
    out of range.
    """
    chosen = columns(names, preset)
    grays = [
        _prepared(x, what, PRESETS[preset], value_range)
        for x, what in ((fused, "the fused image"), (a, "source A"), (b, "source B"))
    ]
    counts = [len(x) for x in grays]
    if len(set(counts)) != 1:
        raise UserError(
            f"metrics need as many fused images as sources, not {counts[0]}, {counts[1]} and {counts[2]}"
        )
    values = [_evaluate(images, preset, chosen) for images in zip(*grays, strict=True)]
    return values if _is_batch(fused) else values[0]


def prepare(pixels: np.ndarray, of: str = DEFAULT_PRESET) -> GrayImage | ColorImage:
    """An image, (H, W) or (H, W, 3) in levels 0..255, as the evaluator `of` sees it; for `evaluate`."""
    return _prepare(pixels, preset(of))


def _prepare(pixels: np.ndarray, evaluator: Preset) -> GrayImage | ColorImage:
    if pixels.ndim == 2:
        return GrayImage(pixels)
    gray = _to_gray(pixels, evaluator.gray)
    return ColorImage(pixels, gray) if evaluator.channels else GrayImage(gray)


def _evaluate(
    images: tuple[GrayImage | ColorImage, ...], preset: str, names: list[str]
) -> dict[str, float]:
    definitions = PRESETS[preset].metrics
    shapes = [x.shape for x in images]
    if len(set(shapes)) != 1 or len(shapes[0]) != 2 or 0 in shapes[0]:
        raise UserError(
            f"metrics need three gray images of one size, not {shapes[0]}, {shapes[1]}, {shapes[2]}"
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        return {name: float(_value(definitions[name], *images)) for name in names}


def _value(
    metric: Metric,
    fused: GrayImage | ColorImage,
    a: GrayImage | ColorImage,
    b: GrayImage | ColorImage,
) -> float:
    """A metric of three gray images, or its mean over the channels of a fused image in color.

    A gray source is then compared with each channel, and a gray fused image with the luma of the sources,
    as in VIFB.
    """
    if isinstance(fused, GrayImage):
        a, b = (x.gray if isinstance(x, ColorImage) else x for x in (a, b))
        return metric.compute(fused, a, b)
    if metric.channels == "luma":
        return metric.compute(fused.gray, None, None)
    if metric.channels == "side by side":
        return metric.compute(fused.side_by_side, None, None)
    sides = [x.channels if isinstance(x, ColorImage) else (x,) * 3 for x in (a, b)]
    return np.mean([metric.compute(*images) for images in zip(fused.channels, *sides, strict=True)])


def _is_batch(x: Any) -> bool:
    prepared = isinstance(x, GrayImage | ColorImage)
    return not prepared and arrays.read(x, "fused").layout in ("NCHW", "list")


def _prepared(
    x: Any, what: str, evaluator: Preset, value_range: tuple[float, float] | None
) -> list[GrayImage | ColorImage]:
    """The images in x as the evaluator sees them; those that are prepared stay what they are."""
    if isinstance(x, GrayImage | ColorImage):
        for channel in x.channels if isinstance(x, ColorImage) else (x,):
            if not np.isfinite(channel.pixels).all():
                raise UserError(f"{what} has values that are not finite (NaN or infinity)")
            if channel.pixels.size and (channel.pixels.min() < 0 or channel.pixels.max() > 255):
                raise UserError(f"{what} is a {type(x).__name__} with values outside 0..255")
        return [x]
    return [
        _prepare(_to_levels(v, what, value_range), evaluator) for v in arrays.read(x, what).arrays
    ]


def _black_and_white(value_range: Any) -> tuple[float, float]:
    """The two ends of `value_range`; raises UserError unless they are finite numbers in order."""
    try:
        black, white = (float(v) for v in value_range)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"value_range must be two numbers, such as (0, 1), not {value_range!r}"
        ) from error
    if isinstance(value_range, str) or not -np.inf < black < white < np.inf:
        raise UserError(
            f"value_range must be two finite numbers, black before white, not {value_range!r}"
        )
    return black, white


def _to_levels(x: np.ndarray, what: str, value_range: tuple[float, float] | None) -> np.ndarray:
    """Values scaled to 0..255, or checked to be levels already."""
    if x.dtype == np.uint8 and value_range is None:
        return x
    low, high = float(x.min()), float(x.max())
    if value_range is not None:
        black, white = _black_and_white(value_range)
        if low < black or high > white:
            raise UserError(
                f"{what} has values from {low:g} to {high:g}, outside value_range=({black:g}, {white:g})"
            )
        if (black, white) == (0, 255):
            return x.astype(np.float64)
        return (x.astype(np.float64) - black) * (255 / (white - black))
    if low < 0 or high > 255 or (x.dtype.kind == "f" and (x != np.round(x)).any()):
        raise UserError(
            f"{what} has values from {low:g} to {high:g} that are not levels 0..255; say what they mean, "
            "for example value_range=(0, 1)"
        )
    if x.dtype.kind == "f" and 0 < high <= 1:
        raise UserError(
            f"{what} has values 0 and 1 alone; say whether they are levels, value_range=(0, 255), or "
            "black and white, value_range=(0, 1)"
        )
    return x


def _to_gray(x: np.ndarray, rule: str) -> np.ndarray:
    """(H, W) or (H, W, 3) in 0..255 -> (H, W): the preset's luma, rounded where the values are levels."""
    if x.ndim == 2:
        return x
    if (x == np.round(x)).all():
        return (color.gray_by_pillow if rule == "pillow" else color.gray)(x.astype(np.uint8))
    return x @ np.array([0.299, 0.587, 0.114])
