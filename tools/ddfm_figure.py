"""Makes docs/ddfm.png: the estimate of DDFM's released code next to the paper's, on demo pairs.

jfusion demo --system ddfm --task MEF --out demo_ddfm
python tools/ddfm_figure.py demo_ddfm
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from jfusion.commands.fuse import Options, fuse
from jfusion.data import color, image
from jfusion.report import figures

VARIANTS = {
    "released (I - X')": {},
    "paper (V + X')": {"estimate": "paper"},
    "without EM": {"em": False},
}
STEPS = "10"


def main(demo: Path) -> None:
    """demo: the folder that `jfusion demo --system ddfm` made."""
    pairs = demo / "VLFDataset/Image/MEF/Demo"
    chosen = (pairs / "test.txt").read_text().split()
    rows = [[image.read_rgb(pairs / f / name) for f in ("OVER", "UNDER")] for name in chosen]
    rows = [[color.gray(x).round().astype(np.uint8) for x in row] for row in rows]
    for label, settings in VARIANTS.items():
        for name, row in zip(chosen, rows, strict=True):
            options = Options(
                a=str(pairs / "OVER" / name),
                b=str(pairs / "UNDER" / name),
                weights=str(demo / "exp"),
                out=str(demo / "figure" / label.split()[0]),
                system="ddfm",
                task="MEF",
                overwrite=True,
            )
            (path,) = fuse(options, {"inference_steps": STEPS, **settings}).written
            row.append(color.gray(image.read_rgb(path)).round().astype(np.uint8))
    columns = ["a (over-exposed)", "b (under-exposed)", *VARIANTS]
    print(figures.grid(Path(__file__).parents[1] / "docs/ddfm.png", columns, rows, height=150))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
