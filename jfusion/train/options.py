"""The options of a training run; apart from the loop, so that `--help` does not start Jittor."""

from __future__ import annotations

from dataclasses import dataclass

from jfusion.config import setting


@dataclass(frozen=True)
class Options:
    """What a run is asked for beyond the system's own configuration."""

    data: str = setting(
        "VLFDataset_h5/MSRS_train.h5", "the H5 file to train on (diffusion: or a folder of images)"
    )
    exp: str = setting("exp", "folder that holds the run folders")
    seed: int = setting(0, "fixes initial weights, order, crops and everything random")
    crop: tuple[int, int] | None = setting(
        None, "train on random windows of this size (default: the system's; lfdt: 256x256)"
    )
    weights: str | None = setting(None, "start from the weights of this checkpoint")
    allow_partial: bool = setting(
        False, "take the tensors of --weights that fit, and print what was skipped"
    )
    keep_last: int | None = setting(None, "keep only so many of the newest checkpoints (none: all)")
    keep_best: str | None = setting(
        None, "also keep the checkpoint of the epoch with the lowest mean of this loss (total, ...)"
    )
    max_steps: int | None = setting(None, "stop after so many steps")
    pictures: int = setting(2, "batches per epoch whose fused images are kept")
