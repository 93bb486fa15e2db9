"""Made-up pairs of any size and number for scale.py: smoothed noise with shapes, from a fixed seed."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from PIL import Image, ImageDraw

SHAPES = 24
OCTAVES = (4, 16, 64)  # cells of noise along the shorter side
TEXT_DIM = 768  # of FILM


def images(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An infrared image (H, W) and a visible one (H, W, 3), uint8, of one scene."""
    rng = np.random.default_rng([height, width])
    scene, warm = _noise(rng, height, width), _noise(rng, height, width)
    shown = Image.fromarray(np.uint8(128 + 0.25 * (warm - 128)))
    seen = Image.merge("RGB", [Image.fromarray(np.uint8(scene * f)) for f in (0.6, 0.7, 0.5)])
    for _ in range(SHAPES):
        size = rng.integers(8, 24) / 100 * min(height, width)
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        box = [x, y, x + size, y + size * rng.uniform(0.5, 2)]
        draw = ("ellipse", "rectangle")[rng.integers(2)]
        getattr(ImageDraw.Draw(shown), draw)(box, fill=int(rng.integers(256)))
        getattr(ImageDraw.Draw(seen), draw)(box, fill=tuple(map(int, rng.integers(0, 256, 3))))
    return np.asarray(shown), np.asarray(seen)


def _noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Noise of several scales, (H, W) float32 from 0 to 255."""
    total = np.zeros((height, width), np.float32)
    for i, cells in enumerate(OCTAVES):
        small = (cells * height // min(height, width), cells * width // min(height, width))
        grid = Image.fromarray(rng.uniform(0, 255, small).astype(np.float32))
        total += np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC)) / 2 ** (i + 1)
    total -= total.min()
    return total * (255 / total.max())


def folders(root: Path, height: int, width: int, pairs: int) -> tuple[Path, Path]:
    """Folders `ir` and `vi` with so many pairs, which are links to one: only their number is large.

    Folders that are complete are used again.
    """
    folder = root / f"{height}x{width}_{pairs}"
    sides = folder / "ir", folder / "vi"
    done = folder / "done"
    if not done.is_file():
        for side, pixels in zip(sides, images(height, width), strict=True):
            side.mkdir(parents=True, exist_ok=True)
            for file in side.iterdir():
                file.unlink()
            first = side / f"{0:06d}.png"
            Image.fromarray(pixels).save(first, compress_level=1)
            for i in range(1, pairs):
                (side / f"{i:06d}.png").hardlink_to(first)
        done.touch()
    return sides


def h5_file(root: Path, height: int, width: int, pairs: int) -> Path:
    """An H5 file of so many pairs, each with arrays of its own; a file that is complete is used again."""
    path = root / f"{height}x{width}_{pairs}_train.h5"
    if path.is_file():
        return path
    root.mkdir(parents=True, exist_ok=True)
    gray, color = images(height, width)
    a = gray[None] / np.float32(255)
    b = color.mean(2, dtype=np.float32)[None] / np.float32(255)
    part = path.with_suffix(".part")
    with h5py.File(part, "w") as file:
        file.attrs.update({"task": "IVF", "dataset": "made_up", "encoder": "zeros"})
        for i in range(pairs):
            name = f"{i:06d}"
            file[f"imageA/{name}"], file[f"imageB/{name}"] = a, np.roll(b, i, 2)
            file[f"text/{name}"] = np.zeros((1, 1, TEXT_DIM), np.float32)
    part.replace(path)
    return path
