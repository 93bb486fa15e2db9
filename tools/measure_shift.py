"""How well `jfusion fuse --align shift` undoes a shift: the second table of docs/alignment.md.

    python tools/measure_shift.py VLFDataset --every 6

Of every sixth pair of a data set in FILM's layout, the middle (at most 400 pixels a side) is taken twice: as it
is, and with b shifted by up to 24 pixels by cropping. No data set is registered to the pixel, so the
estimate of the shifted pair is compared with that of the same pair unshifted, plus the shift.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from jfusion.data import color, image
from jfusion.data.alignment import estimate_shift
from jfusion.data.layout import TASKS

MOST, SIDE = 24, 400


def main(root: Path, every: int) -> None:
    """Prints a row for each task."""
    rng = np.random.default_rng(0)
    for name, task in TASKS.items():
        within, near, certain, seconds = [], [], [], []
        files = sorted((root / "Image" / name).glob(f"*/{task.folder_a}/*"))
        for path in files[::every]:
            a, b = (color.gray(x) for x in image.Reader().pair(path, _partner(path, task.folder_b)))
            rows, columns = rng.integers(-MOST, MOST + 1, 2)
            before = estimate_shift([_cropped(a, b, 0, 0)])
            start = time.process_time()
            after = estimate_shift([_cropped(a, b, rows, columns)])
            seconds.append(time.process_time() - start)
            off = max(
                abs(after.rows - before.rows - rows), abs(after.columns - before.columns - columns)
            )
            within.append(off <= 1)
            near.append(max(abs(after.rows - rows), abs(after.columns - columns)) <= 1)
            certain.append(after.certainty >= 1)
        if within:
            sure = np.array(certain)
            print(
                f"{name}  {len(within):3} pairs  within 1 px of the pair's own offset {sum(within):3}  of those "
                f"that are certain {sum(np.array(within)[sure]):3} of {sum(sure):3}  within 1 px of the "
                f"files {sum(near):3}  {np.mean(seconds) * 1000:.0f} ms",
                flush=True,
            )


def _partner(path: Path, folder: str) -> Path:
    return next((path.parents[1] / folder).glob(f"{path.stem}.*"))


def _cropped(
    a: np.ndarray, b: np.ndarray, rows: int, columns: int
) -> tuple[np.ndarray, np.ndarray]:
    """The middle of a, and that of b as it is where b is shifted."""
    h, w = (min(n - 2 * MOST, SIDE) for n in a.shape)
    top, left = ((n - m) // 2 for n, m in zip(a.shape, (h, w), strict=True))
    place = np.s_[top - rows : top - rows + h, left - columns : left - columns + w]
    return a[top : top + h, left : left + w], b[place]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--every", type=int, default=1)
    arguments = parser.parse_args()
    main(arguments.root, arguments.every)
