"""The settings of LFDT-Fusion, and the reading of the authors' JSON files. Needs no Jittor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jfusion.config import SystemConfig, setting
from jfusion.errors import UserError

# A small network of the same kernels, to compile them ahead and to test with.
TINY = {"width": 16, "blocks": (1, 1, 1, 1), "inference_steps": 2}

# The authors' names of the tasks.
TASKS = {
    "VI-IR": "IVF",
    "VI-NIR": "NIR",
    "PIF": "PIF",
    "MEF": "MEF",
    "MFF": "MFF",
    "SPECT-MRI": "MIF",
    "PET-MRI": "MIF",
}
LEAST_STEPS = {"DDIM": 1, "PNDM": 4}  # of the other samplers: 2
LEVELS = (3, 4)  # the numbers of levels that the authors' autoencoder can have


@dataclass(frozen=True)
class Config(SystemConfig):
    """The network and the recipe of one task."""

    RENAMED: ClassVar[dict[str, Any]] = {
        "keep_scaled_state": lambda on: {"sigma_state": "released" if on else "paper"},
        "deis_rescale": lambda value: {
            "deis_rescale": {"batch": "released", "off": "paper"}.get(value, value)
        },
        "save": lambda value: {
            "output_range": {"reference": "released", "linear": "full"}.get(value, value)
        },
    }

    crop: tuple[int, int] | None = setting(
        (256, 256),
        "train on random windows of this size, multiples of 8; none: whole images",
        metavar=("HEIGHT", "WIDTH"),
        least=1,
        training=True,
    )
    augment: bool = setting(True, "train on random flips and rotations by quarters", training=True)
    drop_last: bool = setting(
        False, "leave out the incomplete batch at the end of an epoch", training=True
    )
    task: Literal[
        "IVF", "MIF", "MEF", "MFF", "NIR", "PIF", "VI-IR", "VI-NIR", "SPECT-MRI", "PET-MRI"
    ] = setting(
        "IVF",
        "what is fused, by our name or the authors': decides the losses, the order of the inputs and "
        "the width of the transformer",
    )
    strategy: Literal["MAX", "MEAN"] | None = setting(
        None,
        "the target of the intensity loss, of the two sources (default: by task)",
        training=True,
    )
    input_order: Literal["ab", "ba"] | None = setting(
        None, "which image the first encoder gets (default: as in the task's test script)"
    )
    sampler: Literal[
        "ddp-solver++", "ddp-solver", "Deis", "Unipc", "DDIM", "Heun", "Euler", "LMS", "PNDM"
    ] = setting("ddp-solver++", "how the latent is denoised, by the authors' names")
    inference_steps: int = setting(5, "steps of the sampler, in training too")
    train_timesteps: int = setting(1000, "steps of the noise schedule", least=1)
    noise_index: int = setting(
        1,
        "the step whose noise the latent gets; the released code takes 1, and its loop starts at 0",
    )
    sigma_state: Literal["released", "paper"] = setting(
        "released",
        "what Euler, LMS and Heun step from: the input that was scaled for the network, as in the "
        "released code, or the unscaled latent of their papers",
    )
    deis_rescale: Literal["released", "image", "paper"] = setting(
        "released",
        "Deis normalizes the latent to [-1, 1] over the whole batch, as in the released code; each "
        "image by itself; or never, as in its paper",
    )
    width: int = setting(64, "channels of the autoencoder at full size", least=1)
    channel_mult: str = setting(
        "1,2,4",
        "width of the autoencoder after each of its three or four levels, in units of --width",
    )
    blocks: tuple[int, int, int, int] = setting(
        (4, 4, 4, 4), "transformer blocks per level", least=1
    )
    ffn_factor: float | None = setting(
        None,
        "expansion of the transformer's feed-forward (default: 2.66 for MEF, 4 otherwise)",
        above=0,
    )
    dif_target: Literal["noise", "noised_latent"] = setting(
        "noise",
        "what the diffusion loss compares with; noised_latent: the code before August 2024",
        training=True,
    )
    output_range: Literal["released", "full"] = setting(
        "released",
        "how images are written: above their darkest value and rounded down, as in the released code, "
        "or the full range, rounded",
    )
    epochs: int = setting(60, "passes over the training pairs", least=1, training=True)
    batch_size: int = setting(4, "pairs per step (and process)", least=1, training=True)
    learning_rate: float = setting(
        3e-4, "learning rate of AdamW at the start", above=0, training=True
    )
    weight_decay: float = setting(1e-4, "weight decay of AdamW", least=0, training=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        least = LEAST_STEPS.get(self.sampler, 2)
        if self.inference_steps < least:
            raise UserError(f"lfdt: {self.sampler} needs {least} steps or more")
        if not 0 <= self.noise_index < max(2, self.inference_steps):
            raise UserError("lfdt: noise_index must be one of the steps, from 0")
        if len(self.multipliers) not in LEVELS:
            raise UserError(
                f"lfdt: channel_mult must have three or four levels, such as 1,2,4, not "
                f"{self.channel_mult!r}"
            )

    @property
    def multipliers(self) -> tuple[int, ...]:
        """`channel_mult` as numbers, one for each level of the autoencoder."""
        parts = [part.strip() for part in self.channel_mult.split(",")]
        if not all(part.isdigit() and int(part) for part in parts):
            raise UserError(
                f"lfdt: channel_mult must be positive whole numbers with commas, not "
                f"{self.channel_mult!r}"
            )
        return tuple(map(int, parts))

    @property
    def multiple(self) -> int:
        """The sides of training images must be multiples of this; others are padded."""
        return 2 ** len(self.multipliers)

    @property
    def smallest_side(self) -> int:
        """The shortest side of an image that leaves the transformer a latent of 8x8."""
        return 3 * self.multiple + 1

    @property
    def kind(self) -> str:
        """The task as jfusion calls it: IVF, MIF, ..."""
        return TASKS.get(self.task, self.task)

    @property
    def target(self) -> str:
        """The target of the intensity loss: MAX or MEAN."""
        return self.strategy or ("MEAN" if self.kind in ("MEF", "NIR") else "MAX")

    @property
    def order(self) -> str:
        """The order of the encoders' inputs: ab or ba."""
        return self.input_order or ("ab" if self.kind == "MEF" else "ba")

    @property
    def ffn_expansion(self) -> float:
        """The expansion of the transformer's feed-forward."""
        return self.ffn_factor or (2.66 if self.kind == "MEF" else 4.0)

    @classmethod
    def for_dataset(cls, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """The file's task, where it is one of ours."""
        task = attributes.get("task")
        return {"task": str(task)} if task in (*TASKS, *TASKS.values()) else {}

    @classmethod
    def from_official(cls, values: dict[str, Any], where: str) -> dict[str, Any]:
        """Settings, and options of a run, from the content of one of the authors' JSON files.

        Raises UserError when the file describes a network or a learning rate that is not offered.
        """
        model, data = (_part(values, key, where) for key in ("model", "datasets"))
        unet, fusion = (_part(model, key, where) for key in ("Unet", "Fusion"))
        train, data = values.get("train") or {}, data.get("train") or {}
        optimizer, schedule = (train.get(key) or {} for key in ("optimizer", "scheduler"))
        _check_offered(unet, fusion, optimizer, schedule, where)
        settings = {
            "task": model.get("fusion_task"),
            "strategy": fusion.get("mode"),
            "sampler": fusion.get("sample_selected"),
            "inference_steps": fusion.get("inference_steps"),
            "train_timesteps": fusion.get("num_train_timesteps"),
            "blocks": fusion.get("num_blocks"),
            "width": unet.get("LDM_ch"),
            "channel_mult": unet.get("ch_mult") and ",".join(map(str, unet["ch_mult"])),
            "epochs": train.get("n_epoch"),
            "batch_size": data.get("batch_size"),
            "learning_rate": optimizer.get("lr"),
            "weight_decay": optimizer.get("weight_decay"),
            "crop": data.get("crop_size") and [data["crop_size"]] * 2,
            "weights": (values.get("path") or {}).get("resume_state"),
        }
        return {key: value for key, value in settings.items() if value is not None}


def _check_offered(
    unet: dict[str, Any],
    fusion: dict[str, Any],
    optimizer: dict[str, Any],
    schedule: dict[str, Any],
    where: str,
) -> None:
    """Raises UserError for a value of the authors' file that has one possible value here."""
    for part, key, only in (
        (fusion, "model_selected", "DFT"),
        (fusion, "channel_emdin", 8),
        (fusion, "heads", [1, 2, 4, 8]),
        (unet, "in_ch", 1),
        (unet, "out_ch", 1),
        (unet, "LDM_embed_dim", 8),
        (optimizer, "type", "AdamW"),
        (schedule, "periods", [15, 15, 15, 16]),
        (schedule, "restart_weights", [1, 1, 0.5, 0.5]),
        (schedule, "eta_mins", [3e-4, 1e-5, 1e-5, 1e-5]),
    ):
        if part.get(key, only) != only:
            raise UserError(f"{where}: {key} {part[key]} is not offered, only {only}")
    if fusion.get("feat_channels", [32])[0] != 32:
        raise UserError(f"{where}: feat_channels must begin with 32, which the head needs")
    levels = unet.get("ch_mult", [1, 2, 4])
    if not isinstance(levels, list) or len(levels) not in LEVELS:
        raise UserError(f"{where}: ch_mult must be a list of three or four numbers, not {levels}")


def _part(values: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    part = values.get(key)
    if not isinstance(part, dict):
        raise UserError(f"{where}: {key!r} must be a mapping, as in the authors' files")
    return part
