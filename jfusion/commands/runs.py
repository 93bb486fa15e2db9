"""`jfusion runs`: a table of training runs, and what removes their superfluous checkpoints."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jfusion.config import CommandOptions, setting
from jfusion.errors import UserError, counted, did_you_mean, printable
from jfusion.runs import Run, higher_is_better, runs_in

EPILOG = (
    "jfusion runs clean --keep-last 1 --keep-best total removes all other checkpoints of the runs in "
    "exp/, after it has listed them and asked. Logs and images always stay."
)
ACTIONS = ("list", "clean")
MEAN = 100  # steps, at most, over whose end the last loss is the mean


@dataclass(frozen=True)
class Options(CommandOptions):
    """What is done, with which runs."""

    action: str = setting(
        "list",
        "list, also when left out: a table of the runs; clean: remove checkpoints, after asking",
        "list|clean",
        positional=True,
    )
    folders: Sequence[str] = setting(
        (), "run folders, or folders of runs (default: exp)", "FOLDER", positional=True
    )
    sort: Literal["newest", "name", "system", "data", "steps", "loss", "best", "size"] = setting(
        "newest", "column that orders the table"
    )
    keep_last: int = setting(
        1, "clean: keep so many of the newest checkpoints of each run", least=1
    )
    keep_best: str | None = setting(
        None, "clean: also keep the best epoch by this loss, or this metric of the validation"
    )
    yes: bool = setting(False, "clean: remove without asking")


def run(options: Options) -> int:
    """Prints the table, or removes checkpoints."""
    action, folders = options.action, options.folders
    if action not in ACTIONS:  # it was left out, or misspelled
        if not Path(action).exists():
            raise UserError(
                f"{printable(action)!r} is neither list nor clean nor a folder{did_you_mean(action, ACTIONS)}"
            )
        action, folders = "list", (action, *folders)
    named = [run for folder in folders or ("exp",) for run in _runs(Path(folder))]
    runs = list({run.folder.resolve(): run for run in named}.values())
    return _clean(runs, options) if action == "clean" else _list(runs, options.sort)


def _runs(folder: Path) -> list[Run]:
    """The run in a folder, or all those in a folder of runs. Raises UserError when there is none."""
    if (folder / "config.json").is_file():
        return [Run.open(folder)]
    runs = runs_in(folder)
    if not runs:
        state = "holds no run" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {state}; jfusion train makes one")
    return runs


# ---- the table


def _list(runs: list[Run], sort: str) -> int:
    rows = [_row(run) for run in runs]
    if sort != "newest":  # the order in which they were found
        rows.sort(key=lambda row: row[sort][0], reverse=sort in ("steps", "best", "size"))
    names = [name for name in rows[0] if any(row[name][1] for row in rows)]
    cells = [names, *([printable(row[name][1]) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        left = ("name", "system", "data", "best")
        parts = zip(names, line, widths, strict=True)
        print("  ".join(c.ljust(w) if n in left else c.rjust(w) for n, c, w in parts).rstrip())
    return 0


def _row(run: Run) -> dict[str, tuple[Any, str]]:
    """The cells of a run: what each is sorted by, and its text. A log that cannot be read is named."""
    try:
        values = run.scalars()
    except UserError as error:
        print(f"note: {printable(error, 4000)}", file=sys.stderr)
        values = {}
    steps = int(values["step"][-1]) if len(values.get("step", ())) else 0
    losses = values.get("total", np.array([]))
    losses = losses[np.isfinite(losses)][-MEAN:]
    loss = float(losses.mean()) if len(losses) else math.inf
    best, metric = _best(values, run.record.get("options", {}).get("keep_best"))
    size = run.bytes_on_disk()
    text = {
        name: str(run.record.get(key, ""))
        for name, key in (("system", "system"), ("data", "dataset"))
    }
    return {
        "name": (run.folder.name, run.folder.name),
        **{name: (value, value) for name, value in text.items()},
        "steps": (steps, f"{steps}"),
        "loss": (loss, f"{loss:.4g}" if len(losses) else "-"),
        "best": (best, metric),
        "size": (size, f"{size / 2**20:.1f} MiB"),
    }


def _best(values: dict[str, np.ndarray], chosen: str | None) -> tuple[float, str]:
    """The best value of a metric of the validation, to sort by, and as text with its step.

    It is the one that the run chose its best epoch by, else VIF, else the first.
    """
    there = [k for k in values if k.startswith("val/") and np.isfinite(values[k]).any()]
    if not there:
        return -math.inf, ""
    name = next((k for k in (f"val/{chosen}", "val/VIF") if k in there), there[0])
    higher = higher_is_better(name.removeprefix("val/"))
    at = int(np.nanargmax(values[name] if higher else -values[name]))
    value = float(values[name][at])
    text = f"{name.removeprefix('val/')} {value:.4g} at step {int(values['step'][at])}"
    return (value if higher else -value), text


# ---- removing checkpoints


def _clean(runs: list[Run], options: Options) -> int:
    """Lists the superfluous checkpoints, asks, and removes them; runs that are being trained are skipped."""
    chosen = []
    for run in runs:
        best = _best_epoch(run, options.keep_best)
        paths = run.superfluous(options.keep_last, best)
        if not paths:
            continue
        size = sum(path.stat().st_size for path in paths)
        print(
            f"{run.folder}: {len(paths)} of {counted(len(run.checkpoints()), 'checkpoint')}, {size / 2**20:.1f} MiB"
        )
        chosen.append((run, best, size))
    if not chosen:
        print("nothing to remove: every run has only what is kept")
        return 0
    total = sum(size for *_, size in chosen) / 2**20
    if not options.yes and not _agreed(f"remove them and free {total:.1f} MiB? [y/N] "):
        print("nothing was removed")
        return 0
    for run, best, _ in chosen:
        try:
            with run.locked():
                run.prune(options.keep_last, best)
        except UserError as error:
            print(f"note: {printable(error, 4000)}; its checkpoints are kept")
    return 0


def _best_epoch(run: Run, name: str | None) -> int | None:
    """The epoch of a run that --keep-best keeps. Raises UserError where the run has no such value."""
    if name is None:
        return None
    known = [column.removeprefix("val/") for column in run.scalars()]
    if name not in known:
        raise UserError(f"--keep-best: {run.folder} has no {name!r}{did_you_mean(name, known)}")
    return run.best_epoch(name, run.epoch_sizes())


def _agreed(question: str) -> bool:
    """Whether the user answers yes. Raises UserError where nobody can answer."""
    if not sys.stdin.isatty():
        raise UserError("jfusion runs clean asks before it removes; without a terminal, add --yes")
    return input(question).strip().lower() in ("y", "yes")
