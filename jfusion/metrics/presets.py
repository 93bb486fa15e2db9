"""Which formula each evaluator of the field uses under each name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from jfusion.metrics import (
    edges,
    feature,
    fidelity,
    information,
    natural,
    perceptual,
    phase,
    sharpness,
    structure,
)
from jfusion.metrics import vif as visual
from jfusion.metrics.gray_image import Gray


@dataclass(frozen=True)
class Metric:
    """compute(fused, a, b) -> float; higher_is_better is the direction of the papers' arrows.

    decimals: as many as a table shows. channels: where channels are evaluated, the value is their mean, or that
    of the three channels of the fused image next to each other, or that of the luma. prepare: makes ready what
    the metric needs besides the images, and raises UserError; "all" leaves such a metric out.
    """

    compute: Callable[[Gray, Gray, Gray], float]
    higher_is_better: bool = True
    decimals: int = 2
    channels: Literal["mean", "side by side", "luma"] = "mean"
    prepare: Callable[[], object] | None = None


@dataclass(frozen=True)
class Preset:
    """An evaluator: its metrics by name, those it prints, and what it makes of color images.

    gray: "luma", 0.299 R + 0.587 G + 0.114 B rounded half to even, or "pillow", Pillow's integers.
    channels: a fused image in color is evaluated channel by channel, a gray one on the luma of the sources.
    paper: the columns of the papers' tables, where they have fewer than the evaluator prints.
    """

    title: str
    columns: tuple[str, ...]
    own: dict[str, Metric] = field(default_factory=dict)
    gray: str = "luma"
    paper: tuple[str, ...] | None = None
    channels: bool = False

    @property
    def metrics(self) -> dict[str, Metric]:
        """Every metric by name: the evaluator's own, and the common one where it has none."""
        return {**METRICS, **self.own}


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
    "VIF": Metric(visual.viff),
    "Qabf": Metric(edges.qabf),
    "SSIM": Metric(structure.ssim),
    "Nabf": Metric(edges.nabf, higher_is_better=False, decimals=4),
    "MS_SSIM": Metric(structure.ms_ssim),
    "NMI": Metric(information.normalized_mutual_information),
    "EI": Metric(edges.edge_intensity),
    "CE": Metric(information.cross_entropy, higher_is_better=False),
    "RMSE": Metric(fidelity.rmse, higher_is_better=False, decimals=4),
    "Qcb": Metric(perceptual.qcb),
    "Qcv": Metric(perceptual.qcv, higher_is_better=False),
    "FMI_pixel": Metric(feature.fmi_pixel),
    "FMI_dct": Metric(feature.fmi_dct),
    "Qy": Metric(structure.qy),
    "Qw": Metric(structure.qw),
    "Qe": Metric(structure.qe),
    "Qp": Metric(phase.qp),
    "NIQE": Metric(
        natural.niqe, higher_is_better=False, channels="luma", prepare=natural.niqe_parameters
    ),
    "BRISQUE": Metric(
        natural.brisque, higher_is_better=False, channels="luma", prepare=natural.brisque_parameters
    ),
}

PAPER = ("EN", "SD", "SF", "AG", "VIF", "Qabf")  # the columns of FILM's tables
DEFAULT_PRESET = "film"

PRESETS = {
    "film": Preset(
        "the Evaluator of FILM",
        ("EN", "SD", "SF", "AG", "MI", "MSE", "PSNR", "CC", "SCD", "VIF", "Qabf", "SSIM"),
        paper=PAPER,
    ),
    "cddfuse": Preset(
        "the Evaluator of CDDFuse and SFDFuse: SSIM with a data range of 2",
        ("EN", "SD", "SF", "MI", "SCD", "VIF", "Qabf", "SSIM"),
        {"SSIM": Metric(partial(structure.ssim, data_range=2.0))},
    ),
    "film-nankai": Preset(
        "the evaluation folder of the Jittor port FILM-Nankai: MI in bits, other AG, MSE, PSNR, SSIM",
        (
            *("EN", "MI", "SF", "AG", "SD", "CC", "SCD", "VIF"),
            *("MSE", "PSNR", "Qabf", "Nabf", "SSIM", "MS_SSIM"),
        ),
        {
            "EN": Metric(partial(information.entropy, guard=1e-7)),
            "MI": Metric(partial(information.mutual_information, base=2)),
            "AG": Metric(partial(sharpness.average_gradient, over_inner=True)),
            "MSE": Metric(partial(fidelity.mse, unit=True), higher_is_better=False, decimals=4),
            "PSNR": Metric(partial(fidelity.psnr, peak=255.0**2)),
            "VIF": Metric(partial(visual.viff, guard=False)),
            "Nabf": Metric(partial(edges.nabf, weak=0.0), higher_is_better=False, decimals=4),
            "SSIM": Metric(partial(structure.ssim, window=structure.GAUSSIAN_FLOAT32)),
            "MS_SSIM": Metric(partial(structure.ms_ssim, window=structure.GAUSSIAN_FLOAT32)),
        },
        gray="pillow",
    ),
    "vifb": Preset(
        "VIFB's MATLAB metrics; of fused images in color, the mean over R, G and B",
        (
            *("AG", "CE", "EI", "EN", "MI", "PSNR", "Qabf"),
            *("Qcb", "Qcv", "RMSE", "SF", "SSIM", "SD"),
        ),
        {
            "AG": Metric(partial(sharpness.average_gradient, over_inner=True)),
            "MI": Metric(partial(information.mutual_information, normalized=True)),
            "PSNR": Metric(fidelity.psnr_of_rmse),
            "SF": Metric(
                partial(sharpness.spatial_frequency, over_all=True), channels="side by side"
            ),
            "SSIM": Metric(partial(structure.ssim, window=structure.GAUSSIAN)),
        },
        channels=True,
    ),
}
