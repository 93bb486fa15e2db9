"""How often the alignment check reports registered pairs, and shifted ones: the table of docs/alignment.md.

    python tools/measure_alignment.py VLFDataset

Every pair of a data set in FILM's layout is checked as it is, and with b shifted by 3 to 9 pixels.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from jfusion.data import color, image
from jfusion.data.alignment import find_shift
from jfusion.data.layout import TASKS


def main(root: Path) -> None:
    """Prints a row for each task."""
    rng = np.random.default_rng(0)
    for name, task in TASKS.items():
        pairs = reported = reported_shifted = right = 0
        seconds = 0.0
        for path in sorted((root / "Image" / name).glob(f"*/{task.folder_a}/*")):
            other = path.parents[1] / task.folder_b / path.name
            a, b = (color.gray(x) for x in image.Reader().pair(path, other))
            start = time.perf_counter()
            reported += find_shift(a, b).suspicious
            seconds += time.perf_counter() - start
            angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(3, 9)
            rows, columns = round(length * np.sin(angle)), round(length * np.cos(angle))
            shift = find_shift(a, np.roll(b, (rows, columns), (0, 1)))
            near = max(abs(shift.rows - rows), abs(shift.columns - columns)) <= 2
            pairs += 1
            reported_shifted += shift.suspicious
            right += shift.suspicious and near
        if pairs:
            print(
                f"{name}  {pairs:4} pairs  reported as they are {reported:3}  "
                f"reported when shifted {reported_shifted:3} ({right} within 2 px)  "
                f"{seconds / pairs * 1000:.0f} ms per pair"
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
