"""Writes tests/golden/metrics/octave_color.npz: VIFB's MATLAB metrics of color images, run by GNU Octave.

    python tools/make_octave_color_fixtures.py VIFB/metrics

The folder is that of the repository xingchenzhang/VIFB; Octave needs its image package. The channels are
gray images of metrics.npz: `CHANNELS` names those of each side.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests/golden/metrics"
CHANNELS = {
    "gray_a": {
        "A": ("weighted.A",),
        "B": ("weighted.B", "saturated.B", "noise.B"),
        "F": ("weighted.F", "noise.F", "inverted.F"),
    },
    "color": {
        "A": ("weighted.A", "noise.A", "inverted.A"),
        "B": ("weighted.B", "saturated.B", "noise.B"),
        "F": ("inverted.F", "weighted.F", "saturated.F"),
    },
    "equal_channels": {
        "A": ("weighted.A",) * 3,
        "B": ("weighted.B", "saturated.B", "noise.B"),
        "F": ("weighted.F",) * 3,
    },
}


def main(metrics: str) -> None:
    """One row of values for each case of `CHANNELS`."""
    data = np.load(GOLDEN / "metrics.npz")
    rows = {name: _values(data, sides, metrics) for name, sides in CHANNELS.items()}
    names = sorted(next(iter(rows.values())))
    values = np.array([[row[n] for n in names] for row in rows.values()])
    channels = {
        f"{case}.{side}": np.array(of)
        for case, sides in CHANNELS.items()
        for side, of in sides.items()
    }
    np.savez_compressed(
        GOLDEN / "octave_color.npz", cases=list(rows), metrics=names, values=values, **channels
    )


def _values(data: np.lib.npyio.NpzFile, sides: dict, metrics: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for side, names in sides.items():
            files.append(f"{folder}/{side}.png")
            pixels = np.dstack([data[name] for name in names])
            Image.fromarray(pixels if len(names) == 3 else pixels[..., 0]).save(files[-1])
        quoted = "','".join(files)
        code = f"addpath('{ROOT / 'tools/octave'}');addpath('{Path(metrics).resolve()}');"
        code += f"color_values('{quoted}')"
        command = ["octave-cli", "-q", "--eval", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {line.split()[0]: float(line.split()[1]) for line in done.stdout.splitlines()}


if __name__ == "__main__":
    main(sys.argv[1])
