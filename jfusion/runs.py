"""The run folder `exp/<time>_<system>_<dataset>/`: what ran, with which settings, and its results."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jfusion import checkpoint
from jfusion.data import image
from jfusion.errors import UserError, printable, unreadable, writing
from jfusion.files import read_text, remove_left, write_text

PACKAGE = Path(__file__).resolve().parent
SCRIPTS = ("train.py", "test.py", "data_process.py")  # of a clone, next to the package
RECORD = {  # the types of the values in config.json; others than these are not read
    "system": str,
    "config": dict,
    "options": dict,
    "dataset": str,
    "encoder": str,
    "encoder_hash": str,
    "fingerprint": str,
    "version": str,
    "precision": str,
}


class Run:
    """One training run on disk: `Run.new` makes its folder, `Run.open` opens an existing one.

    folder: the run folder. record: what `config.json` holds: "system", "config" (the system's
    settings), "options" (of the run), "dataset", "encoder" and "encoder_hash" of the paragraph
    features, the "version" of jfusion and the "precision" of convolutions.
    """

    def __init__(self, folder: Path, record: dict[str, Any]):
        self.folder, self.record = folder, record
        self._board = None
        self._read: _Read | None = None
        self._shown = 0, 0  # the epoch of the last preview, and its number in that epoch

    @classmethod
    def new(cls, root: Path, system: str, dataset: str, record: dict[str, Any]) -> Run:
        """Makes a new folder in `root`, with the sources that run and the record.

        Raises UserError when it cannot be written. An existing folder is never used: two runs of one
        second get two folders.
        """
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
        """Opens the run in `folder`. Raises UserError when it is not a run folder, or its record is wrong."""
        path = folder / "config.json"
        if not path.is_file():
            raise UserError(f"{folder} is not a run folder (it has no config.json)")
        try:
            record = json.loads(read_text(path, "the run's configuration"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is not valid JSON: {error}") from error
        _check_record(record, path)
        return cls(folder, record)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from training this run.

        Raises UserError when another process trains it, or when the folder holds a link: what is written
        through a link could replace a file elsewhere.
        """
        for path in self.folder.rglob("*"):
            if path.is_symlink():
                raise UserError(
                    f"{path} is a link; a run is trained only in a folder without links"
                )
        with (self.folder / "config.json").open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"{self.folder} is being trained by another process") from error
            except OSError as error:
                print(
                    f"note: {printable(self.folder, 4000)} cannot be locked ({error}); train it in one "
                    "process only"
                )
            yield

    # ---- checkpoints

    def checkpoints(self) -> list[Path]:
        """The checkpoints, oldest first.

        `ckpt_<epochs>.pkl` was written after so many complete epochs; `ckpt_<epochs>_<batches>.pkl`
        inside the next one.
        """
        numbered = []
        for path in (self.folder / "model").glob("ckpt_*.pkl"):
            parts = path.stem.split("_")[1:]
            if all(map(_is_number, parts)):
                numbered.append(([int(part) for part in parts], path))
        return [path for _, path in sorted(numbered)]

    def save(self, content: dict[str, Any]) -> Path:
        """Writes a checkpoint, named after its "epoch" and "batch", and returns its path.

        After a complete epoch, the checkpoints of interruptions inside one are removed.
        """
        epoch, batch = content["epoch"], content["batch"]
        name = f"ckpt_{epoch}_{batch}.pkl" if batch else f"ckpt_{epoch}.pkl"
        path = self.folder / "model" / name
        checkpoint.save(path, content)
        if not batch:
            for interrupted in (self.folder / "model").glob("ckpt_*_*.pkl"):
                interrupted.unlink()
        return path

    def prune(self, keep_last: int, best: int | None = None) -> None:
        """Removes all checkpoints but the newest `keep_last` and that of `best` epochs.

        Nothing is removed before the newest one has been read back whole, hash and all.
        """
        superfluous = self.superfluous(keep_last, best)
        if not superfluous:
            return
        try:
            checkpoint.load(self.checkpoints()[-1])
        except UserError as error:
            print(f"jfusion: {printable(error, 4000)}; the older checkpoints are kept")
            return
        for path in superfluous:
            path.unlink()

    def superfluous(self, keep_last: int, best: int | None = None) -> list[Path]:
        """The checkpoints that `prune` removes."""
        paths = self.checkpoints()
        keep = {*paths[-keep_last:], *(p for p in paths if p.stem == f"ckpt_{best}")}
        return [path for path in paths if path not in keep]

    def best_epoch(self, name: str, sizes: list[int]) -> int | None:
        """The number of complete epochs at which a value was best; None before the first.

        name: a loss, whose mean over an epoch is lowest there; or a metric of the validation, such as
        "VIF". sizes: the steps of each complete epoch.
        """
        table, lowest = self.scalars(), True
        if f"val/{name}" in table:
            name, lowest = f"val/{name}", not higher_is_better(name)
        if name not in table:
            return None
        steps, values = table["step"], table[name]
        # a step with a validation has a second row without losses
        present = np.isfinite(values) & (steps >= 1) & (steps <= sum(sizes))
        by_step = np.full(sum(sizes) + 1, np.nan)
        by_step[steps[present].astype(int)] = values[present]
        means, step = {}, 1
        for number, size in enumerate(sizes, 1):
            there = by_step[step : step + size]
            there = there[np.isfinite(there)]
            step += size
            if len(there) and (len(there) == size or name.startswith("val/")):
                means[number] = float(there.mean()) * (1 if lowest else -1)
        return min(means, key=means.__getitem__) if means else None

    def epoch_sizes(self) -> list[int]:
        """The steps of each complete epoch, from the lines of log.txt."""
        path = self.folder / "log.txt"
        if not path.exists():
            return []
        text = read_text(path, "the run's log", rewritten=True)
        lines = re.findall(r"^\d+\tEpoch (\d+)/\d+ Batch (\d+)/(\d+) ", text, re.M)
        ends = {int(e): int(n) for e, b, n in lines if int(b) + 1 == int(n)}
        return [ends[e] for e in range(1, len(ends) + 1) if e in ends]

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint that can be read, and its content; None when there is none yet.

        One that is damaged is named in a note, and the one before it is taken: the same to resume, to test
        and to fuse. Raises UserError when there are checkpoints and none can be read.
        """
        paths = self.checkpoints()
        while paths:
            path = paths.pop()
            try:
                return path, checkpoint.load(path)
            except UserError as error:
                if not paths:
                    raise UserError(
                        f"{error}; no checkpoint of {self.folder} can be read"
                    ) from error
                before = paths[-1].name
                print(f"note: {printable(error, 4000)}; {before}, the one before it, is used")
        return None

    def latest(self) -> dict[str, Any] | None:
        """The content of `newest`; None when there is none yet. Raises UserError as `newest` does."""
        found = self.newest()
        return None if found is None else found[1]

    # ---- what a reader of the run wants to know

    def scalars(self) -> dict[str, np.ndarray]:
        """The columns of metrics.csv, float64, NaN where a step has no value; empty before the first step.

        "step" comes first; a loss has its name, a learning rate is "learning_rate/NAME", and a metric of
        the validation pairs is "val/NAME". What an earlier call has read is not read again, as training asks after
        every epoch. Raises UserError when the file is no such table.
        """
        path = self.folder / "metrics.csv"
        if not path.exists():
            return {}
        try:
            read = self._read = _read_on(path, self._read)
        except ValueError as error:
            raise UserError(f"{path} is not the table of a run: {error}") from error
        if "step" not in read.header:
            raise UserError(f"{path} is not the table of a run: it has no column step")
        return dict(zip(read.header, read.rows.T, strict=True))

    def previews(self) -> dict[int, list[Path]]:
        """The images in pic_fusion/ by the epoch, counted from 1, in which they were made."""
        found = {}
        for folder in (self.folder / "pic_fusion").glob("ckpt_*"):
            number, images = folder.name.removeprefix("ckpt_"), sorted(folder.rglob("*.png"))
            if _is_number(number) and images:
                found[int(number)] = images
        return dict(sorted(found.items()))

    def bytes_on_disk(self) -> int:
        """The size of all files of the run."""
        return sum(p.stat().st_size for p in self.folder.rglob("*") if p.is_file())

    # ---- scalars and images

    def start_log(self, step: int) -> None:
        """Opens log.txt, metrics.csv and TensorBoard; entries after `step` (lost work) are dropped.

        Raises UserError, before any of them is changed, when one cannot be read.
        """
        from tensorboardX import SummaryWriter

        remove_left(self.folder)
        remove_left(self.folder / "model")
        paths = [self.folder / name for name in ("metrics.csv", "log.txt")]
        texts = {path: _kept_until(path, step) for path in paths if path.exists()}
        self._read = None
        for path, text in texts.items():
            write_text(path, text, "the run's log")
        self._board = SummaryWriter(str(self.folder), purge_step=step + 1, flush_secs=30)

    def log(self, step: int, line: str, values: dict[str, float]) -> None:
        """Writes one line of text and the scalars of one step. Raises UserError when it cannot."""
        table = self.folder / "metrics.csv"
        try:
            header = _header(table, ["step", *values])
            row = {"step": step, **{k: f"{v:.8g}" for k, v in values.items()}}
            with table.open("a", newline="") as file:
                csv.DictWriter(file, header).writerow(row)
            with (self.folder / "log.txt").open("a") as file:
                file.write(f"{step}\t{line}\n")
            for name, value in values.items():
                if not math.isfinite(value):  # a metric that is not defined for images so small
                    continue
                self._board.add_scalar(name if "/" in name else f"loss/{name}", value, step)
        except OSError as error:
            raise writing("the run's log", self.folder, error) from error

    def save_images(self, epoch: int, name: str, images: list[np.ndarray]) -> None:
        """Writes images (a, b and the fused one) side by side, for a sample's name.

        images: (H, W), or all of them (H, W, 3), uint8.
        """
        row = np.concatenate(images, 1)
        before, count = self._shown
        self._shown = epoch, count + 1 if epoch == before else 1
        # a slider over the epochs for each place in the previews, whose pairs change
        self.save_row(epoch, name, row, f"preview/{self._shown[1]}")

    def save_row(self, epoch: int, name: str, row: np.ndarray, tag: str) -> None:
        """Writes images side by side, (H, 3 W) or (H, 3 W, 3) uint8, and shows them in TensorBoard as `tag`."""
        image.write(self.folder / "pic_fusion" / f"ckpt_{epoch}" / f"{name}.png", row)
        if self._board is not None:
            self._board.add_image(tag, row, epoch, dataformats="HW" if row.ndim == 2 else "HWC")

    def close(self) -> None:
        """Closes the TensorBoard file."""
        if self._board is not None:
            self._board.close()


def higher_is_better(metric: str) -> bool:
    """The direction of a metric of the validation; of an unknown name, as of most metrics, True."""
    from jfusion.metrics import METRICS  # it imports SciPy, which few uses of a run need

    return metric not in METRICS or METRICS[metric].higher_is_better


def runs_in(folder: Path) -> list[Run]:
    """The runs in a folder of runs: that with the newest checkpoint first, those without one last.

    A folder whose configuration cannot be read is named in a note and skipped.
    """
    runs = []
    for file in folder.glob("*/config.json"):
        try:
            runs.append(Run.open(file.parent))
        except UserError as error:
            print(f"note: {printable(error, 4000)}; this run is skipped")
    return sorted(runs, key=_age, reverse=True)


def _age(run: Run) -> tuple[float, str]:
    """The time of a run's newest checkpoint (0 without one), and its name, for runs of one time."""
    times = [path.stat().st_mtime for path in run.checkpoints()[-1:]]
    return max(times, default=0.0), run.folder.name


