"""Pictures that show results side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jfusion.data import image


def grid(path: Path, columns: list[str], rows: list[list[np.ndarray]], height: int = 200) -> Path:
    """Writes a labelled grid; each cell (H, W) or (H, W, 3) uint8, scaled to one height per row."""
    from PIL import Image, ImageDraw

    gap, head = 6, 22
    scaled = []
    for row in rows:
        scaled.append([])
        for cell in row:
            picture = Image.fromarray(cell).convert("RGB")
            width = max(1, round(picture.width * height / picture.height))
            scaled[-1].append(picture.resize((width, height), Image.Resampling.BICUBIC))
    widths = [max(row[i].width for row in scaled) for i in range(len(columns))]
    size = (sum(widths) + gap * (len(widths) + 1), head + (height + gap) * len(scaled))
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    x = gap
    for i, label in enumerate(columns):
        draw.text((x, 4), label, fill="black")
        for j, row in enumerate(scaled):
            canvas.paste(row[i], (x, head + j * (height + gap)))
        x += widths[i] + gap
    image.write(path, np.asarray(canvas))
    return path
