"""The options of a training run. Needs no Jittor, so that `--help` does not start it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jfusion.config import CommandOptions, option_of, setting
from jfusion.errors import UserError


@dataclass(frozen=True)
class Options(CommandOptions):
    """The options of `jfusion train` next to the settings of the system."""

    RENAMED: ClassVar[dict[str, Any]] = {"pictures": "images"}

    data: str = setting(
        "VLFDataset_h5/MSRS_train.h5",
        "the H5 file to train on; or a folder of H5 files, all of which are used; or, for a system that "
        "is trained on single images, a folder of images",
    )
    schedule: str = setting(
        "",
        "with several training sets, those that epochs are drawn from: names, or words in them, with "
        "commas; one may come twice: pet,gfp,pet (empty: each once)",
    )
    each: bool = setting(
        False,
        "train one network after another, each on one training set of the folder --data; started again, "
        "it resumes each where it was",
    )
    exp: str = setting("exp", "folder that holds the run folders")
    seed: int = setting(0, "fixes initial weights, order, crops and everything random")
    weights: str | None = setting(
        None, "start from these weights: a checkpoint, a run, or the name of weights of jfusion's"
    )
    allow_partial: bool = setting(
        False, "load the tensors of --weights that fit, and print what was skipped"
    )
    val: str | None = setting(
        None, "an H5 file of pairs to validate on: the paper's metrics of them", "FILE"
    )
    val_split: float = setting(
        0.0,
        "or this share of the training pairs, which are then not trained on; pairs of one scene, by "
        "their names, stay together",
        least=0,
        below=1,
    )
    val_every: int = setting(1, "epochs between validations")
    early_stop: int | None = setting(
        None, "stop after so many validations without a better --keep-best"
    )
    keep_last: int | None = setting(3, "keep so many of the newest checkpoints; none: all")
    keep_best: str | None = setting(
        None,
        "also keep the best epoch by this metric of the validation, or this loss (default: VIF, "
        "total without a validation)",
        "METRIC",
    )
    max_steps: int | None = setting(None, "stop after so many steps")
    images: int = setting(2, "batches per epoch whose fused images are kept in pic_fusion/")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.early_stop is not None and not self.validates:
            raise UserError("--early-stop needs a validation: --val FILE, or --val-split 0.1")
        least_one = ("keep_last", "max_steps", "val_every", "early_stop")
        for name, least in (*((name, 1) for name in least_one), ("images", 0), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{option_of(name)} must be {least} or more, not {value}")

    @property
    def validates(self) -> bool:
        """Whether there are pairs to validate on."""
        return self.val is not None or self.val_split > 0

    @property
    def best(self) -> str:
        """What the best epoch is chosen by: a metric of the validation, or a loss."""
        return self.keep_best or ("VIF" if self.validates else "total")
