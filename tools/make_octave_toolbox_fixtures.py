"""Writes tests/golden/metrics/octave_toolbox.npz: metrics of Z. Liu's MATLAB toolbox, run by GNU Octave.

    python tools/make_octave_toolbox_fixtures.py imageFusionMetrics

The folder is that of the repository zhengliu6699/imageFusionMetrics; Octave needs its image package. NaN
where the code stops with an error. Piella's edge-dependent index (metricPeilla with sw = 3) multiplies by the
weighted index, Q, which only sw = 2 computes; a copy of the file is run in which that case computes it first.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests/golden/metrics"
METRICS = ("Qy", "Qs", "Qw", "Qe", "Qp")


def main(folder: str) -> None:
    """One row of values for each triple of metrics.npz."""
    with tempfile.TemporaryDirectory() as copy:
        _write(_with_weighted_index(folder, copy))


def _with_weighted_index(folder: str, copy: str) -> str:
    """A copy of the toolbox whose metricPeilla has Q in the case that lacks it."""
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    code = Path(copy) / "metricPeilla.m"
    case = "    case 3\n"
    text = code.read_text(encoding="latin-1").replace("\r\n", "\n")
    assert text.count(case) == 1
    code.write_text(
        text.replace(case, f"{case}        Q=metricPeilla(img1,img2,fuse,2);\n"), "latin-1"
    )
    return copy


def _write(toolbox: str) -> None:
    data = np.load(GOLDEN / "metrics.npz")
    triples = [str(name) for name in data["triples"]]
    values = np.array([_values(data, name, toolbox) for name in triples])
    kept = ~np.isnan(values).all(0)
    np.savez_compressed(
        GOLDEN / "octave_toolbox.npz",
        triples=triples,
        metrics=[m for m, k in zip(METRICS, kept, strict=True) if k],
        values=values[:, kept],
    )


def _values(data: np.lib.npyio.NpzFile, name: str, toolbox: str) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for part in "ABF":
            files.append(f"{folder}/{part}.png")
            Image.fromarray(data[f"{name}.{part}"]).save(files[-1])
        quoted = "','".join(files)
        code = f"addpath('{ROOT / 'tools/octave'}');addpath('{Path(toolbox).resolve()}');"
        command = ["octave-cli", "-q", "--eval", f"{code}toolbox_values('{quoted}')"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = dict.fromkeys(METRICS, float("nan"))
    for line in done.stdout.replace("\r", "\n").splitlines():
        key, _, value = line.partition(" ")
        if key in found and value.startswith("failed"):
            print(f"{name}: {line}", flush=True)
        elif key in found:
            found[key] = float(value)
    print(name, found, flush=True)
    return list(found.values())


if __name__ == "__main__":
    main(sys.argv[1])
