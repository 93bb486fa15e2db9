"""Figures that show images side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jfusion.data import image

if TYPE_CHECKING:
    from PIL.Image import Image

GAP, HEAD = 6, 22  # pixels between cells, and above them for the labels


def grid(path: Path, columns: list[str], rows: list[list[np.ndarray]], height: int = 200) -> Path:
    """Writes a grid of images with a label above each column, and returns its path.

    columns: the labels. rows: for each row its cells, one for each column, (H, W) or (H, W, 3) uint8.
    height: to which every cell is resampled, its proportions kept.
    """
    from PIL import Image as images
    from PIL import ImageDraw

    cells = [[_resized(cell, height) for cell in row] for row in rows]
    widths = [max(row[i].width for row in cells) for i in range(len(columns))]
    size = sum(widths) + GAP * (len(widths) + 1), HEAD + (height + GAP) * len(cells)
    canvas = images.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    x = GAP
    for i, label in enumerate(columns):
        draw.text((x, 4), label, fill="black")
        for j, row in enumerate(cells):
            canvas.paste(row[i], (x, HEAD + j * (height + GAP)))
        x += widths[i] + GAP
    image.write(path, np.asarray(canvas))
    return path


def _resized(cell: np.ndarray, height: int) -> Image:
    """A cell as an RGB image of PIL of this height."""
    from PIL import Image as images

    source = images.fromarray(cell).convert("RGB")
    width = max(1, round(source.width * height / source.height))
    return source.resize((width, height), images.Resampling.BICUBIC)
