"""How cost grows: fusing and testing by size and number of pairs, memory, training by pairs and processes.

    python benchmarks/scale.py                  # measures what is not measured yet, and draws it
    python benchmarks/scale.py --only memory    # one part
    python benchmarks/scale.py --runs 3         # until there are three runs of each; the best counts

Every run is a command of its own, and its row is added to docs/scale/scale.csv when it ends, so that the
script may be stopped at any time. The images are made up (scale_inputs.py). To measure anew, remove the rows.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import scale_inputs
import scale_plots
from tqdm import tqdm

from jfusion.runtime import machine

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs/scale"
PARTS = ("fuse", "memory", "test", "batch", "train")
SIZES = ((256, 256), (480, 640), (768, 1024), (1200, 1600), (2000, 2700), (3000, 4000))
START = (scale_plots.TINY, scale_plots.TINY)  # of the tiny pair that shows what the start takes
NUMBERS = (10, 100, 1000, 10000)  # of tiny pairs that are fused; tested are all but the last
TRAINED = (10, 1000, 20000)  # pairs in an H5 file
STEPS = 200
THREADS = 2
# the megapixels of a run: so many pairs of a size that they add up to these, 1 to MOST
WORK = {"laplacian": 24.0, "film-ivf": 1.0, "cddfuse-ivf": 0.6}
MOST = 100
NETWORK = """
import sys, time
import numpy as np, jfusion
name, size, batch, runs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
system = jfusion.load(name)
x = np.random.default_rng(0).random((2, batch, 1, size, size), np.float32)
text = [np.repeat(system.neutral_text[None], batch, 0)] if system.reads_text else []
system.fuse(*x, *text)
started = time.monotonic()
for _ in range(runs):
    system.fuse(*x, *text)
print(f"({(time.monotonic() - started) / runs} s a step)")
"""


class Case(NamedTuple):
    """One command. `pairs` are those of the input; batch, steps: of training (and batch of a network)."""

    part: str
    method: str
    height: int
    width: int
    pairs: int = 1
    batch: int = 1
    processes: int = 1
    threads: int = THREADS
    steps: int = 0


class Measured(NamedTuple):
    """Seconds of the whole command, its peak memory, the seconds of a step by its own words (0: none)."""

    seconds: float
    mebibytes: float
    step: float
    date: str


def cases() -> Iterator[Case]:
    """All of them; large ones last within a part."""
    for method, work in WORK.items():
        yield Case("fuse", method, *START)
        for height, width in SIZES:
            pairs = round(work / (height * width / 1e6))
            yield Case("fuse", method, height, width, min(max(pairs, 1), MOST))
    yield from (Case("fuse", "laplacian", *START, number) for number in NUMBERS)
    for method in WORK:
        yield from (Case("memory", method, *size) for size in (START, *SIZES))
    for method in ("laplacian", "film-ivf"):
        yield Case("test", method, *START)
        for height, width in SIZES[:4]:
            pairs = round(WORK[method] / 4 / (height * width / 1e6))
            yield Case("test", method, height, width, min(max(pairs, 1), MOST))
    yield from (Case("test", "laplacian", *START, number) for number in NUMBERS[:3])
    for method in ("film-ivf", "cddfuse-ivf"):
        yield from (
            Case("batch", method, 128, 128, batch=batch, steps=4) for batch in scale_plots.BATCHES
        )
    for pairs in TRAINED:
        for steps in (1, STEPS):
            yield Case("train", "film", *START, pairs, 2, steps=steps)
    for processes, threads, batch in ((1, 1, 4), (1, 2, 4), (2, 1, 2)):
        yield Case("train", "film", 128, 128, 40, batch, processes, threads, 9)


def command(case: Case, folder: Path, out: str) -> list[str]:
    """The command line of a case, whose inputs are made in a folder; its results go into another, `out`."""
    size = case.height, case.width
    python = [sys.executable, "-m", "jfusion"]
    if case.part == "batch":
        numbers = map(str, (case.height, case.batch, case.steps))
        return [sys.executable, "-c", NETWORK, case.method, *numbers]
    if case.part in ("fuse", "memory"):
        sides = map(str, scale_inputs.folders(folder, *size, case.pairs))
        return [*python, "fuse", *sides, "-o", out, *_method(case.method)]
    data = str(scale_inputs.h5_file(folder, *size, case.pairs))
    if case.part == "test":
        named = [case.method] if case.method == "laplacian" else ["--weights", case.method]
        return [*python, "test", *named, "--data", data, "--out", out]
    train = [*python, "train", case.method, "--data", data, "--exp", out, "--images", "0"]
    if (
        case.height <= START[0]
    ):  # a small network, so that reading the pairs is not hidden behind it
        train += ["--token-size", "16", "16", "--hidden-dim", "64", "--image2text-dim", "4"]
    train += ["--max-steps", str(case.steps), "--batch-size", str(case.batch)]
    mpirun = Path(machine.mpicc() or "").with_name("mpirun")
    several = [str(mpirun), "--oversubscribe", "-np", str(case.processes)]
    return [*(several if case.processes > 1 else []), *train]


def _method(name: str) -> list[str]:
    return ["--method", name] if name == "laplacian" else ["--weights", name]


def measure(case: Case, folder: Path) -> Measured:
    """Runs a case once. Raises SystemExit with its last words when it fails."""
    folder.mkdir(parents=True, exist_ok=True)
    variables = {**os.environ, "OMP_NUM_THREADS": str(case.threads), "PYTHONPATH": str(ROOT)}
    variables |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryDirectory(dir=folder) as out:
        line = command(case, folder, out)
        started = time.monotonic()
        process = subprocess.Popen(line, stdout=said, stderr=subprocess.STDOUT, env=variables)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.terminate()
            raise
        seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(line)}\n{text[-2000:]}\nended with {process.returncode}")
    step = re.search(r"\(([\d.e-]+) s a step\)", text)
    step = float(step[1]) if step else 0.0
    return Measured(seconds, usage.ru_maxrss / 1024, step, time.strftime("%Y-%m-%d"))


def read(path: Path) -> list[tuple[Case, Measured]]:
    """The rows of the file, none if it is not there."""
    if not path.is_file():
        return []
    found = []
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            part, method, *numbers = (row[k] for k in Case._fields)
            result = (float(row[k]) for k in Measured._fields[:3])
            found.append((Case(part, method, *map(int, numbers)), Measured(*result, row["date"])))
    return found


def add(path: Path, case: Case, result: Measured) -> None:
    """Adds a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    begins = not path.is_file()
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if begins:
            writer.writerow([*Case._fields, *Measured._fields])
        seconds, mebibytes, step, date = result
        writer.writerow([*case, f"{seconds:.3f}", f"{mebibytes:.0f}", f"{step:.4g}", date])


