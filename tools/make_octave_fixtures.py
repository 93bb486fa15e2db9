"""Writes tests/golden/metrics/octave.npz: values of published MATLAB metrics, run by GNU Octave.

Run where Octave and its image and signal packages are installed (Debian: octave octave-image octave-signal), with the folders
that hold the authors' code:

    python tools/make_octave_fixtures.py VIFB/metrics imageFusionMetrics Evaluation-for-Image-Fusion/Evaluation

They are the repositories xingchenzhang/VIFB, zhengliu6699/imageFusionMetrics and
Linfeng-Tang/Evaluation-for-Image-Fusion. `tools/octave` holds the two MATLAB functions that Octave
lacks. FMI is computed on the upper left corner, because its code takes minutes on a whole image.
Not computable here, and therefore not in jfusion: FMI of wavelets (MATLAB's filter "dmey").
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

GOLDEN = Path(__file__).parent.parent / "tests/golden/metrics"
CORNER = (40, 44)


def main(folders: list[str]) -> None:
    """One row of values per triple of metrics.npz."""
    data = np.load(GOLDEN / "metrics.npz")
    triples = [str(name) for name in data["triples"]]
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(lambda name: _values(data, name, folders), triples))
    names = sorted(rows[0])
    values = np.array([[row.get(name, np.nan) for name in names] for row in rows])
    np.savez_compressed(
        GOLDEN / "octave.npz", triples=triples, metrics=names, values=values, corner=CORNER
    )


def _values(data: np.lib.npyio.NpzFile, name: str, folders: list[str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for part in "ABF":
            files.append(f"{folder}/{part}.png")
            Image.fromarray(data[f"{name}.{part}"]).save(files[-1])
        paths = [
            str(Path(__file__).parent / "octave"),
            *map(str, map(Path.resolve, map(Path, folders))),
        ]
        code = "".join(f"addpath('{p}');" for p in reversed(paths))
        code += f"values('{files[0]}','{files[1]}','{files[2]}',[{CORNER[0]} {CORNER[1]}])"
        done = subprocess.run(
            ["octave-cli", "-q", "--eval", code], capture_output=True, text=True, check=False
        )
    found = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition(" ")
        if value.startswith("failed") or not value:
            print(f"{name}: {line}")
        else:
            found[key] = float(value)
    print(name, found, done.stderr[-300:] if not found else "", flush=True)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
