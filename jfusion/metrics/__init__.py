"""Fusion metrics: one function each, gray images (H, W) in 0..255 in, float out. No Jittor here.

`METRICS` lists them under the names of the papers' tables, `PRESETS` the evaluators that the field
uses; `evaluate` computes several at once. Each preset's values are those of its evaluator, checked
by `tests/metrics` and shown in `docs/metrics.md`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from jfusion.errors import UserError, did_you_mean
from jfusion.metrics.plane import Gray, Plane, planes
from jfusion.metrics.presets import METRICS, PRESETS, Metric, Preset

__all__ = [
    "METRICS",
    "PAPER",
    "PRESETS",
    "Metric",
    "Plane",
    "Preset",
    "columns",
    "evaluate",
    "preset",
]

PAPER = ("EN", "SD", "SF", "AG", "VIF", "Qabf")  # the columns of FILM's tables


def preset(name: str) -> Preset:
    """An evaluator by its name; raises UserError."""
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}{did_you_mean(name, PRESETS)}")
    return PRESETS[name]


def columns(names: str | Iterable[str] | None, of: str = "film") -> list[str]:
    """Metrics asked for ("EN,SD", "all", None: those that the preset prints); raises UserError."""
    if names is None:
        return list(preset(of).columns)
    if isinstance(names, str):
        names = METRICS if names == "all" else names.split(",")
    known = {name.lower(): name for name in METRICS}
    for name in names:
        if name.strip().lower() not in known:
            raise UserError(f"unknown metric {name!r}{did_you_mean(name, METRICS)}")
    return [known[name.strip().lower()] for name in names]


def evaluate(
    fused: Gray,
    a: Gray,
    b: Gray,
    preset: str = "film",
    names: str | Iterable[str] | None = None,
) -> dict[str, float]:
    """The metrics of one fused image and its two sources, by name.

    All three are gray (H, W), values 0..255 (they are not rounded here), as arrays or, to compute
    what depends on one image alone only once for several calls, as `Plane`s. NaN where a metric is
    not defined, as for the correlation with a constant image. Raises UserError for unequal shapes,
    unknown names, values that are not finite and images that are not two-dimensional.
    """
    chosen = columns(names, preset)
    known = PRESETS[preset].metrics
    images = planes(fused, a, b)
    shapes = [x.shape for x in images]
    if len(set(shapes)) != 1 or len(shapes[0]) != 2 or 0 in shapes[0]:
        raise UserError(
            f"metrics need three gray images of one size, not {shapes[0]}, {shapes[1]}, {shapes[2]}"
        )
    for x, what in zip(images, ("fused image", "source A", "source B"), strict=True):
        if not np.isfinite(x.pixels).all():
            raise UserError(f"the {what} has values that are not finite (NaN or infinity)")
    with np.errstate(divide="ignore", invalid="ignore"):
        return {name: float(known[name].compute(*images)) for name in chosen}
