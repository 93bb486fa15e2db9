"""How far outputs here are from the authors' on the golden fixtures: the largest differences, no verdict.

    python tools/measure_golden.py
    JFUSION_PRECISION=tf32 python tools/measure_golden.py    # on a GPU, with less exact factors

The tests hold these differences below the tolerances of true float32; this shows them where another
arithmetic is allowed on purpose.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np

import jfusion
from jfusion.runtime import jt, machine
from jfusion.systems.base import System

GOLDEN = Path(__file__).resolve().parents[1] / "tests/golden"


def main() -> None:
    """Prints a line for each fixture."""
    spec = importlib.util.spec_from_file_location("recipe", GOLDEN / "recipe.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    print("device:", f"GPU, {machine.precision()}" if jt.flags.use_cuda else "CPU")
    film = jfusion.create("film")
    film.load_official(recipe.state(manifest("film"), salt="golden"))
    z = np.load(GOLDEN / "film/forward.npz")
    for name in "ab":
        inputs = [z[f"{name}.{x}"].astype(np.float32) for x in ("imageA", "imageB", "text")]
        show(f"FILM, output of {name}", film, inputs, z[f"{name}.out"])
    cddfuse = jfusion.create("cddfuse")
    state = recipe.state(manifest("cddfuse"), salt="golden")
    for name, factor in json.loads((GOLDEN / "cddfuse/scales.json").read_text()).items():
        state[name] = (state[name] * np.float32(factor)).astype(np.float32)
    cddfuse.load_official(state)
    z = np.load(GOLDEN / "cddfuse/forward.npz")
    show("CDDFuse, fused image", cddfuse, [z["ir"], z["vis"]], z["p2.fused.image"])


def manifest(system: str) -> dict[str, list[int]]:
    """The shapes of the official parameters by name."""
    return json.loads((GOLDEN / system / "manifest.json").read_text())


def show(what: str, system: System, inputs: list[np.ndarray], expected: np.ndarray) -> None:
    """Runs a system, and prints how far it is."""
    with jt.no_grad():
        out = system(*(jt.array(x) for x in inputs)).numpy()
    print(f"RESULT {what}: {abs(out - expected).max():.1e} of {abs(expected).max():.2f}")


if __name__ == "__main__":
    main()