def main() -> None:
    """Measures what is missing, then draws all that is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS, action="append", help="measure this part")
    parser.add_argument("--method", action="append", help="measure this method alone")
    parser.add_argument("--pixels", type=float, default=12.0, help="largest image, in megapixels")
    parser.add_argument("--runs", type=int, default=1, help="runs of each case (default: 1)")
    parser.add_argument("--draw", action="store_true", help="measure nothing")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="the folder of rows and plots"
    )
    work = Path(tempfile.gettempdir(), "jfusion-scale")
    parser.add_argument(
        "--work", type=Path, default=work, help="where the inputs are made and kept"
    )
    options = parser.parse_args()
    path = options.results / "scale.csv"
    chosen = [
        case
        for case in cases()
        if case.part in (options.only or PARTS)
        and case.method in (options.method or [case.method])
        and case.height * case.width <= options.pixels * 1e6
    ]
    if not options.draw:
        measure_all(chosen, path, options.runs, options.work)
    scale_plots.draw(read(path), options.results)


def measure_all(chosen: list[Case], path: Path, runs: int, work: Path) -> None:
    """Runs the cases of which there are fewer than `runs` rows, after one run of each kind that compiles."""
    there = Counter(case for case, _ in read(path))
    for case in [c for c in there if c.part == "fuse" and c.pairs == 1]:  # it shows the memory too
        there[case._replace(part="memory")] += there[case]
    todo = [case for run in range(runs) for case in chosen if there[case] <= run]
    warm: set[tuple[str, str, int]] = set()
    for case in (bar := tqdm(todo, "measuring", unit="run")):
        bar.set_postfix_str(f"{case.part} {case.method} {case.height}x{case.width} {case.pairs}")
        kind = case.part, case.method, case.processes
        if kind not in warm and case.method != "laplacian":
            steps = min(case.steps, 1)
            measure(case._replace(height=64, width=64, pairs=8, steps=steps), work)
            warm.add(kind)
        add(path, case, measure(case, work))


if __name__ == "__main__":
    main()
