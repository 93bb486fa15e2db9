"""Runs both sides on the same weights and batches, and gathers what a report says."""

from __future__ import annotations

import datetime
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jfusion import inference, metrics
from jfusion.data.h5 import Pair, PairFile
from jfusion.errors import UserError, printable
from jfusion.metrics.table import means
from jfusion.papers.compare import preset_of
from jfusion.parity import compare, draw
from jfusion.parity.cases import Case, case_of
from jfusion.parity.compare import Answer, Difference, Names
from jfusion.version import __version__

if TYPE_CHECKING:
    from jfusion.systems.network import NetworkSystem

HERE = Path(__file__).resolve().parent
RUN = HERE / "reference/run.py"
RECORDED = HERE / "recorded"
STEPS = 10  # of training, in each stage
DRAWN_PAIRS, DRAWN_SIZE = 2, (64, 80)  # to fuse, where no data are given


@dataclass(frozen=True)
class Setup:
    """What is run.

    system: its name. weights: a checkpoint (default: drawn). data: an H5 file whose first pairs are the
    batch and whose first `pairs` pairs are fused (default: drawn). size, count: of the batch. steps: of
    training, in each stage (default: `STEPS`, or those that are recorded). rate: the learning rate (default: the system's). reference, python: the
    authors' checkout and its Python (default: the recorded answer).
    """

    system: str
    weights: str | None = None
    data: str | None = None
    pairs: int | None = None
    size: tuple[int, int] | None = None
    count: int | None = None
    steps: int | None = None
    rate: float | None = None
    threads: int = 2
    reference: str | None = None
    python: str | None = None


@dataclass(frozen=True)
class Stage:
    """The training of one stage on both sides: losses before each step, seconds of each, gradients."""

    name: str
    rate: float
    ours: dict[str, list[float]]
    theirs: dict[str, list[float]]
    gradients: list[Difference]


@dataclass(frozen=True)
class Parity:
    """Everything that a report says.

    recorded: the authors' side was not run; its answer was recorded before. environment: by name, ours
    and theirs. images: pairs of fused images, ours and the authors', uint8. metrics: name -> means of
    ours and theirs. differing: the share of pixels whose 8-bit values differ, and the largest difference.
    """

    setup: Setup
    case: Case
    recorded: bool
    environment: dict[str, tuple[str, str]]
    data: dict[str, Any]
    names: Names
    layers: list[Difference]
    stages: list[Stage]
    metrics: dict[str, tuple[float, float]]
    differing: tuple[float, float]
    ours: dict[str, Any]
    theirs: dict[str, Any]
    date: str


def run(setup: Setup) -> Parity:
    """Runs a comparison. Raises UserError where it cannot be run, before anything heavy starts."""
    case = case_of(setup.system)
    live = setup.reference is not None
    if live:
        check_reference(setup)
    else:
        check_recorded(setup, case)
    if setup.steps is None:
        setup = replace(setup, steps=STEPS if live else recorded_steps(setup.system))
    prepared = Prepared(setup, case)
    with tempfile.TemporaryDirectory(prefix="jfusion-parity-") as folder:
        request = Path(folder, "request.npz")
        np.savez(request, **prepared.request())
        if live:
            theirs = run_reference(setup, folder, len(prepared.pairs))
        else:
            theirs = read(RECORDED / f"{setup.system}.npz")
        ours = run_ours(setup, folder, len(prepared.pairs))
    return prepared.compared(ours, theirs)


def read(path: Path) -> Answer:
    """An answer that a process wrote, or that was recorded."""
    with np.load(path) as stored:
        arrays = dict(stored)
    return Answer(json.loads(str(arrays.pop("record"))), arrays)


def check_reference(setup: Setup) -> None:
    """Raises UserError where the authors' code or its Python is not there."""
    folder = Path(str(setup.reference))
    if not folder.is_dir():
        raise UserError(
            f"--reference {folder} is no folder; give a checkout of "
            f"{case_of(setup.system).repository} on GitHub"
        )
    command = [str(setup.python), "-c", "import numpy, torch; print(torch.__version__)"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"--python {setup.python} does not run: {error}") from error
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(
            f"--python {setup.python} cannot import torch and numpy ({printable(last, 200)}); install "
            "both there"
        )


