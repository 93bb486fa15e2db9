"""The run folder `exp/<time>_<system>_<dataset>/`: what ran, with what, and what came of it."""

from __future__ import annotations

import csv
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

import jfusion
from jfusion import checkpoint
from jfusion.data import image
from jfusion.errors import UserError, writing
from jfusion.files import read_text, remove_left, write_text


class Run:
    """One training run on disk. `Run.new` makes a folder, `Run.open` goes on with one."""

    def __init__(self, folder: Path, record: dict[str, Any]):
        self.folder, self.record = folder, record
        self._csv, self._board = None, None

    @classmethod
    def new(cls, root: Path, system: str, dataset: str, record: dict[str, Any]) -> Run:
        """A fresh folder, never an existing one, with the sources that run and the configuration."""
        stem = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{system}_{dataset}"
        for number in range(1, 1000):
            folder = root / (stem if number == 1 else f"{stem}_{number}")
            try:
                folder.mkdir(parents=True)
                break
            except FileExistsError:
                continue
            except OSError as error:
                raise writing("the run folder", folder, error) from error
        _copy_sources(folder / "code")
        (folder / "model").mkdir()
        write_text(
            folder / "config.json", json.dumps(record, indent=2) + "\n", "the run's configuration"
        )
        return cls(folder, record)

    @classmethod
    def open(cls, folder: Path) -> Run:
        """The run in `folder`; UserError when it is not a run folder."""
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder} is not a run folder (it has no config.json)")
        try:
            return cls(
                folder, json.loads(read_text(folder / "config.json", "the run's configuration"))
            )
        except ValueError as error:
            raise UserError(f"{folder / 'config.json'} is not valid JSON: {error}") from error

    def muted(self) -> Run:
        """The same run for a process that must not write: it reads, and its writing does nothing."""
        return _Muted(self.folder, self.record)

    # ---- checkpoints

    def checkpoints(self) -> list[Path]:
        """Oldest first: `ckpt_<epochs done>.pkl`, and `ckpt_<epochs done>_<batches>.pkl` in between."""
        found = []
        for path in (self.folder / "model").glob("ckpt_*.pkl"):
            parts = path.stem.split("_")[1:]
            if all(p.isdigit() for p in parts):
                found.append(([int(p) for p in parts], path))
        return [path for _, path in sorted(found)]

    def save(self, content: dict[str, Any]) -> Path:
        """Writes a checkpoint under the name that its epoch and batch give."""
        epoch, batch = content["epoch"], content["batch"]
        path = (
            self.folder / "model" / (f"ckpt_{epoch}_{batch}.pkl" if batch else f"ckpt_{epoch}.pkl")
        )
        checkpoint.save(path, content)
        if (
            not batch
        ):  # the epoch is complete: what an interruption left inside it is of no more use
            for old in (self.folder / "model").glob("ckpt_*_*.pkl"):
                old.unlink()
        return path

    def prune(self, keep_last: int, best: int | None = None) -> None:
        """Removes all checkpoints but the newest `keep_last` and that of `best` epochs.

        Nothing is removed before the newest one has been read back whole, hash and all.
        """
        found = self.checkpoints()
        kept = [*found[-keep_last:], *(p for p in found if p.stem == f"ckpt_{best}")]
        if len(kept) >= len(found):
            return
        try:
            checkpoint.load(found[-1])
        except UserError as error:
            print(f"jfusion: {error}; the older checkpoints are kept")
            return
        for path in found:
            if path not in kept:
                path.unlink()

    def best_epoch(self, loss: str, sizes: list[int]) -> int | None:
        """The number of epochs done at the lowest mean of a loss; None before the first is complete.

        sizes: the steps of each complete epoch.
        """
        with (self.folder / "metrics.csv").open(newline="") as file:
            values = {int(row["step"]): float(row[loss]) for row in csv.DictReader(file)}
        means, step = {}, 1
        for number, size in enumerate(sizes, 1):
            own = [values[k] for k in range(step, step + size) if k in values]
            step += size
            if len(own) == size:
                means[number] = sum(own) / size
        return min(means, key=means.__getitem__) if means else None

    def latest(self) -> dict[str, Any] | None:
        """The newest checkpoint that can be read, None when there is none yet."""
        for path in reversed(self.checkpoints()):
            try:
                return checkpoint.load(path)
            except UserError as error:
                print(f"jfusion: {error}; going on from the one before it")
        return None

    # ---- scalars and pictures

    def start_log(self, step: int) -> None:
        """Opens log.txt, metrics.csv and TensorBoard; entries after `step` (lost work) are dropped."""
        from tensorboardX import SummaryWriter

        remove_left(self.folder)
        remove_left(self.folder / "model")
        _keep_until(self.folder / "metrics.csv", step)
        _keep_until(self.folder / "log.txt", step)
        self._board = SummaryWriter(str(self.folder), purge_step=step + 1, flush_secs=30)

    def log(self, step: int, line: str, values: dict[str, float]) -> None:
        """One line of text and the scalars of one step."""
        table = self.folder / "metrics.csv"
        try:
            header = _header(table, ["step", *values])
            row = {"step": step, **{k: f"{v:.8g}" for k, v in values.items()}}
            with table.open("a", newline="") as file:
                csv.DictWriter(file, header).writerow(row)
            with (self.folder / "log.txt").open("a") as file:
                file.write(f"{step}\t{line}\n")
            for name, value in values.items():
                self._board.add_scalar(name if "/" in name else f"loss/{name}", value, step)
        except OSError as error:
            raise writing("the run's log", self.folder, error) from error

    def picture(self, epoch: int, name: str, parts: list[np.ndarray]) -> None:
        """A, B and the fused image (each (H, W) in [0, 1]) side by side."""
        row = np.concatenate(
            [np.clip(np.round(p * 255), 0, 255).astype(np.uint8) for p in parts], 1
        )
        image.write(self.folder / "pic_fusion" / f"ckpt_{epoch}" / f"{name}.png", row)

    def close(self) -> None:
        """Closes the TensorBoard file."""
        if self._board is not None:
            self._board.close()


