"""The settings of SFDFuse. Needs no Jittor."""

from __future__ import annotations

from dataclasses import dataclass

from jfusion.config import setting
from jfusion.errors import UserError


@dataclass(frozen=True)
class Config:
    """The paper's training recipe, and where the published code differs from what one expects."""

    first_upload: bool = setting(
        False, "the network of the authors' first upload; their checkpoints decide by themselves"
    )
    faithful: bool = setting(
        False, "drop the last row or column of odd sizes, as the published code does"
    )
    skip: str = setting("visible", "image added before the sigmoid: visible, or sum")
    phase1_epochs: int = setting(30, "epochs that reconstruct each image")
    phase2_epochs: int = setting(60, "epochs that train the fusion")
    batch_size: int = setting(8, "pairs per step")
    learning_rate: float = setting(1e-4, "of all four Adam optimisers at the start")
    decay: float = setting(0.5, "factor of the learning rate")
    decay_every: int = setting(10, "epochs between decays")
    clip_norm: float = setting(0.01, "largest gradient norm of each network")
    drop_path: float = setting(0.1, "chance to leave out a ConvFormer branch in training")
    own_detail: bool = setting(
        False,
        "phase I rebuilds the infrared image from its own details (published: the visible ones)",
    )
    ssim_weight: float = setting(5.0, "of the SSIM loss in a reconstruction")
    gradient_weight: float = setting(5.0, "of the visible image's gradients in phase I")
    decomposition_weight: float = setting(2.0, "of the decomposition loss in both phases")
    fusion_gradient_weight: float = setting(10.0, "of the gradients in phase II")

    def __post_init__(self):
        if self.skip not in ("visible", "sum"):
            raise UserError(f"sfdfuse: skip must be visible or sum, not {self.skip!r}")
