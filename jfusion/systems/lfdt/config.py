"""The settings of LFDT-Fusion, and the reading of the authors' JSON files. Needs no Jittor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jfusion.config import setting
from jfusion.errors import UserError, did_you_mean

# the authors' names of the tasks
TASKS = {
    "VI-IR": "IVF",
    "VI-NIR": "NIR",
    "PIF": "PIF",
    "MEF": "MEF",
    "MFF": "MFF",
    "SPECT-MRI": "MIF",
    "PET-MRI": "MIF",
}
SAMPLERS = (
    "DDIM",
    "ddp-solver",
    "ddp-solver++",
    "Deis",
    "Unipc",
    "Heun",
    "Euler",
    "LMS",
    "PNDM",
)
LEAST_STEPS = {"DDIM": 1, "PNDM": 4}  # of the others: 2


@dataclass(frozen=True)
class Config:
    """The network and the recipe of one task."""

    task: str = setting(
        "IVF",
        "IVF, MIF, MEF, MFF, NIR or PIF, or the authors' names (VI-IR, PET-MRI, ...): losses, input "
        "order, width of the transformer; train: all, for every file in the folder --data",
    )
    strategy: str | None = setting(
        None, "MAX or MEAN of the sources, for the intensity loss (default: the task's)"
    )
    input_order: str | None = setting(
        None, "which image the first encoder gets: ab or ba (default: as the task's test script)"
    )
    sampler: str = setting("ddp-solver++", ", ".join(SAMPLERS))
    inference_steps: int = setting(5, "steps of the sampler")
    train_timesteps: int = setting(1000, "steps of the noise table")
    noise_index: int = setting(
        1, "the step whose noise the latent gets; the loop starts at 0 (the authors' code: 1)"
    )
    keep_scaled_state: bool = setting(
        True, "Euler, LMS, Heun go on from the scaled input, as the authors' do; no: the textbook's"
    )
    deis_rescale: str = setting(
        "batch", "Deis stretches the latent to [-1, 1]: over the batch (sic), each image, or off"
    )
    width: int = setting(64, "of the autoencoder at full size")
    blocks: tuple[int, int, int, int] = setting((4, 4, 4, 4), "of the transformer, per level")
    ffn_factor: float | None = setting(
        None, "expansion of the transformer's feed-forward (default: 2.66 for MEF, 4 otherwise)"
    )
    dif_target: str = setting(
        "noise", "what the diffusion loss compares with: noise, or noised_latent (older code)"
    )
    save: str = setting(
        "reference", "reference: above the darkest value, cut; linear: the whole range, rounded"
    )
    epochs: int = setting(60, "passes over the training pairs")
    batch_size: int = setting(4, "pairs per step (and process)")
    learning_rate: float = setting(3e-4, "of AdamW at the start")
    weight_decay: float = setting(1e-4, "of AdamW")

    def __post_init__(self):
        for name, allowed in (
            ("task", (*TASKS, *TASKS.values())),
            ("sampler", SAMPLERS),
            ("strategy", (None, "MAX", "MEAN")),
            ("input_order", (None, "ab", "ba")),
            ("deis_rescale", ("batch", "image", "off")),
            ("dif_target", ("noise", "noised_latent")),
            ("save", ("reference", "linear")),
        ):
            value = getattr(self, name)
            if value not in allowed:
                known = [x for x in dict.fromkeys(allowed) if x]
                raise UserError(f"lfdt: unknown {name} {value!r}{did_you_mean(str(value), known)}")
        least = LEAST_STEPS.get(self.sampler, 2)
        if self.inference_steps < least:
            raise UserError(f"lfdt: {self.sampler} takes {least} steps or more")
        if not 0 <= self.noise_index < max(2, self.inference_steps):
            raise UserError("lfdt: noise_index must be one of the steps, from 0")

    @property
    def kind(self) -> str:
        """The task as jfusion calls it: IVF, MIF, ..."""
        return TASKS.get(self.task, self.task)

    @property
    def goal(self) -> str:
        """MAX or MEAN."""
        return self.strategy or ("MEAN" if self.kind in ("MEF", "NIR") else "MAX")

    @property
    def order(self) -> str:
        """Ab or ba."""
        return self.input_order or ("ab" if self.kind == "MEF" else "ba")

    @property
    def factor(self) -> float:
        """The expansion of the transformer's feed-forward."""
        return self.ffn_factor or (2.66 if self.kind == "MEF" else 4.0)

    @staticmethod
    def of_the_authors(values: dict[str, Any], where: str) -> dict[str, Any]:
        """Settings, and options of a run, from the content of one of the authors' JSON files.

        Raises UserError when it asks for a network or a schedule that is not the published one.
        """
        model, data = (_part(values, key, where) for key in ("model", "datasets"))
        unet, fusion = (_part(model, key, where) for key in ("Unet", "Fusion"))
        train, data = values.get("train") or {}, data.get("train") or {}
        optimizer, schedule = (train.get(key) or {} for key in ("optimizer", "scheduler"))
        for part, key, only in (
            (fusion, "model_selected", "DFT"),
            (fusion, "channel_emdin", 8),
            (fusion, "heads", [1, 2, 4, 8]),
            (unet, "in_ch", 1),
            (unet, "out_ch", 1),
            (unet, "LDM_embed_dim", 8),
            (unet, "ch_mult", [1, 2, 4]),
            (optimizer, "type", "AdamW"),
            (schedule, "periods", [15, 15, 15, 16]),
            (schedule, "restart_weights", [1, 1, 0.5, 0.5]),
            (schedule, "eta_mins", [3e-4, 1e-5, 1e-5, 1e-5]),
        ):
            if part.get(key, only) != only:
                raise UserError(f"{where}: {key} {part[key]} is not offered, only {only}")
        if fusion.get("feat_channels", [32])[0] != 32:
            raise UserError(f"{where}: feat_channels must begin with 32, which the head needs")
        found = {
            "task": model.get("fusion_task"),
            "strategy": fusion.get("mode"),
            "sampler": fusion.get("sample_selected"),
            "inference_steps": fusion.get("inference_steps"),
            "train_timesteps": fusion.get("num_train_timesteps"),
            "blocks": fusion.get("num_blocks"),
            "width": unet.get("LDM_ch"),
            "epochs": train.get("n_epoch"),
            "batch_size": data.get("batch_size"),
            "learning_rate": optimizer.get("lr"),
            "weight_decay": optimizer.get("weight_decay"),
            "crop": data.get("crop_size") and [data["crop_size"]] * 2,
            "weights": (values.get("path") or {}).get("resume_state"),
        }
        return {key: value for key, value in found.items() if value is not None}


def _part(values: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    part = values.get(key)
    if not isinstance(part, dict):
        raise UserError(f"{where}: {key!r} must be a mapping, as in the authors' files")
    return part
