"""`jfusion inspect`: the content of a checkpoint. Nothing in the file can run."""

from __future__ import annotations

from dataclasses import dataclass

from jfusion import checkpoint, inference
from jfusion.config import REQUIRED, CommandOptions, setting


@dataclass(frozen=True)
class Options(CommandOptions):
    """The file."""

    file: str = setting(
        REQUIRED,
        ".pkl, .safetensors or PyTorch's .pth, a run folder (its newest), or a name of jfusion weights; "
        "nothing in it can run",
        positional=True,
    )


def run(options: Options) -> int:
    """Prints the record, and each tensor's name, shape and dtype."""
    print(checkpoint.summary(inference.find_checkpoint(options.file)))
    return 0
