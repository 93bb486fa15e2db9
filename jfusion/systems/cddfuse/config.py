"""The settings of CDDFuse. Needs no Jittor."""

from __future__ import annotations

from dataclasses import dataclass

from jfusion.config import setting
from jfusion.errors import UserError


@dataclass(frozen=True)
class Config:
    """What the decoder adds, and the paper's training recipe."""

    skip: str = setting(
        "visible",
        "image added before the sigmoid: visible (infrared pairs), sum (their weights on medical "
        "pairs), none (the medical weights)",
    )
    phase1_epochs: int = setting(40, "epochs that reconstruct each image")
    phase2_epochs: int = setting(80, "epochs that train the fusion")
    batch_size: int = setting(8, "pairs per step")
    learning_rate: float = setting(1e-4, "of all four Adam optimisers at the start")
    decay: float = setting(0.5, "factor of the learning rate")
    decay_every: int = setting(20, "epochs between decays")
    clip_norm: float = setting(0.01, "largest gradient norm of each network")
    ssim_weight: float = setting(5.0, "of the SSIM loss in a reconstruction")
    gradient_weight: float = setting(5.0, "of the visible image's gradients in phase I")
    decomposition_weight: float = setting(2.0, "of the decomposition loss in both phases")
    fusion_gradient_weight: float = setting(10.0, "of the gradients in phase II")

    def __post_init__(self):
        if self.skip not in ("visible", "sum", "none"):
            raise UserError(f"cddfuse: skip must be visible, sum or none, not {self.skip!r}")
