"""`jfusion align`: moves the second image of each pair onto the first, and reports by how much.

With --points or --estimate it calibrates a rig of two cameras instead, for `jfusion fuse --calib`.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from jfusion import inference
from jfusion.config import CommandOptions, setting
from jfusion.data import calibration, color, image
from jfusion.data.alignment import find_shift, normalized_mutual_information, warp
from jfusion.data.layout import find_pairs
from jfusion.data.thermal import ThermalReader
from jfusion.errors import UserError, counted
from jfusion.files import check_output, write_text
from jfusion.report import figures

RIG = 16  # pairs of a rig that a calibration uses at most
SQUARE = 32  # side of a checkerboard's squares


@dataclass(frozen=True)
class Options(CommandOptions):
    """The images, the checkpoint, and what is done before."""

    a: str = setting(
        "",
        "images that stay (MRI; CT in the group ct): a file or a folder; of a rig, the infrared ones",
        "PATH",
        positional=True,
        aliases=("--a",),
    )
    b: str = setting(
        "",
        "images that are moved (PET, SPECT): the same, names as in A; of a rig, the visible ones",
        "PATH",
        positional=True,
        aliases=("--b",),
    )
    estimate: bool = setting(
        False, "calibrate a rig: the homography from A to B that all pairs have in common"
    )
    points: str | None = setting(
        None, "calibrate a rig by points: lines of xa ya xb yb, four or more", "FILE"
    )
    system: str = setting("fccf", "the system that predicts the displacement", "NAME")
    weights: str | None = setting(
        None, "a checkpoint, a run folder, or a folder of runs such as exp: the newest", "PATH"
    )
    out: str = setting(
        "aligned",
        "folder for the moved images, the figures and displacement.csv; of a rig, the calibration, such "
        "as calib.json",
        "PATH",
        aliases=("-o",),
    )
    coarse: bool = setting(
        False, "first undo the whole-pixel shift that mutual information finds (up to 12 pixels)"
    )
    allow_partial: bool = inference.allow_partial_setting()
    range: str = image.range_setting()
    max_pixels: float = image.max_pixels_setting()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.a and self.b) and not (self.points and not self.a and not self.b):
            raise UserError("name images A and B: jfusion align A B")
        if self.points and self.estimate:
            raise UserError("--points and --estimate exclude each other; leave out one")


@runtime_checkable
class Registration(Protocol):
    """A system that predicts how far the second image of a pair is displaced."""

    def displacement_field(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """a, b (H, W, 3) uint8 -> (H, W, 2) float32 in pixels, x first; `warp` moves b by it."""
        ...


class Result(NamedTuple):
    """An aligned pair: the moved b (H, W, 3) uint8, the field (H, W, 2) in pixels, and the numbers."""

    moved: np.ndarray
    field: np.ndarray
    numbers: dict[str, float]


def run(options: Options) -> int:
    """Aligns the pairs, or calibrates a rig, and prints the result. Returns the exit code."""
    if options.points or options.estimate:
        return calibrate(options)
    for name, result in align(options).items():
        n = result.numbers
        print(
            f"{name}: displacement {n['mean']:.2f} px (largest {n['largest']:.2f}), after a shift of "
            f"{n['columns before']:+.0f} columns and {n['rows before']:+.0f} rows; normalized mutual "
            f"information {n['NMI before']:.4f} -> {n['NMI after']:.4f}"
        )
    print(f"moved images, figures and displacement.csv: {options.out}")
    return 0


def calibrate(options: Options) -> int:
    """Writes the calibration of a rig, and prints its residual. Raises UserError."""
    out = Path("calib.json" if options.out == "aligned" else options.out)
    check_output(out, "the calibration")
    pairs = find_pairs(options.a, options.b) if options.a else []
    if options.points:
        a, b = calibration.read_points(options.points)
        fit = calibration.from_points(a, b)
        distances = np.linalg.norm(calibration.transformed(fit.homography, a) - b, axis=1)
        worst = int(distances.argmax())
        what = (
            f"{counted(len(a), 'point')} (the worst, number {worst + 1}: {distances[worst]:.2f} px)"
        )
        sizes = [image.header(path) for path in pairs[0][1:]] if pairs else []
        fit = fit._replace(
            **{f"size_{s}": (h.height, h.width) for s, h in zip("ab", sizes, strict=False)}
        )
    else:
        used = [
            pairs[i] for i in np.unique(np.linspace(0, len(pairs) - 1, RIG).round().astype(int))
        ]
        fit = calibration.estimate(_grays(used, ThermalReader(options.range, options.max_pixels)))
        what = counted(len(used), "pair")
    calibration.write(out, fit)
    print(
        f"{out}: residual {fit.residual:.2f} px over {what}; use it with jfusion fuse A B --calib {out}"
    )
    return 0


def _grays(
    pairs: list[tuple[str, Path, Path]], reader: image.Reader
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The gray images of a rig. Raises UserError unless all of a side have one size."""
    for i, side in enumerate("ab", 1):
        reader.prepare([pair[i] for pair in pairs], side)
    grays = [(color.gray(reader.rgb(a, "a")), color.gray(reader.rgb(b, "b"))) for _, a, b in pairs]
    for (name, *_), both in zip(pairs, grays, strict=True):
        if tuple(x.shape for x in both) != tuple(x.shape for x in grays[0]):
            raise UserError(
                f"{name} has other sizes than {pairs[0][0]}; the images of a rig must have one size each"
            )
    return grays


