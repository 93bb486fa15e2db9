"""Two medical volumes: B is resampled into A's space, and the axial slices are fused one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jfusion import processes
from jfusion.data import color, image, space
from jfusion.data.depth import Range, RangePolicy
from jfusion.data.h5 import Pair
from jfusion.data.volume import SUFFIXES, Volume, read_in_space, volume_name
from jfusion.errors import UserError
from jfusion.files import check_output
from jfusion.fusing.images import Outcome
from jfusion.fusing.method import Method, choose
from jfusion.fusing.result import color_rule
from jfusion.fusing.task import Guess, by_option
from jfusion.systems.stretch import Stretch

if TYPE_CHECKING:
    from jfusion.commands.fuse import Options

MEASURED = 5  # slices whose extremes set the normalization of all, for a system that normalizes


def fuse(options: Options, settings: Mapping[str, Any]) -> Outcome:
    """Writes the fused volume and its mosaic. Raises UserError."""
    outputs = _outputs(options)
    named = options.task or by_option(options.a_alias, options.b_alias)
    guess = Guess(named or "MIF", "" if named else "volumes are medical")
    weights, system = choose(options.weights, options.system, guess)
    there = [] if options.overwrite else [path for path in outputs if path.exists()]
    if there == outputs:
        print(f"note: {outputs[0]} is there already and stays (--overwrite)")
        return Outcome(kept=outputs)
    if there:  # of another command, perhaps
        raise UserError(
            f"{there[0]} is there already, and a volume and its mosaic ({' and '.join(map(str, outputs))}) are "
            "written together; choose another -o, or replace it with --overwrite"
        )
    _check(options)
    method = Method.find(weights, system)
    series = options.series_a, options.series_b
    paths = zip((options.a, options.b), series, strict=True)
    a, b = (read_in_space(path, nan="lowest", series=name) for path, name in paths)
    policy = RangePolicy.parse(options.range)
    windows = tuple(space.window_of(x.values, policy) for x in (a, b))
    print(
        f"A: {_described(a, windows[0])}\nB: {_described(b, windows[1])}, resampled to A's voxels"
    )
    if options.dry_run:
        method.find_text(options.text, guess.task, ["volume"])
        print(f"-> {' and '.join(map(str, outputs))}")
        return Outcome()
    processes.note_one_process("a volume is one sample")
    check_output(outputs[0].parent, "the fused volume", a.values.size, folder=True)
    text = {"text": options.text, "task": guess.task, "names": ["volume"]}
    method.build(settings, options.allow_partial, **text)
    slices = _Slices(options, method, guess.task)
    colormaps = _colormaps(options, windows)
    fused = space.fuse_volumes(a, b, slices.fuse, windows, colormaps, slices.measure)
    space.write_fused(outputs[0], outputs[1], fused)
    print(f"mosaic: {outputs[1]}")
    return Outcome(written=outputs[:1])


class _Slices:
    """Fuses single slices of one volume by one normalization."""

    def __init__(self, options: Options, method: Method, task: str):
        self.options, self.method, self.task = options, method, task
        self.stretch = Stretch()

    def measure(self, a: np.ndarray, b: np.ndarray) -> None:
        """Looks at a few of the slices (z, H, W, 3) for the normalization of all."""
        for k in np.unique(np.linspace(0, len(a) - 1, MEASURED + 2).round().astype(int))[1:-1]:
            with self.stretch.measured():
                self._fused(a[k], b[k])
            if not np.isfinite(self.stretch.low):
                return

    def fuse(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The fused slice (H, W) or (H, W, 3) uint8 of two slices (H, W, 3) uint8."""
        with self.stretch.applied():
            return self._fused(a, b)

    def _fused(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        colored = color.is_color(a), color.is_color(b)
        rule = color_rule(self.task, colored, self.options.color)
        pair = Pair.of_images("slice", a, b, self.method.text_of("volume"), rule)
        return self.method.fuse(pair, self.options.seed)[0]


def _outputs(options: Options) -> list[Path]:
    """The files of the fused volume and of its mosaic."""
    out = Path(options.out)
    if out.name.lower().endswith((".nii", ".nii.gz")) and not out.is_dir():
        return [out, out.with_name(f"{volume_name(out)}.png")]
    if (
        out.suffix
        and not out.is_dir()
        and (out.name.lower().endswith(SUFFIXES) or image.is_image_name(out))
    ):
        raise UserError(f"a fused volume is written as .nii or .nii.gz, not as {out.name}")
    name = volume_name(options.a)
    return [out / f"{name}.nii.gz", out / f"{name}.png"]


def _colormaps(options: Options, windows: tuple[Range | None, ...]) -> tuple[Callable | None, ...]:
    """The colormaps of A and B: that of --pseudo-color, which is for gray volumes."""
    maps: dict[str, Callable | None] = {"a": None, "b": None}
    if (side := options.pseudo_color) != "none":
        if windows["ab".index(side)] is None:
            raise UserError(f"volume {side.upper()} is in color; pseudo-colors are for gray ones")
        maps[side] = partial(color.jet, background=options.background)
    return tuple(maps.values())


def _check(options: Options) -> None:
    """Raises UserError for options that have no meaning for volumes, which have A's voxels and place."""
    if options.size or options.size_of:
        raise UserError("--size and --size-of are for images; a volume is fused on A's voxels")
    if options.align != "none" or options.calib:
        raise UserError("--align and --calib are for images; volumes are aligned by their affines")
    if options.unit != "counts":
        raise UserError("--unit is for thermal images; leave it out for volumes")


def _described(volume: Volume, window: Any) -> str:
    """One line about a volume: voxels, their size, and what becomes black and white."""
    voxels = "x".join(map(str, volume.values.shape[:3]))
    size = ""
    if volume.affine is not None:
        lengths = np.linalg.norm(volume.affine[:3, :3], axis=0)
        size = " of " + "x".join(f"{v:.3g}" for v in lengths) + " mm"
    values = "in color" if window is None else f"values {window} become black to white (--range)"
    return f"{voxels} voxels{size}, {values}"
