"""The settings of SFDFuse. Needs no Jittor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jfusion.config import setting
from jfusion.systems.cddfuse.config import TwoPhaseConfig

# For quick tests and to compile the kernels ahead; the networks have one size.
TINY: dict[str, Any] = {"batch_size": 1, "phase1_epochs": 1, "phase2_epochs": 1}


@dataclass(frozen=True)
class Config(TwoPhaseConfig):
    """The paper's training recipe, and where the released code differs from what one expects."""

    RENAMED: ClassVar[dict[str, Any]] = {
        "first_upload": lambda on: {"network": "first_upload" if on else "released"},
        "faithful": lambda on: {"odd_size": "released" if on else "pad"},
        "own_detail": lambda on: {"phase1_detail": "paper" if on else "released"},
    }

    network: Literal["released", "first_upload"] = setting(
        "released",
        "released: the network of the authors' weights; first_upload: that of their first upload; "
        "a checkpoint decides by itself",
    )
    odd_size: Literal["released", "pad"] = setting(
        "pad",
        "released: the last row or column of an odd size is dropped; pad: the border is repeated, "
        "and the size stays",
    )
    phase1_detail: Literal["released", "paper"] = setting(
        "released",
        "what phase I rebuilds the infrared image from; released: the visible image's details; "
        "paper: its own",
        training=True,
    )
    skip: Literal["visible", "sum"] = setting("visible", "image added before the sigmoid")
    phase1_epochs: int = setting(30, "epochs that reconstruct each image", least=1, training=True)
    phase2_epochs: int = setting(60, "epochs that train the fusion", least=1, training=True)
    decay_every: int = setting(10, "epochs between decays", least=1, training=True)
    drop_path: float = setting(
        0.1,
        "probability that a training step leaves out a ConvFormer branch of a sample",
        least=0,
        below=1,
        training=True,
    )
