"""Ours next to the authors' code, or to an earlier commit, in alternating runs; see README.md."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
PRECISIONS = ("float32", "tf32", "bfloat16")


def main() -> int:
    """Runs the comparison, or, with --worker, one side of it."""
    parser = make_parser()
    options = parser.parse_args()
    if options.worker:
        return work(options)
    if bool(options.reference) != bool(options.python):
        parser.error("--reference and --python belong together")
    if options.reference and options.before:
        parser.error("--before and --reference are two comparisons; choose one")
    cases = importlib.import_module(f"cases.{options.system}").CASES
    names = options.case or list(cases)
    if options.check:
        smallest = min(cases, key=lambda name: np.prod(size_of(cases[name])))
        names, options.rounds = [smallest], 1
    device = f", {gpu()}, {options.precision}" if options.device == "cuda" else ""
    print(
        f"{time.strftime('%Y-%m-%d')}, {options.threads} threads, {options.rounds} pairs of runs, "
        f"{cpu()}{device}"
    )
    with tempfile.TemporaryDirectory() as folder:
        if options.device == "cuda":  # whose time is dear: all start at once
            sides = [start(options, name, Path(folder, name)) for name in names]
            for name, workers in zip(names, sides, strict=True):
                compare(options, name, workers)
        else:
            for name in names:
                compare(options, name, start(options, name, Path(folder, name)))
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The command line; the option --worker is this script's own."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("system", help="a file of benchmarks/cases: film, ...")
    add("--reference", help="folder of the authors' code; without it only ours is timed")
    add("--python", help="with --reference: a Python that has PyTorch")
    add("--before", help="checkout of an earlier commit of ours, to compare with")
    add("--case", action="append", help="only this case (may be given several times)")
    add("--rounds", type=int, default=7, help="counted pairs of runs (default 7)")
    add("--threads", type=int, default=2, help="threads of each process (default 2)")
    add(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="where both sides run (default cpu); on the GPU the memory is the GPU's",
    )
    add(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="of convolutions on the GPU, both sides (the authors' in PyTorch's autocast)",
    )
    add("--check", action="store_true", help="run ours once on the smallest case")
    add("--worker", help=argparse.SUPPRESS)
    return parser


def size_of(case: Any) -> tuple[int, int]:
    """The size of a case's images."""
    return getattr(case, "size", None) or case[1]


def cpu() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.split(": ")[1] for line in lines if line.startswith("model name"))
    return next(names, "unknown processor")


