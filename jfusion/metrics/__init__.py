"""Fusion metrics: one function each, arrays (H, W) in 0..255 in, float out. No Jittor here.

`METRICS` lists them under the names of the papers' tables; `evaluate` computes several at once.
Definitions are those of the Evaluator that ships with FILM (and CDDFuse), checked against its
values by `tests/metrics`. Colour images are judged by their luma, see `jfusion.data.image.gray`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from jfusion.errors import UserError, did_you_mean
from jfusion.metrics import edges, fidelity, information, sharpness, structure, vif


@dataclass(frozen=True)
class Metric:
    """compute(fused, a, b) -> float; higher_is_better is the direction of the papers' arrows."""

    compute: Callable[[np.ndarray, np.ndarray, np.ndarray], float]
    higher_is_better: bool = True


METRICS = {
    "EN": Metric(information.entropy),
    "SD": Metric(sharpness.standard_deviation),
    "SF": Metric(sharpness.spatial_frequency),
    "AG": Metric(sharpness.average_gradient),
    "MI": Metric(information.mutual_information),
    "MSE": Metric(fidelity.mse, higher_is_better=False),
    "PSNR": Metric(fidelity.psnr),
    "CC": Metric(fidelity.correlation),
    "SCD": Metric(fidelity.sum_of_correlations_of_differences),
    "VIF": Metric(vif.viff),
    "Qabf": Metric(edges.qabf),
    "SSIM": Metric(structure.ssim),
}
PRESETS = {"film": tuple(METRICS)}
PAPER = ("EN", "SD", "SF", "AG", "VIF", "Qabf")  # the columns of FILM's tables


def evaluate(
    fused: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    preset: str = "film",
    names: Iterable[str] | None = None,
) -> dict[str, float]:
    """The metrics of one fused image and its two sources, by name.

    All three are gray (H, W), values 0..255 (they are not rounded here). NaN where a metric is not
    defined, as for the correlation with a constant image. Raises UserError for unequal shapes,
    unknown names and images that are not two-dimensional.
    """
    if preset not in PRESETS:
        raise UserError(f"unknown preset {preset!r}{did_you_mean(preset, PRESETS)}")
    chosen = list(PRESETS[preset] if names is None else names)
    for name in chosen:
        if name not in METRICS:
            raise UserError(f"unknown metric {name!r}{did_you_mean(name, METRICS)}")
    images = [np.asarray(x, np.float64) for x in (fused, a, b)]
    shapes = [x.shape for x in images]
    if len(set(shapes)) != 1 or images[0].ndim != 2:
        raise UserError(
            f"metrics need three gray images of one size, not {shapes[0]}, {shapes[1]}, {shapes[2]}"
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        return {name: float(METRICS[name].compute(*images)) for name in chosen}