def check_recorded(setup: Setup, case: Case) -> None:
    """Raises UserError where options ask for what no recorded answer has."""
    needed = (
        f"needs the authors' code, which runs in PyTorch: --reference DIR --python PY (DIR: a checkout of "
        f"{case.repository} on GitHub)"
    )
    if not (RECORDED / f"{setup.system}.npz").is_file():
        raise UserError(f"parity {setup.system} {needed}; nothing is recorded of it")
    names = ("weights", "data", "pairs", "size", "count", "rate")
    asked = [name for name in names if getattr(setup, name) is not None]
    if asked:
        options = {"rate": "--learning-rate", "count": "--batch-size"}
        option = options.get(asked[0], f"--{asked[0]}")
        raise UserError(f"{option} {needed}")
    most = recorded_steps(setup.system)
    if (setup.steps or 0) > most:
        raise UserError(
            f"--steps {setup.steps}: {most} steps are recorded; more need --reference DIR --python PY"
        )


def check_size(system: str, size: tuple[int, ...]) -> None:
    """Raises UserError for images of a size that the authors' network does not take."""
    case = case_of(system)
    if case.one_size and size != case.size:
        (h, w), (height, width) = case.size, size
        raise UserError(
            f"the authors' network of {system} takes images of {h}x{w} and no others, not {height}x{width}; "
            "leave out --size, and give --data pairs that are at least as large"
        )
    if any(n % case.multiple for n in size):
        raise UserError(
            f"the authors' network of {system} takes images whose sides are multiples of {case.multiple}, not "
            f"{size[0]}x{size[1]}; change --size"
        )


def recorded_steps(system: str) -> int:
    """How many steps of training are recorded of the authors' code."""
    stages = read(RECORDED / f"{system}.npz").record["stages"].values()
    return min(len(stage["losses"]) for stage in stages)


# ---- what both sides get -----------------------------------------------------------------------


