"""Registration by Diff-FCCF's field: a pair's second image is moved onto the first, and by how much is told."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jfusion.config import setting
from jfusion.data import color, image
from jfusion.data.alignment import find_shift, normalized_mutual_information
from jfusion.data.layout import find_pairs
from jfusion.files import write_text
from jfusion.inference import load_system
from jfusion.report import figures

if TYPE_CHECKING:
    from jfusion.systems.base import System

SQUARE = 32  # of the checkerboards


@dataclass(frozen=True)
class Options:
    """What `jfusion align` is asked for."""

    a: str | None = setting(None, "images that stay (MRI, CT in the group ct): a file, or a folder")
    b: str | None = setting(None, "images that are moved (PET, SPECT): a file, or a folder")
    weights: str = setting("exp", "a checkpoint, a run folder, or a folder of runs: the newest")
    out: str = setting("aligned", "folder for the moved images, the pictures and displacement.csv")
    coarse: bool = setting(
        False, "first undo the whole-pixel shift that mutual information finds (up to 12 pixels)"
    )
    allow_partial: bool = setting(
        False, "take the tensors of the checkpoint that fit, and print what was skipped"
    )
    range: str = image.range_setting()
    max_pixels: float = image.max_pixels_setting()


class Result(NamedTuple):
    """One pair: the moved b (H, W, 3) uint8, the field (H, W, 2) in pixels, x first, and the numbers."""

    moved: np.ndarray
    field: np.ndarray
    numbers: dict[str, float]


def align_pair(system: System, a: np.ndarray, b: np.ndarray, coarse: bool = False) -> Result:
    """Moves b onto a by the system's field; both (H, W, 3) uint8.

    The field is the network's for the clean pair; its values are between 0 and 1 pixel, towards larger
    coordinates (Diff-FCCF's masks, sic). The numbers: displacement (mean and largest, pixels), the shift
    undone before, and the normalised mutual information before and after.
    """
    from jfusion.runtime import jt
    from jfusion.systems.fccf.warp import warp

    base, h, w = np.zeros(2, int), *a.shape[:2]
    shift = find_shift(color.gray(a), color.gray(b)) if coarse else None
    if shift is not None and shift.suspicious:
        base = np.array([shift.columns, shift.rows])
    with jt.no_grad():
        start = np.broadcast_to(base.astype(np.float32), (1, h, w, 2))
        planes = jt.array(np.moveaxis(b, 2, 0)[None].astype(np.float32))
        shifted = warp(planes, jt.array(np.ascontiguousarray(start)))
        rough = np.moveaxis(shifted.numpy()[0], 0, 2).astype(np.uint8)
        field = system.field(a, rough)
        moved = warp(shifted, jt.array(field[None])).numpy()[0]
    moved = np.clip(np.round(np.moveaxis(moved, 0, 2)), 0, 255).astype(np.uint8)
    length = np.hypot(*np.moveaxis(field, 2, 0))
    first, last = (normalized_mutual_information(color.gray(a), color.gray(x)) for x in (b, moved))
    numbers = {
        "mean": float(length.mean()),
        "largest": float(length.max()),
        "columns before": float(base[0]),
        "rows before": float(base[1]),
        "NMI before": first,
        "NMI after": last,
    }
    return Result(moved, field, numbers)


def align(options: Options) -> dict[str, Result]:
    """Aligns every pair of images of one name; writes <name>.png, <name>_field.png, displacement.csv."""
    from tqdm import tqdm

    pairs = find_pairs(options.a, options.b)
    reader = image.Reader(options.range, options.max_pixels)
    for i, side in enumerate("ab", 1):
        reader.prepare([pair[i] for pair in pairs], side)
    system = load_system(options.weights, "fccf", {}, options.allow_partial)
    out, results = Path(options.out), {}
    for name, *files in tqdm(pairs, desc="aligning", unit="pair", disable=len(pairs) == 1):
        a, b = reader.pair(*files)
        found = results[name] = align_pair(system, a, b, options.coarse)
        image.write(out / f"{name}.png", found.moved)
        _picture(out / f"{name}_field.png", a, b, found)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["name", *next(iter(results.values())).numbers])
    for name, found in results.items():
        table.writerow([name, *(f"{v:.4f}" for v in found.numbers.values())])
    write_text(out / "displacement.csv", text.getvalue(), "the table")
    return results


def _picture(path: Path, a: np.ndarray, b: np.ndarray, found: Result) -> None:
    """Checkerboards of the pair before and after, and the field: its direction as hue."""
    from matplotlib.colors import hsv_to_rgb

    x, y = np.moveaxis(found.field, 2, 0)
    length = np.hypot(x, y)
    hue, value = (np.arctan2(y, x) / (2 * np.pi)) % 1, length / max(length.max(), 1e-9)
    field = np.round(hsv_to_rgb(np.stack([hue, np.ones_like(hue), value], -1)) * 255)
    cells = [_checkerboard(a, b), _checkerboard(a, found.moved), field.astype(np.uint8)]
    labels = [
        "before",
        "after",
        f"displacement: black 0, bright {length.max():.2f} px, hue direction",
    ]
    figures.grid(path, labels, [cells], height=max(240, a.shape[0]))


def _checkerboard(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    rows, columns = (np.arange(n) // SQUARE for n in a.shape[:2])
    return np.where(((rows[:, None] + columns) % 2 == 0)[..., None], a, b)
