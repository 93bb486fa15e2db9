"""Stripes of large images (jfusion/layers/tiles.py): how far the result is from that of the whole image, and
the peak memory of a few stripes of every pass on an image of 4000x3000.

python tools/measure_stripes.py film
"""

from __future__ import annotations

import json
import resource
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

import jfusion
from jfusion.data.h5 import Pair
from jfusion.layers import tiles
from jfusion.systems.network import NetworkSystem

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from cases import common


def main(name: str) -> None:
    """name: film or cddfuse; the weights are those of tests/golden."""
    factors = (
        json.loads((common.GOLDEN / name / "scales.json").read_text()) if name == "cddfuse" else {}
    )
    system = common.create(name, common.weights(f"{name}/manifest.json", factors))
    system.eval()
    difference(system, (320, 400), rows=32)
    memory(system, (3000, 4000))


def difference(system: NetworkSystem, size: tuple[int, int], rows: int) -> None:
    """Prints how many pixels of the 8-bit result differ between stripes and the whole image."""
    a, b = (x[None, None] for x in common.images("ab", size))
    pair = Pair("pair", a[0], b[0])
    levels, seconds, whole = [], [], tiles.whole
    for function in (whole, partial(whole, stripe_rows=rows)):
        tiles.whole = function
        started = time.process_time()
        fused = system.fuse(a, b, text_of(system))
        seconds.append(time.process_time() - started)
        levels.append(system.postprocess(fused[0], pair).gray.astype(int))
    tiles.whole = whole
    apart = abs(levels[0] - levels[1])
    print(
        f"{size[0]}x{size[1]}, stripes of {rows} rows: {100 * (apart == 0).mean():.3f} % of the pixels equal, "
        f"{100 * (apart <= 1).mean():.3f} % within one level, {seconds[1] / seconds[0]:.1f} times the CPU time"
    )


def memory(system: NetworkSystem, size: tuple[int, int]) -> None:
    """Prints the peak memory of the first, the middle and the last stripe of every pass."""
    every = tiles._stripes

    def few(*arguments: int) -> list[tiles._Stripe]:
        stripes = every(*arguments)
        return [stripes[0], stripes[len(stripes) // 2], stripes[-1]]

    tiles._stripes = few
    a, b = (x[None, None] for x in common.images("ab", size))
    system.fuse(a, b, text_of(system))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{size[0]}x{size[1]}: {peak:.2f} GiB at most")


def text_of(system: NetworkSystem) -> np.ndarray | None:
    """Features of a paragraph of nine tokens, for a system that reads one."""
    if not system.reads_text:
        return None
    shape = (1, 9, system.config.text_dim)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


if __name__ == "__main__":
    print(jfusion.__version__, sys.argv[1])
    main(sys.argv[1])