class NullRun(Run):
    """The same run in a process that must not write: it reads, and what writes does nothing.

    Of several processes that train as one, all but the first have it.
    """

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Locks nothing: the first process has the run."""
        yield

    def save(self, content: dict[str, Any]) -> Path:
        """Writes nothing."""
        return self.folder

    def prune(self, keep_last: int, best: int | None = None) -> None:
        """Removes nothing."""

    def best_epoch(self, name: str, sizes: list[int]) -> int | None:
        """Reads nothing, since the log may not be there: None."""
        return None

    def start_log(self, step: int) -> None:
        """Opens nothing."""

    def log(self, step: int, line: str, values: dict[str, float]) -> None:
        """Writes nothing."""

    def save_images(self, epoch: int, name: str, images: list[np.ndarray]) -> None:
        """Writes nothing."""


def _check_record(record: Any, path: Path) -> None:
    """Raises UserError unless a run's record names a system, and its values have the types of `RECORD`."""
    if not isinstance(record, Mapping) or "system" not in record:
        raise UserError(f"{path} is not the configuration of a run: it names no system")
    for key, kind in RECORD.items():
        if key in record and not isinstance(record[key], kind):
            name = {str: "a text", dict: "a mapping"}[kind]
            shown = printable(repr(record[key]))[:60]
            raise UserError(f"{path}: {key} must be {name}, not {shown}")