def gpu() -> str:
    """The GPU's name and its driver."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


# ---- comparing


def start(options: argparse.Namespace, case: str, folder: Path) -> dict[str, Worker]:
    """Starts the processes of both sides, or of the one there is."""
    folder.mkdir()
    other = ["reference"] if options.reference else ["before"] if options.before else []
    return {side: Worker(options, case, side, folder) for side in ("ours", *other)}


def compare(options: argparse.Namespace, case: str, workers: dict[str, Worker]) -> None:
    """Times one case and prints its rows."""
    for name, worker in workers.items():
        worker.wait_until_ready()
        first = worker.ask("run")
        print(f"{case}: {name} first run {first:.1f} s after {worker.start:.1f} s of start-up")
        worker.ask("run")
    times = {name: [] for name in workers}
    for _ in range(options.rounds):
        for name, worker in workers.items():
            times[name].append(worker.ask("run"))
    report(times, {name: worker.finish() for name, worker in workers.items()})


def report(times: dict[str, list[float]], ends: dict[str, tuple[float, Any]]) -> None:
    """Prints one line for each side and, of two, the ratios and the differences of the outputs.

    times: seconds of each run. ends: the peak memory in GiB, and the outputs of the last run.
    """
    for name, seconds in times.items():
        print(
            f"  {name:<10} median {np.median(seconds):7.3f} s   peak memory {ends[name][0]:6.2f} GiB"
        )
    if len(times) < 2:
        return
    (ours, other), (memory, outputs) = times, zip(*ends.values(), strict=True)
    ratios = np.array(times[ours]) / np.array(times[other])
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    print(
        f"  {ours} / {other}: time {middle:.3f} ({low:.3f} to {high:.3f}), "
        f"memory {memory[0] / memory[1]:.2f}"
    )
    for key in outputs[0].files:
        difference = np.abs(outputs[0][key].astype(np.float64) - outputs[1][key]).max()
        print(f"  largest difference of {key}: {difference:.2e}")


class Worker:
    """A process that does one run of a case whenever it is asked to.

    side: "ours", "reference" (the authors' code), or "before" (ours, from the checkout --before, by
    the compare.py that is there). start: seconds from its start until it is ready.
    """

    start = 0.0

    def __init__(self, options: argparse.Namespace, case: str, side: str, folder: Path):
        root = Path(options.before).resolve() if side == "before" else HERE.parent
        python = options.python if side == "reference" else sys.executable
        worker = "reference" if side == "reference" else "ours"
        command = [python, str(root / "benchmarks/compare.py"), options.system, "--case", case]
        command += ["--worker", worker]
        command += ["--device", options.device, "--precision", options.precision]
        if options.reference:
            command += ["--reference", options.reference]
        self.output = folder / f"{side}.npz"
        variables = environment(options) | {"BENCHMARK_OUTPUT": str(self.output)}
        if worker == "ours":
            variables["PYTHONPATH"] = f"{root}:{os.environ.get('PYTHONPATH', '')}"
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables
        )
        if options.device == "cpu":
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Waits until the process can be asked."""
        if not self.start:
            self.read("ready")
            self.start = time.perf_counter() - self.started

    def ask(self, what: str) -> float:
        """Asks for a "run", and returns its seconds, or for the end ("finish"): the peak in GiB."""
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return self.read("answer")

    def read(self, key: str) -> Any:
        """The next answer; whatever else the process prints is ignored."""
        for line in self.process.stdout:
            if line.startswith('{"benchmark"'):
                return json.loads(line)["benchmark"][key]
        raise SystemExit(f"the process ended: {' '.join(self.process.args)}")

    def finish(self) -> tuple[float, Any]:
        """Ends the process; returns its peak memory in GiB and the outputs of its last run."""
        peak = self.ask("finish")
        self.process.wait()
        return peak, np.load(self.output)


def environment(options: argparse.Namespace) -> dict[str, str]:
    """The variables of both sides: threads, device, precision."""
    threads = {name: str(options.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    # the side that waits must not keep the cores of the other busy
    variables = {**os.environ, **threads, "OMP_WAIT_POLICY": "passive"}
    if options.device == "cpu":
        return variables | {"nvcc_path": ""}
    tf32 = str(int(options.precision == "tf32"))
    return variables | {"JFUSION_PRECISION": options.precision, "NVIDIA_TF32_OVERRIDE": tf32}


# ---- the worker


def work(options: argparse.Namespace) -> int:
    """Answers each `run` with its seconds, `finish` with the peak memory."""
    wait, memory = lambda: None, host_memory
    if options.device == "cuda":
        wait, memory = on_gpu(options.worker)
    module, (case,) = importlib.import_module(f"cases.{options.system}"), options.case
    if options.worker == "ours":
        function = module.ours(case)
    else:
        function = module.reference(case, options.reference)
    if options.precision == "bfloat16" and options.worker == "reference":
        import torch

        function = torch.autocast("cuda", torch.bfloat16)(function)
    outputs: dict[str, np.ndarray] = {}
    answer(ready=True)
    for line in sys.stdin:
        if line.strip() == "finish":
            np.savez(os.environ["BENCHMARK_OUTPUT"], **outputs)
            answer(answer=memory())
            break
        wait()
        started = time.perf_counter()
        outputs = function()
        wait()
        answer(answer=time.perf_counter() - started)
    return 0


def host_memory() -> float:
    """The peak memory of this process in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def on_gpu(side: str) -> tuple[Callable[[], None], Callable[[], float]]:
    """Two functions for one side: one waits for the GPU, one gives the GiB that its allocator holds."""
    if side == "ours":
        from jfusion.runtime import jt

        if not jt.flags.use_cuda:
            raise SystemExit("CUDA is off: jfusion doctor says why")
        # Jittor's allocator returns no memory, so at the end it holds the peak
        return lambda: jt.sync_all(True), lambda: jt.get_mem_info().total_cuda_used / 2**30
    import torch

    torch.set_default_device("cuda")
    return torch.cuda.synchronize, lambda: torch.cuda.max_memory_reserved() / 2**30


def answer(**values: Any) -> None:
    """Writes one line to the process that asked."""
    print(json.dumps({"benchmark": values}), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    sys.exit(main())
