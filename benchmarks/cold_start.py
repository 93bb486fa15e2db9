"""Measures the first start: from an empty cache to a core that computes, alternating between checkouts.

    git worktree add ../before HEAD~1
    python benchmarks/cold_start.py --checkout . --checkout ../before --runs 3

Each run has a cache folder of its own and a process of its own; nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CODE = "from jfusion.runtime import jt; assert jt.ones(3).sum().item() == 3"


def measure(checkout: Path, code: str) -> tuple[float, float]:
    """The seconds, of the clock and of the processors, in which `code` runs with an empty cache."""
    with tempfile.TemporaryDirectory() as home:
        variables = {**os.environ, "JFUSION_HOME": home, "PYTHONPATH": str(checkout.resolve())}
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        subprocess.run([sys.executable, "-c", code], env=variables, cwd=home, check=True)
        seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, cpu


def main() -> None:
    """Prints each run, and the median of each checkout."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkout", type=Path, action="append", required=True, metavar="FOLDER")
    parser.add_argument("--runs", type=int, default=3, help="for each checkout (default: 3)")
    parser.add_argument("--code", default=CODE, help="Python to run (default: starts Jittor)")
    options = parser.parse_args()
    times: dict[Path, list[float]] = {checkout: [] for checkout in options.checkout}
    for run in range(options.runs):
        for checkout in options.checkout:
            seconds, cpu = measure(checkout, options.code)
            times[checkout].append(seconds)
            print(f"run {run + 1}  {checkout}  {seconds:.1f} s  ({cpu:.1f} s of processors)")
    for checkout, all_of_it in times.items():
        print(f"median  {checkout}  {statistics.median(all_of_it):.1f} s")


if __name__ == "__main__":
    main()