def align(options: Options) -> dict[str, Result]:
    """Aligns every pair of images of one name; writes <name>.png, <name>_field.png, displacement.csv.

    Raises UserError when the system predicts no displacement, or a pair is incomplete.
    """
    from tqdm import tqdm

    check_output(Path(options.out) / "displacement.csv", "the moved images")
    pairs = find_pairs(options.a, options.b)
    system = inference.load_system(options.weights, options.system, partial=options.allow_partial)
    if not isinstance(system, Registration):
        raise UserError(
            f"{options.system} predicts no displacement between images; choose another --system"
        )
    reader = image.Reader(options.range, options.max_pixels)
    for i, side in enumerate("ab", 1):
        reader.prepare([pair[i] for pair in pairs], side)
    out, results = Path(options.out), {}
    for name, *files in tqdm(pairs, desc="aligning", unit="pair", disable=len(pairs) == 1):
        a, b = reader.pair(*files)
        result = results[name] = align_pair(system, a, b, options.coarse)
        image.write(out / f"{name}.png", result.moved)
        _figure(out / f"{name}_field.png", a, b, result)
    _write_table(out / "displacement.csv", results)
    return results


def align_pair(system: Registration, a: np.ndarray, b: np.ndarray, coarse: bool = False) -> Result:
    """Moves b onto a by the system's displacement field; both (H, W, 3) uint8.

    coarse: first undoes the whole-pixel shift that mutual information finds. The numbers: the mean
    and the largest displacement in pixels, the shift that was undone before, and the normalized mutual
    information before and after.
    """
    h, w = a.shape[:2]
    base = np.zeros(2, np.float32)  # columns, rows
    if coarse:
        shift = find_shift(color.gray(a), color.gray(b))
        if shift.suspicious:
            base = np.float32([shift.columns, shift.rows])
    shifted = _to_uint8(warp(b, np.broadcast_to(base, (h, w, 2))))
    field = system.displacement_field(a, shifted)
    moved = _to_uint8(warp(shifted, field))
    length = np.hypot(*np.moveaxis(field, 2, 0))
    before, after = (
        normalized_mutual_information(color.gray(a), color.gray(x)) for x in (b, moved)
    )
    numbers = {
        "mean": float(length.mean()),
        "largest": float(length.max()),
        "columns before": float(base[0]),
        "rows before": float(base[1]),
        "NMI before": before,
        "NMI after": after,
    }
    return Result(moved, field, numbers)


def _to_uint8(x: np.ndarray) -> np.ndarray:
    return np.clip(np.round(x), 0, 255).astype(np.uint8)


def _write_table(path: Path, results: dict[str, Result]) -> None:
    """The numbers of every pair, a row each."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["name", *next(iter(results.values())).numbers])
    for name, result in results.items():
        table.writerow([name, *(f"{v:.4f}" for v in result.numbers.values())])
    write_text(path, text.getvalue(), "the table")


def _figure(path: Path, a: np.ndarray, b: np.ndarray, result: Result) -> None:
    """Checkerboards of the pair before and after, and the field, its direction as hue."""
    from matplotlib.colors import hsv_to_rgb

    x, y = np.moveaxis(result.field, 2, 0)
    length = np.hypot(x, y)
    hue, value = (np.arctan2(y, x) / (2 * np.pi)) % 1, length / max(length.max(), 1e-9)
    field = np.round(hsv_to_rgb(np.stack([hue, np.ones_like(hue), value], -1)) * 255)
    cells = [_checkerboard(a, b), _checkerboard(a, result.moved), field.astype(np.uint8)]
    labels = [
        "before",
        "after",
        f"displacement: black 0, bright {length.max():.2f} px, hue direction",
    ]
    figures.grid(path, labels, [cells], height=max(240, a.shape[0]))


def _checkerboard(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The two images (H, W, 3) in alternating squares."""
    rows, columns = (np.arange(n) // SQUARE for n in a.shape[:2])
    return np.where(((rows[:, None] + columns) % 2 == 0)[..., None], a, b)
