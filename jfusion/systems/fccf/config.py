"""The settings of Diff-FCCF. Needs no Jittor."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from jfusion.config import setting
from jfusion.errors import UserError, did_you_mean


class Region(NamedTuple):
    """Where a chroma plane gets structure, and with which sign: above or below a quantile of the
    plane, or (background) a multiple of the plane's value in the background."""

    above: bool
    level: float
    sign: float
    background: bool = False


# Cr, Cb in training (the paper's repository, section "image transfer" of its diffusion file)
TRAINING = {
    "adni": (Region(True, 0.7, 1), Region(False, 0.3, -1)),
    "spect": (Region(True, 0.7, 1), Region(False, 0.3, -1)),
    "ct": (Region(False, 0.15, -1), Region(True, 0.85, 1)),
    "gfp": (Region(False, 0.07, -0.45), Region(False, 0.07, -0.45)),
    "pet": (Region(True, 10, -1, True), Region(False, -100, -1, True)),
}
# the published inference has levels and signs of its own (sic); ct's and adni's are corrections of ours
PUBLISHED = {
    "adni": (Region(True, 0.95, 1), Region(False, 0.07, -1)),
    "spect": (Region(True, 0.95, 1), Region(False, 0.07, -1)),
    "ct": (Region(False, 0.15, -1), Region(True, 0.85, -1)),
    "gfp": (Region(False, 0.065, 1), Region(False, 0.065, 1)),
    "pet": (Region(True, 10, 1, True), Region(False, -100, 1, True)),
}
GROUPS = tuple(TRAINING)


def group_of(dataset: str) -> str | None:
    """The group that a data set's name names: Harvard_PET, SPECT-MRI, GFP; None if it names none."""
    words = re.split(r"[^a-z]+", dataset.lower())
    return next((group for group in GROUPS if group in words), None)


@dataclass(frozen=True)
class Config:
    """The published network and recipe."""

    group: str = setting(
        "auto",
        "pet, spect, ct, gfp or adni: which regions of the chroma get structure; auto: as the data set's "
        "name says; several with commas take turns, an epoch each, on a folder of H5 files (published: "
        "adni,pet,gfp,ct,adni)",
    )
    width: int = setting(64, "channels at full size, a multiple of 32")
    blocks: int = setting(2, "residual blocks per level")
    dropout: float = setting(0.1, "in training")
    timesteps: int = setting(2000, "T, steps of the diffusion process")
    noise_schedule: str = setting("cosine", "cosine or linear")
    steps: str = setting("", "take fewer steps in inference: a number, or ddimN (default: all T)")
    sampler: str = setting(
        "ddpm", "ddpm (the published one, with fewer steps too), or ddim (keeps the starting noise)"
    )
    add_noise: bool = setting(False, "noise in every step back (published: none but the start's)")
    region: str = setting("published", "regions in inference: published, or as_training")
    region_guard: bool = setting(
        True, "leave a plane as it is where its region has less than two pixels (published: NaN)"
    )
    batch_size: int = setting(4, "pairs per step")
    epochs: int = setting(10000, "passes over the training pairs")
    learning_rate: float = setting(2e-4, "of AdamW")
    weight_decay: float = setting(0.01, "of AdamW")
    decay: float = setting(0.99, "factor of the rate every decay_every epochs")
    decay_every: int = setting(1000, "epochs between decays")
    noise_weight: float = setting(10.0, "weight of the noise term")
    quality_weight: float = setting(10.0, "weight of the quality term")
    loss_scale: float = setting(128.0, "factor inside the noise term")

    reinforce: bool = setting(
        False,
        "also train a policy that adjusts the chroma, and use it in inference (our reading of the paper; "
        "the released code never does)",
    )
    policy_size: int = setting(
        256,
        "with --reinforce: the side at which the policy sees images; its parameters grow with it",
    )
    policy_rate: float = setting(1e-4, "learning rate of the policy (AdamW)")

    @property
    def groups(self) -> list[str]:
        """The groups asked for; of "auto" all."""
        return list(GROUPS) if self.group == "auto" else self.group.split(",")

    def __post_init__(self):
        for group in self.groups if self.group != "auto" else ():
            if group not in GROUPS:
                raise UserError(f"fccf: unknown group {group!r}{did_you_mean(group, GROUPS)}")
        for name, allowed in (
            ("noise_schedule", ("cosine", "linear")),
            ("sampler", ("ddpm", "ddim")),
            ("region", ("published", "as_training")),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise UserError(
                    f"fccf: unknown {name} {value!r}{did_you_mean(str(value), allowed)}"
                )
        if self.width < 32 or self.width % 32:
            raise UserError(f"fccf: width must be a multiple of 32, not {self.width}")
        if self.timesteps < 3 or (self.noise_schedule == "linear" and self.timesteps <= 20):
            raise UserError(f"fccf: {self.timesteps} timesteps are too few")