class Prepared:
    """The system, weights, batch and pairs of a comparison."""

    def __init__(self, setup: Setup, case: Case):
        from jfusion.parity.ours import drawn_weights, official_state
        from jfusion.systems import registry

        self.setup, self.case = setup, case
        self.data = None if setup.data is None else PairFile(setup.data)
        attributes = self.data.attributes if self.data else {}
        if setup.weights is None:
            config = registry.config_class(setup.system)
            settings = {**config.for_dataset(attributes), **case.settings}
            self.system: NetworkSystem = registry.create(setup.system, **settings)
            self.weights = drawn_weights(self.system, case)
        else:
            self.system = inference.load_system(
                setup.weights, setup.system, case.settings, attributes=attributes
            )
            self.weights = official_state(self.system)
        self.pairs = self._pairs() if case.fuses else []
        a, b, text = self._batch()
        check_size(setup.system, a.shape[2:])
        self.batch = case.batch(self.system, a, b, text)
        self.shape = a.shape

    def _pairs(self) -> list[Pair]:
        """The pairs to fuse: the first of the file, or two that are drawn."""
        if self.data is not None:
            names = self.data.names[: self.setup.pairs]
            return [self._fitting(self.data.read(name)) for name in names]
        shape, pairs = (1, *DRAWN_SIZE), []
        for i in range(DRAWN_PAIRS if self.setup.pairs is None else self.setup.pairs):
            a, b = (draw.image(f"parity.{x}{i}", shape) for x in "ab")
            text = self.case.text(1)
            pairs.append(Pair(f"drawn{i}", a, b, None if text is None else text[0]))
        return pairs

    def _fitting(self, pair: Pair) -> Pair:
        """A pair without the rows and columns that are too many for the authors' network."""
        multiple = self.case.multiple
        h, w = (n // multiple * multiple for n in pair.a.shape[1:])
        a, b = (x[:, :h, :w] for x in (pair.a, pair.b))
        colors = (None if x is None else x[:h, :w] for x in (pair.rgb_a, pair.rgb_b))
        return Pair(pair.name, a, b, pair.text, *colors, pair.rule, pair.dataset)

    def _batch(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """The batch: a, b (N, C, H, W) and text, drawn, or the first pairs of the file, cropped."""
        count = self.setup.count or self.case.count
        size = self.setup.size or self.case.size
        if self.data is None:
            return *self.case.images((count, 1, *size)), self.case.text(count)
        read = [self.data.read(name) for name in self.data.names[:count]]
        arrays = [self.system.preprocess(pair) for pair in read]
        size = self.setup.size or (self.case.size if self.case.one_size else (128, 128))
        sides = [x.shape[1:] for pair in arrays for x in pair]
        h, w = (min(size[i], *(s[i] for s in sides)) // 8 * 8 for i in (0, 1))
        a, b = (np.stack([pair[i][:, :h, :w] for pair in arrays]) for i in (0, 1))
        texts = [pair.text for pair in read]
        return a, b, np.stack(texts) if self.system.reads_text else None

    def rates(self) -> dict[str, float]:
        """The learning rate of each stage: the first of the recipe, or the one that was requested."""
        return {
            stage.name: self.setup.rate or self.system.optimizers(stage)[0].rate(0, 0, 1)
            for stage in self.system.stages()
        }

    def request(self) -> dict[str, np.ndarray]:
        """The content of the request, for both sides."""
        arrays = {f"weights/{k}": v for k, v in self.weights.items()}
        arrays |= {f"batch/{k}": v for k, v in self.batch.items()}
        for i, pair in enumerate(self.pairs):
            a, b = (x[None] for x in self.system.preprocess(pair))
            text = pair.text[None] if self.system.reads_text else None
            theirs = self.case.pair(self.system, a, b, text)
            arrays |= {f"pairs/{i}/{k}": v for k, v in theirs.items()}
            ours = {"a": a, "b": b} | ({} if text is None else {"text": text})
            arrays |= {f"ours/{i}/{k}": v for k, v in ours.items()}
        options = {
            "rates": self.rates(),
            "steps": self.setup.steps,
            "threads": self.setup.threads,
            "pairs": len(self.pairs),
            "settings": asdict(self.system.config),
        }
        return {**arrays, "options": np.array(json.dumps(options))}

    # ---- what comes of it

    def compared(self, ours: Answer, theirs: Answer) -> Parity:
        """The comparison of both answers."""
        weights, rates = self.system.WEIGHTS, self.rates()
        steps = self.setup.steps
        stages = [
            Stage(
                name,
                rate,
                {k: v[:steps] for k, v in ours.record["stages"][name].items()},
                {k: v[:steps] for k, v in theirs.record["stages"][name].items()},
                compare.gradients(ours, theirs, name),
            )
            for name, rate in rates.items()
        ]
        values, differing = self._metrics(ours, theirs)
        return Parity(
            self.setup,
            self.case,
            self.setup.reference is None,
            _environment(self.setup, theirs),
            self._described(),
            compare.names(ours, theirs, weights),
            compare.layers(ours, theirs, weights, self.system.state_dict(), self.case.apart),
            stages,
            values,
            differing,
            ours.record,
            theirs.record,
            datetime.date.today().isoformat(),
        )

    def _described(self) -> dict[str, Any]:
        """What the report says about weights and data."""
        tensors = {k: v.size for k, v in self.weights.items()}
        return {
            "weights": self.setup.weights,
            "data": self.setup.data,
            "batch": {k: list(np.shape(v)) for k, v in self.batch.items()},
            "shape": list(self.shape),
            "pairs": len(self.pairs),
            "parameters": sum(tensors.values()),
        }

    def _metrics(
        self, ours: Answer, theirs: Answer
    ) -> tuple[dict[str, tuple[float, float]], tuple[float, float]]:
        """The paper's metrics of both sides' images, and how far the 8-bit images differ."""
        if not self.pairs:
            return {}, (0.0, 0.0)
        preset = preset_of(self.system.name)
        columns = metrics.columns(metrics.preset(preset).paper, preset)
        rows: tuple[list, list] = [], []
        differing, pixels, largest = 0, 0, 0
        for i, pair in enumerate(self.pairs):
            fused = [
                self.system.postprocess(x.arrays[f"fused/{i}"], pair).gray for x in (ours, theirs)
            ]
            h, w = fused[0].shape
            a, b = (np.round(x[0, :h, :w] * 255).astype(np.uint8) for x in (pair.a, pair.b))
            for row, image in zip(rows, fused, strict=True):
                row.append(metrics.evaluate(image, a, b, preset, columns))
            difference = np.abs(fused[0].astype(int) - fused[1])
            differing, pixels = differing + int((difference > 0).sum()), pixels + difference.size
            largest = max(largest, int(difference.max()))
        mine, other = (means(row)[0] for row in rows)
        both = {k: (mine[k], other[k]) for k in mine if k in other}
        return both, (differing / pixels, float(largest))


def _environment(setup: Setup, theirs: Answer) -> dict[str, tuple[str, str]]:
    """What ran where: by name, ours and the authors'."""
    versions = theirs.record["versions"]
    return {
        "framework": (f"Jittor {metadata.version('jittor')}", f"PyTorch {versions['torch']}"),
        "code": (f"jfusion {__version__}", theirs.record.get("code") or _code(setup)),
        "Python": (platform.python_version(), versions["python"]),
        "NumPy": (np.__version__, versions["numpy"]),
        "processor": (_cpu(), theirs.record.get("cpu") or _cpu()),
        "threads": (str(setup.threads), str(theirs.record.get("threads", setup.threads))),
    }


def _code(setup: Setup) -> str:
    """The authors' repository, and the commit of the checkout where git knows it."""
    repository = case_of(setup.system).repository
    command = ["git", "-C", str(setup.reference), "log", "-1", "--format=%h (%as)"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return repository
    commit = result.stdout.strip()
    return f"{repository} {commit}" if commit else repository


def _cpu() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


# ---- the two processes -------------------------------------------------------------------------


def run_reference(setup: Setup, folder: str, pairs: int) -> Answer:
    """The authors' side, in its Python."""
    answer = Path(folder, "theirs.npz")
    checkout = str(Path(str(setup.reference)).absolute())
    python = _program(str(setup.python))
    command = [python, str(RUN), setup.system, checkout, f"{folder}/request.npz", str(answer)]
    variables = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    _work(command, "the authors' code (PyTorch)", {**variables, **_threads(setup)}, folder, pairs)
    found = read(answer)
    found.record.update(code=_code(setup), cpu=_cpu(), threads=setup.threads)
    return found


def _program(python: str) -> str:
    """The path of a Python; a name that the shell would look up stays."""
    return str(Path(python).absolute()) if os.sep in python else python


def run_ours(setup: Setup, folder: str, pairs: int) -> Answer:
    """Our side, in a process of its own, so that its peak memory is its own too."""
    answer = Path(folder, "ours.npz")
    command = [sys.executable, "-m", "jfusion.parity.ours", setup.system]
    command += [f"{folder}/request.npz", str(answer)]
    root = str(Path(importlib.util.find_spec("jfusion").origin).parents[1])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    variables = {**os.environ, **_threads(setup), "PYTHONPATH": path}
    _work(command, "jfusion (Jittor)", variables, folder, pairs)
    return read(answer)


def _threads(setup: Setup) -> Mapping[str, str]:
    return {name: str(setup.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}


def _work(
    command: list[str], what: str, variables: Mapping[str, str], folder: str, pairs: int
) -> None:
    """Runs a side to its end, with a bar over the pairs it fuses; UserError with its last line if it fails."""
    from tqdm import tqdm

    with (
        tqdm(total=1 + pairs, desc=what, unit="part", leave=False) as bar,
        subprocess.Popen(
            command,
            cwd=folder,
            env=dict(variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        lines: deque[str] = deque(maxlen=200)
        try:
            for line in process.stdout:
                if line.startswith("fused "):
                    bar.update()
                elif plain := re.sub(r"\x1b\[[0-9;]*m", "", line).strip():
                    lines.append(plain)
            process.wait()
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        said = reason(lines) or f"exit code {process.returncode}"
        raise UserError(f"{what} stopped: {printable(said, 400)}")


def reason(lines: Iterable[str]) -> str:
    """What a process that failed says of it: Jittor's reason, or the last error, or the last line."""
    found = list(lines)
    for sign in ("[Reason]", "Error: "):
        for line in reversed(found):
            if sign in line:
                return line
    return found[-1] if found else ""
