"""Pairs to try the page with, made from scikit-image's photographs: no data set, no network."""

from __future__ import annotations

from pathlib import Path

from jfusion.data import image, sample
from jfusion.data.layout import TASKS as LAYOUTS

# task -> the photograph
TASKS = {"IVF": "astronaut", "MEF": "coffee", "MFF": "motorcycle", "MIF": "phantom"}


def pair(task: str, folder: Path) -> tuple[Path, Path]:
    """The files of the example of a task, written into `folder`. Raises UserError without scikit-image."""
    names = LAYOUTS[task].folder_a, LAYOUTS[task].folder_b
    first, second = (folder / f"{name.lower()}.png" for name in names)
    for path, pixels in zip((first, second), sample.pair(task, TASKS[task]), strict=True):
        image.write(path, pixels)
    return first, second
