"""`jfusion train`: training a system, or resuming a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from jfusion.config import setting
from jfusion.errors import UserError
from jfusion.systems import registry
from jfusion.train.options import Options as TrainOptions

# The options of FILM's published train.py, with underscores, and what they are called here.
PUBLISHED = {
    "--numepochs": "--epochs",
    "--lr": "--learning-rate",
    "--gamma": "--decay",
    "--step_size": "--decay-every",
    "--batch_size": "--batch-size",
    "--loss_grad_weight": "--gradient-weight",
    "--loss_ssim": "--ssim-weight",
    "--i2t_dim": "--image2text-dim",
    "--hidden_dim": "--hidden-dim",
    "--dataset_path": "--data",
}
TRAINS = True  # so it offers the settings of a system that only say how it is trained
_DATA = next(f for f in fields(TrainOptions) if f.name == "data")


@dataclass(frozen=True)
class Options(TrainOptions):
    """The options of a run, and which system or run it is."""

    data: str | None = setting(
        None, f"{_DATA.metadata['help']} (default: {_DATA.default}; the run's own)", "PATH"
    )
    system: str | None = setting(
        None, f"see jfusion systems (default: {registry.DEFAULT})", positional=True
    )
    resume: str | None = setting(None, "resume the run in this folder (default: a new run)", "RUN")


def spelled(arguments: Sequence[str]) -> list[str]:
    """The arguments with the options of FILM's published script under their present names, and a note."""
    words = []
    for word in arguments:
        option, equals, value = word.partition("=")
        new = PUBLISHED.get(option, option)
        if new != option:
            print(f"note: {option} of FILM's published code is {new} here")
        words.append(new + equals + value)
    return words


def system_of(values: Mapping[str, Any]) -> str:
    """The system whose settings are offered."""
    return values.get("system") or registry.DEFAULT


def run(options: Options, settings: Mapping[str, Any]) -> int:
    """Trains, or resumes. Raises UserError for options that do not go with --resume."""
    if options.resume is not None:
        return _resume(options, settings)
    name = options.system or registry.DEFAULT
    if not hasattr(registry.system_class(name), "losses"):
        raise UserError(f"{name} is not trained: it has no losses")
    from jfusion.train.setup import train, train_each

    start = train_each if options.each else train
    start(name, settings, replace(options, data=options.data or _DATA.default))
    return 0


def _resume(options: Options, settings: Mapping[str, Any]) -> int:
    changed = {f.name for f in fields(options) if getattr(options, f.name) != f.default}
    if settings or changed - {"resume", "system", "data", "max_steps"}:
        raise UserError(
            "--resume continues a run as it was started: it accepts only --data and --max-steps"
        )
    from jfusion.train.setup import resume

    if options.system is not None:
        _check_system(options.resume, options.system)
    resume(options.resume, options.data, options.max_steps)
    return 0


def _check_system(folder: str, name: str) -> None:
    """Raises UserError unless the run in `folder` trains the system `name`."""
    from jfusion.train.setup import Run, present_record

    system = present_record(Run.open(Path(folder)).record)["system"]
    if registry.RENAMED_SYSTEMS.get(name, name) != system:
        raise UserError(f"--resume continues the run's own system {system}; leave out {name}")
