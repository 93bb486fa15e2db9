"""The settings of CDDFuse, and those of the recipe that SFDFuse shares. Needs no Jittor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from jfusion.config import SystemConfig, setting

# For quick tests and to compile the kernels ahead; the networks have one size.
TINY: dict[str, Any] = {"batch_size": 1, "phase1_epochs": 1, "phase2_epochs": 1}


@dataclass(frozen=True)
class TwoPhaseConfig(SystemConfig):
    """The recipe of both phases, with CDDFuse's values."""

    drop_last: bool = setting(
        False, "leave out the incomplete batch at the end of an epoch", training=True
    )
    phase1_epochs: int = setting(40, "epochs that reconstruct each image", least=1, training=True)
    phase2_epochs: int = setting(80, "epochs that train the fusion", least=1, training=True)
    batch_size: int = setting(8, "pairs per step", least=1, training=True)
    learning_rate: float = setting(
        1e-4, "learning rate of all four Adam optimizers at the start", above=0, training=True
    )
    decay: float = setting(
        0.5, "factor of the learning rate every decay_every epochs", above=0, training=True
    )
    decay_every: int = setting(20, "epochs between decays", least=1, training=True)
    clip_norm: float = setting(
        0.01, "largest gradient norm of each network", above=0, training=True
    )
    ssim_weight: float = setting(
        5.0, "weight of the SSIM loss of a reconstruction", least=0, training=True
    )
    gradient_weight: float = setting(
        5.0, "weight of the visible image's gradients in phase I", least=0, training=True
    )
    decomposition_weight: float = setting(
        2.0, "weight of the decomposition loss in both phases", least=0, training=True
    )
    fusion_gradient_weight: float = setting(
        10.0, "weight of the gradients in phase II", least=0, training=True
    )


@dataclass(frozen=True)
class Config(TwoPhaseConfig):
    """What the decoder adds, and the paper's training recipe."""

    skip: Literal["visible", "sum", "none"] = setting(
        "visible",
        "image added before the sigmoid: visible (infrared pairs), sum (their weights on medical "
        "pairs), none (the medical weights)",
    )
