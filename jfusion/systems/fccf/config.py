"""The settings of Diff-FCCF. Needs no Jittor."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from jfusion.config import SystemConfig, setting
from jfusion.errors import UserError

# A small network of the same kernels, to compile them ahead and to test with.
TINY = {"width": 32, "train_timesteps": 3, "group": "pet"}


class Region(NamedTuple):
    """The part of a chroma channel that receives structure, and the sign with which it is added.

    It is where the channel is above (or below) a quantile of its values; or, with `background`, a
    multiple of its value in the background.
    """

    above: bool
    level: float
    sign: float
    background: bool = False


# of Cr and Cb in training, as in the section "image transfer" of the authors' diffusion file
TRAINING_REGIONS = {
    "adni": (Region(True, 0.7, 1), Region(False, 0.3, -1)),
    "spect": (Region(True, 0.7, 1), Region(False, 0.3, -1)),
    "ct": (Region(False, 0.15, -1), Region(True, 0.85, 1)),
    "gfp": (Region(False, 0.07, -0.45), Region(False, 0.07, -0.45)),
    "pet": (Region(True, 10, -1, True), Region(False, -100, -1, True)),
}
# in inference the released code has other levels and signs (sic); those of ct and adni are our corrections
INFERENCE_REGIONS = {
    "adni": (Region(True, 0.95, 1), Region(False, 0.07, -1)),
    "spect": (Region(True, 0.95, 1), Region(False, 0.07, -1)),
    "ct": (Region(False, 0.15, -1), Region(True, 0.85, -1)),
    "gfp": (Region(False, 0.065, 1), Region(False, 0.065, 1)),
    "pet": (Region(True, 10, 1, True), Region(False, -100, 1, True)),
}
GROUPS = tuple(TRAINING_REGIONS)


def group_in(dataset: str) -> str | None:
    """The group in a data set's name, such as Harvard_PET, SPECT-MRI or GFP; None if there is none."""
    words = re.split(r"[^a-z]+", dataset.lower())
    return next((group for group in GROUPS if group in words), None)


def _present_group(group: str) -> dict[str, Any]:
    """Several groups with commas were a setting once; now they are an option of a training run."""
    return {"group": "auto" if "," in group else group}


def _present_region(region: str) -> dict[str, Any]:
    return {"region": {"published": "released", "as_training": "training"}.get(region, region)}


@dataclass(frozen=True)
class Config(SystemConfig):
    """The published network and recipe."""

    RENAMED: ClassVar[dict[str, Any]] = {
        "group": _present_group,
        "region": _present_region,
        "timesteps": "train_timesteps",
        "steps": "inference_steps",
    }

    group: Literal["auto", "adni", "spect", "ct", "gfp", "pet"] = setting(
        "auto",
        "the kind of images, which decides the regions of the chroma that receive structure; auto: as "
        "the data set's name says",
    )
    width: int = setting(64, "channels at full size, a multiple of 32")
    blocks: int = setting(2, "residual blocks per level", least=1)
    dropout: float = setting(0.1, "dropout rate in training", least=0, below=1, training=True)
    train_timesteps: int = setting(2000, "steps of the diffusion process, T")
    noise_schedule: Literal["cosine", "linear"] = setting("cosine", "the noise schedule")
    inference_steps: str = setting(
        "", "fewer steps in inference: a number, or ddimN for equal distances (default: all T)"
    )
    sampler: Literal["ddpm", "ddim"] = setting(
        "ddpm",
        "ddpm (the published one, for fewer steps too), or ddim (it keeps the initial noise)",
    )
    add_noise: bool = setting(
        False, "add noise in every step (the released code starts from noise and adds none)"
    )
    region: Literal["released", "training"] = setting(
        "released", "regions in inference: those of the released code, or training's"
    )
    region_guard: bool = setting(
        True,
        "leave a channel unchanged where its region has less than two pixels (released code: NaN)",
    )
    batch_size: int = setting(4, "pairs per step", least=1, training=True)
    epochs: int = setting(10000, "passes over the training pairs", least=1, training=True)
    learning_rate: float = setting(
        2e-4, "AdamW's learning rate at the start", above=0, training=True
    )
    weight_decay: float = setting(0.01, "AdamW's weight decay", least=0, training=True)
    decay: float = setting(
        0.99, "factor of the learning rate every decay_every epochs", above=0, training=True
    )
    decay_every: int = setting(1000, "epochs between decays", least=1, training=True)
    noise_weight: float = setting(10.0, "weight of the noise term", least=0, training=True)
    quality_weight: float = setting(10.0, "weight of the quality term", least=0, training=True)
    loss_scale: float = setting(128.0, "factor inside the noise term", above=0, training=True)

    reinforce: bool = setting(
        False,
        "also train a policy that adjusts the chroma, and use it in inference (our reading of the paper; "
        "the released code never does)",
    )
    policy_size: int = setting(
        256,
        "with --reinforce: the side at which the policy sees images; its parameters grow with it",
        least=1,
    )
    policy_rate: float = setting(
        1e-4, "with --reinforce: learning rate of the policy (AdamW)", above=0, training=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 32 or self.width % 32:
            raise UserError(f"fccf: width must be a multiple of 32, not {self.width}")
        least = 21 if self.noise_schedule == "linear" else 3
        if self.train_timesteps < least:
            raise UserError(
                f"fccf: train_timesteps must be {least} or more with a {self.noise_schedule} schedule, not {self.train_timesteps}"
            )

    @classmethod
    def from_old_run(
        cls, config: dict[str, Any], options: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Groups that alternate were a setting once; now they are the training sets of `--schedule`."""
        group = str(config.get("group"))
        if "," not in group:
            return config, options
        return {**config, "group": "auto"}, {**options, "schedule": group}

    @classmethod
    def for_dataset(cls, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """The group that the data set's name contains, if any."""
        group = group_in(str(attributes.get("dataset", "")))
        return {} if group is None else {"group": group}