class _Muted(Run):
    def save(self, content: dict[str, Any]) -> Path:
        return self.folder

    def prune(self, keep_last: int, best: int | None = None) -> None:
        pass

    def best_epoch(self, loss: str, sizes: list[int]) -> int | None:
        return None

    def start_log(self, step: int) -> None:
        pass

    def log(self, step: int, line: str, values: dict[str, float]) -> None:
        pass

    def picture(self, epoch: int, name: str, parts: list[np.ndarray]) -> None:
        pass


def _copy_sources(target: Path) -> None:
    package = Path(jfusion.__file__).parent
    try:
        shutil.copytree(package, target / "jfusion", ignore=shutil.ignore_patterns("__pycache__"))
        for script in ("train.py", "test.py", "data_process.py"):
            if (package.parent / script).is_file():
                shutil.copy(package.parent / script, target)
    except OSError as error:
        raise writing("the code snapshot", target, error) from error


def _header(table: Path, names: list[str]) -> list[str]:
    """The columns of a CSV; it is made, or rewritten with the columns of a new stage, if need be."""
    if not table.exists():
        write_text(table, ",".join(names) + "\n", "the run's log")
        return names
    with table.open(newline="") as file:
        header = next(csv.reader(file), [])
        new = [name for name in names if name not in header]
        if not new:
            return header
        rows = file.read().splitlines()
    lines = [",".join([*header, *new]), *(row + "," * len(new) for row in rows)]
    write_text(table, "\n".join(lines) + "\n", "the run's log")
    return [*header, *new]


def _keep_until(path: Path, step: int) -> None:
    """Drops the lines of a log whose leading number is above `step`, and a last line cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        first = line.replace("\t", ",").split(",")[0]
        if line.endswith("\n") and (not first.isdigit() or int(first) <= step):
            kept.append(line)
    write_text(path, "".join(kept), "the run's log")
