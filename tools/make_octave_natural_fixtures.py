"""Writes tests/golden/metrics/octave_natural.npz: LIVE's MATLAB code of NIQE and BRISQUE, run by GNU Octave.

    python tools/make_octave_natural_fixtures.py niqe BRISQUE/MATLAB

The folders are those of the repositories utlive/niqe and utlive/BRISQUE; Octave needs its image package. NIQE
is given a made-up pristine model, because the published one is not in this repository.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.metrics.test_natural import IMAGES, image  # noqa: E402

GOLDEN = ROOT / "tests/golden/metrics"


def main(niqe: str, brisque: str) -> None:
    """A value of NIQE and 36 features of BRISQUE for each image."""
    images = [image(name) for name in IMAGES]
    np.savez_compressed(
        GOLDEN / "octave_natural.npz",
        images=list(IMAGES),
        niqe=[_values(x, niqe, "niqe_value")[0] for x in images],
        features=np.array([_values(x, brisque, "brisque_values") for x in images]),
    )


def _values(pixels: np.ndarray, code: str, function: str) -> list[float]:
    """What a function prints; a process for each, because both folders have files of the same names."""
    with tempfile.TemporaryDirectory() as folder:
        Image.fromarray(pixels).save(f"{folder}/x.png")
        paths = f"addpath('{Path(code).resolve()}'); addpath('{ROOT / 'tools/octave'}');"
        command = ["octave-cli", "-q", "--eval", f"{paths} {function}('{folder}/x.png')"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    line = next(x for x in done.stdout.splitlines() if x.startswith("values "))
    return [float(value) for value in line.split()[1:]]


if __name__ == "__main__":
    main(*sys.argv[1:])