def _copy_sources(target: Path) -> None:
    """Copies the package that runs, without its weights and figures, and the scripts of a clone."""
    large = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.npy", "*.npz")
    try:
        shutil.copytree(PACKAGE, target / "jfusion", ignore=large)
        for script in SCRIPTS:
            if (PACKAGE.parent / script).is_file():
                shutil.copy(PACKAGE.parent / script, target)
    except OSError as error:
        raise writing("the code snapshot", target, error) from error


class _Read(NamedTuple):
    """What was read of metrics.csv: which file it is, where the next row begins, and the values (rows, columns)."""

    inode: int
    header: list[str]
    end: int
    rows: np.ndarray


def _read_on(path: Path, before: _Read | None) -> _Read:
    """The table with the rows that were added since; all of it where another file has taken its place.

    A last line that has no end is left for later. Raises ValueError for what is no number, and UserError
    for a file that cannot be read.
    """
    try:
        with path.open("rb") as file:
            status, line = os.fstat(file.fileno()), file.readline()
            names = next(csv.reader([line.decode("utf-8-sig")]), [])
            whole = _Read(status.st_ino, names, len(line), np.empty((0, len(names))))
            if not line.endswith(b"\n"):
                return whole._replace(header=[])
            if before is None or before[:2] != whole[:2] or before.end > status.st_size:
                before = whole
            file.seek(before.end)
            added = file.read()
    except OSError as error:
        raise unreadable("the run's log", path, error) from error
    added = added[: added.rfind(b"\n") + 1]
    rows = list(csv.reader(re.findall(r"[^\n]*\n", added.decode())))
    values = [[float(cell) if cell else math.nan for cell in row] for row in rows]
    new = np.array(values, np.float64).reshape(len(rows), len(before.header))
    return before._replace(end=before.end + len(added), rows=np.concatenate([before.rows, new]))


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
        rows = re.sub("\r?\n", lambda end: "," * len(new) + end[0], file.read())
    write_text(table, ",".join([*header, *new]) + "\n" + rows, "the run's log")
    return [*header, *new]


def _kept_until(path: Path, step: int) -> str:
    """A log without the lines whose leading number is above `step`, and without a last line that has no end."""
    lines = []
    for line in re.findall(r"[^\n]*\n", read_text(path, "the run's log", rewritten=True)):
        first = re.split(r"[\t,\r\n]", line)[0]
        if not _is_number(first) or int(first) <= step:
            lines.append(line)
    return "".join(lines)


def _is_number(text: str) -> bool:
    """Whether a text is a number that we wrote; `str.isdigit` takes digits that `int` refuses."""
    return re.fullmatch("[0-9]{1,18}", text) is not None
