"""`jfusion plot RUN...`: the curves of runs over one another, and their previews by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jfusion.config import CommandOptions, setting
from jfusion.errors import UserError
from jfusion.files import check_output, mark_input
from jfusion.runs import Run, runs_in

EPILOG = (
    "jfusion plot exp/RUN1 exp/RUN2 --out compare.html lays two runs over one another and lists the "
    "settings in which they differ. jfusion runs lists the runs."
)


@dataclass(frozen=True)
class Options(CommandOptions):
    """The runs, and what is drawn of them."""

    runs: Sequence[str] = setting(
        ("exp",),
        "run folders; a folder of runs such as exp stands for its newest one (default: exp)",
        "RUN",
        positional=True,
    )
    out: str = setting("plot.png", "the file to write: .png, .svg, .pdf or .html", "FILE")
    values: str | None = setting(
        None, "columns of metrics.csv, comma-separated (default: all)", "total,val/VIF"
    )
    smooth: int = setting(
        0, "steps of the running mean; 1: none (default: a fiftieth of the curve)", least=0
    )
    previews: bool = setting(True, "with the images of pic_fusion by epoch as a strip")


def run(options: Options) -> int:
    """Writes the figure and prints its path."""
    from jfusion.report import curves

    check_output(options.out, "the curves")
    runs = [_run(Path(name)) for name in dict.fromkeys(options.runs)]
    for run in runs:
        mark_input(run.folder / "metrics.csv")
    path = curves.write(Path(options.out), runs, options.values, options.smooth, options.previews)
    print(f"{path}: {', '.join(run.folder.name for run in runs)}")
    return 0


def _run(folder: Path) -> Run:
    """The run in a folder, or the newest one of a folder of runs. Raises UserError."""
    if (folder / "config.json").is_file():
        return Run.open(folder)
    runs = runs_in(folder)
    if not runs:
        state = "holds no run" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {state}; jfusion train makes one")
    return runs[0]
