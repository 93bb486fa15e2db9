"""`jfusion convert`: a checkpoint in another format, by our parameter names or the authors'."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jfusion import checkpoint, inference
from jfusion.config import REQUIRED, CommandOptions, setting, to_dict
from jfusion.errors import UserError
from jfusion.files import check_output, mark_input


@dataclass(frozen=True)
class Options(CommandOptions):
    """The two files, and whose names are written."""

    source: str = setting(
        REQUIRED, "the checkpoint or run folder (its newest) to read", "IN", positional=True
    )
    target: str = setting(REQUIRED, "the file to write", "OUT", positional=True)
    system: str | None = setting(
        None,
        "check and translate the names of this system (default: names stay as they are)",
        "NAME",
    )
    names: Literal["ours", "official"] | None = setting(
        None, "with --system: which names to write (default: official for .pth, otherwise ours)"
    )


def run(options: Options) -> int:
    """Writes the file and prints what is in it."""
    source = inference.find_checkpoint(options.source)
    mark_input(source)
    check_output(options.target, "the checkpoint")
    content = checkpoint.load(source)
    if options.names and not options.system:
        raise UserError("--names needs --system, whose names are translated")
    if options.system:
        official = options.names == "official" or (
            options.names is None and Path(options.target).suffix == ".pth"
        )
        content = with_names(content, options.system, official, source)
    checkpoint.save(options.target, content)
    print(checkpoint.summary(options.target).splitlines()[0])
    return 0


def with_names(
    content: dict[str, Any], name: str, official: bool, where: str | Path
) -> dict[str, Any]:
    """A checkpoint's content with its model by the authors' names, or by ours, after a strict check.

    name: the system; where: the file, for errors.
    """
    from jfusion.inference import from_checkpoint

    system = from_checkpoint(where, content, name)
    model = system.state()
    if official:
        model = {system.WEIGHTS.official(k): v for k, v in model.items()}
    record = {k: v for k, v in content.items() if k != "hash"}
    return {"system": name, "config": to_dict(system.config), **record, "model": model}
