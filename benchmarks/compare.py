"""Ours beside the authors' code in alternating runs; see benchmarks/README.md."""

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


def main() -> int:
    """The command line; the option --worker is this script's own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("system", help="a file of benchmarks/cases: film, ...")
    parser.add_argument(
        "--reference", help="folder of the authors' code; without it only ours is timed"
    )
    parser.add_argument("--python", help="a Python that has PyTorch")
    parser.add_argument(
        "--case", action="append", help="only this case (may be given several times)"
    )
    parser.add_argument("--rounds", type=int, default=7, help="counted pairs of runs (default 7)")
    parser.add_argument(
        "--threads", type=int, default=2, help="threads of each process (default 2)"
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="where both sides run (default cpu); on the GPU the memory is the GPU's",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "tf32", "bfloat16"),
        default="float32",
        help="of convolutions on the GPU, both sides (the authors' in PyTorch's autocast)",
    )
    parser.add_argument("--check", action="store_true", help="run ours once on the smallest case")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options)
    if bool(options.reference) != bool(options.python):
        parser.error("--reference and --python belong together")
    cases = importlib.import_module(f"cases.{options.system}").CASES
    names = options.case or list(cases)
    if options.check:
        names, options.rounds = [min(cases, key=lambda n: np.prod(cases[n].size))], 1
    print(
        f"{time.strftime('%Y-%m-%d')}, {options.threads} threads, {options.rounds} pairs of runs, {cpu()}"
        + (f", {gpu()}, {options.precision}" if options.device == "cuda" else "")
    )
    for name in names:
        compare(options, name)
    return 0


def cpu() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (x.split(": ")[1] for x in lines if x.startswith("model name")), "unknown processor"
    )


def gpu() -> str:
    """The GPU's name and its driver."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def compare(options: argparse.Namespace, case: str) -> None:
    """Times one case and prints its row."""
    with tempfile.TemporaryDirectory() as folder:
        workers = {"ours": Worker(options, case, "ours", sys.executable, folder)}
        if options.reference:
            workers["reference"] = Worker(options, case, "reference", options.python, folder)
        for name, worker in workers.items():
            first = worker.ask("run")
            print(f"{case}: {name} first run {first:.1f} s after {worker.start:.1f} s of start-up")
            worker.ask("run")
        times = {name: [] for name in workers}
        for _ in range(options.rounds):
            for name, worker in workers.items():
                times[name].append(worker.ask("run"))
        report(case, times, {name: worker.finish() for name, worker in workers.items()})


def report(case: str, times: dict[str, list[float]], ends: dict[str, tuple[float, Any]]) -> None:
    """One line for each side and one for the ratio."""
    for name, seconds in times.items():
        print(
            f"  {name:<10} median {np.median(seconds):7.3f} s   peak memory {ends[name][0]:6.2f} GiB"
        )
    if len(times) == 2:
        ratios = np.array(times["ours"]) / np.array(times["reference"])
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        memory = ends["ours"][0] / ends["reference"][0]
        print(
            f"  ours / reference: time {middle:.3f} ({low:.3f} to {high:.3f}), memory {memory:.2f}"
        )
        ours, theirs = ends["ours"][1], ends["reference"][1]
        for key in ours.files:
            difference = np.abs(ours[key].astype(np.float64) - theirs[key]).max()
            print(f"  largest difference of {key}: {difference:.2e}")


class Worker:
    """A process that does one run whenever it is asked to."""

    def __init__(self, options: argparse.Namespace, case: str, side: str, python: str, folder: str):
        command = [
            python,
            str(HERE / "compare.py"),
            options.system,
            "--worker",
            side,
            "--case",
            case,
            "--device",
            options.device,
            "--precision",
            options.precision,
        ]
        if options.reference:
            command += ["--reference", options.reference]
        threads = {k: str(options.threads) for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        # a side that waits must not keep the cores of the other busy
        self.output = Path(folder, f"{side}.npz")
        variables = {
            **os.environ,
            **threads,
            "OMP_WAIT_POLICY": "passive",
            "BENCHMARK_OUTPUT": str(self.output),
        }
        if options.device == "cpu":
            variables["nvcc_path"] = ""
        else:
            variables["JFUSION_PRECISION"] = options.precision
            variables["NVIDIA_TF32_OVERRIDE"] = str(int(options.precision == "tf32"))
        started = time.perf_counter()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables
        )
        self.read("ready")
        self.start = time.perf_counter() - started

    def ask(self, what: str) -> float:
        """Seconds of one run, or peak GiB."""
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return self.read("answer")

    def read(self, key: str) -> Any:
        """The next answer; whatever else the process prints is passed over."""
        for line in self.process.stdout:
            if line.startswith('{"benchmark"'):
                return json.loads(line)["benchmark"][key]
        raise SystemExit(f"the process ended: {' '.join(self.process.args)}")

    def finish(self) -> tuple[float, Any]:
        """(peak GiB, the outputs of the last run)."""
        peak = self.ask("finish")
        self.process.wait()
        return peak, np.load(self.output)


def work(options: argparse.Namespace) -> int:
    """The worker: answers each `run` with its seconds, `finish` with the peak memory."""
    wait, memory = lambda: None, host_memory
    if options.device == "cuda":
        wait, memory = on_gpu(options.worker)
    module, (case,) = importlib.import_module(f"cases.{options.system}"), options.case
    function = (
        module.ours(case) if options.worker == "ours" else module.reference(case, options.reference)
    )
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
    """The peak of this process in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def on_gpu(side: str) -> tuple[Callable[[], None], Callable[[], float]]:
    """(waits for the GPU, GiB of it that the framework's allocator has taken) of one side."""
    if side == "ours":
        from jfusion.runtime import jt

        if not jt.flags.use_cuda:
            raise SystemExit("CUDA is off: jfusion doctor says why")
        # an allocator that keeps what it has taken: at the end it holds the peak
        return lambda: jt.sync_all(True), lambda: jt.get_mem_info().total_cuda_used / 2**30
    import torch

    torch.set_default_device("cuda")
    return torch.cuda.synchronize, lambda: torch.cuda.max_memory_reserved() / 2**30


def answer(**values: Any) -> None:
    """One line to the process that asked."""
    print(json.dumps({"benchmark": values}), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    sys.exit(main())
