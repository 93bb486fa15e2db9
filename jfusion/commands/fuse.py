"""`jfusion fuse A B`: two images, or two folders of images, without a data set.

What the command does is in `jfusion/fusing/`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal

from jfusion import inference
from jfusion.config import CommandOptions, option_of, setting
from jfusion.data import image
from jfusion.data.layout import task as check_task
from jfusion.data.thermal import Unit
from jfusion.errors import UserError, counted, printable
from jfusion.fusing import inputs
from jfusion.fusing.images import Outcome
from jfusion.fusing.plan import LISTED
from jfusion.fusing.task import SIDES
from jfusion.systems import registry

EPILOG = "jfusion fuse ir vi writes fused/<name>.png. The settings of a method: jfusion fuse --method NAME --help"


def _aliases(i: int) -> tuple[str, ...]:
    return ("--" + "ab"[i], *(f"--{names[i]}" for names in SIDES.values()))


@dataclass(frozen=True)
class Options(CommandOptions):
    """The images, the method, and what is written."""

    RENAMED: ClassVar[dict[str, str]] = {
        "rainbow": "pseudo_color",
        "preflight": "check_alignment",
    }

    a: str = setting(
        "",
        "A (infrared, MRI, over-exposed, near, ...): an image, a folder of images, a video or a volume",
        "PATH",
        positional=True,
        aliases=_aliases(0),
    )
    b: str = setting(
        "",
        "B (visible, PET, under-exposed, far, ...): the same, names as in A",
        "PATH",
        positional=True,
        aliases=_aliases(1),
    )
    a_alias: str = setting("", "", hidden=True)
    b_alias: str = setting("", "", hidden=True)
    out: str = setting(
        "fused",
        "folder for the results, or the name of a single one (.png, .jpg, .tif, .mp4, .nii.gz, ...)",
        "PATH",
        aliases=("-o",),
    )
    task: str | None = setting(
        None,
        "IVF, MIF, MEF, MFF, NIR or PIF: what the images are of (default: guessed from the images)",
    )
    system: str | None = setting(
        None,
        "what fuses: see jfusion systems; needed with the authors' checkpoints (default: the "
        "checkpoint's own; without --weights the best for the task)",
        "NAME",
        aliases=("--method",),
    )
    weights: str | None = setting(
        None,
        "weights that come with jfusion (jfusion weights), a checkpoint (ours or the authors'), a run "
        "folder, or a folder of runs such as exp: the newest",
        "PATH",
    )
    text: str | None = setting(
        None,
        "for a system that reads a paragraph: a sentence, a .txt file, a folder of <name>.txt or "
        "<name>.npy, or zeros (default: a paragraph that suits the task)",
        "TEXT",
    )
    color: Literal["auto", "a", "b", "none"] = setting(
        "auto", "whose color the result keeps (default: auto, that of the image that has color)"
    )
    size_of: Literal["a", "b"] | None = setting(
        None, "whose size the result has where both differ (default: b)"
    )
    size: str | None = setting(
        None, "resample both images to this size (default: that of B)", "HEIGHTxWIDTH"
    )
    bits: Literal[8, 16] = setting(8, "bits of the result: 8, or 16 as PNG or TIFF")
    clip: bool = setting(
        False, "the images of the two folders are the frames of a clip: one brightness for all"
    )
    fps: float = setting(25.0, "frames per second of folders of frames", above=0)
    steady: bool = setting(True, "of a clip: keep still what rests in both")
    overwrite: bool = setting(False, "replace results that are there already")
    skip_bad: bool = setting(False, "leave out pairs that cannot be fused, and fuse the others")
    dry_run: bool = setting(False, "print what would be done, and do nothing")
    seed: int | None = setting(None, "fixes what is random (default: the paper's)")
    pseudo_color: Literal["none", "a", "b"] = setting(
        "none", "the gray image that gets the colors of OpenCV's colormap JET first"
    )
    background: Literal["jet", "black"] = setting(
        "jet", "with --pseudo-color, what 0 becomes: jet's dark blue, or black"
    )
    unit: str = setting(
        "counts",
        "what gray images of more than 8 bits hold: counts, celsius, kelvin, or the Kelvin of one count, such "
        "as 0.01K",
        "UNIT",
    )
    palette: Literal["white-hot", "black-hot", "iron", "rainbow"] | None = setting(
        None, "also write an overlay: the fused image with these colors where A is hot"
    )
    blend: float = setting(0.6, "with --palette, the part of its colors, from 0 to 1", least=0)
    hotter_than: float | None = setting(
        None,
        "with --palette, from which temperature in degrees Celsius, or level 0..255 where there is none, A is "
        "hot (default: the middle of the range)",
        "T",
    )
    align: Literal["none", "shift"] = setting(
        "none", "shift: move A by the whole pixels by which it seems to be shifted, up to 32"
    )
    calib: str | None = setting(
        None,
        "a calibration (JSON, OpenCV's YAML) that lays A on B; jfusion align makes one",
        "FILE",
    )
    series_a: str | None = setting(
        None,
        "of several DICOM series in the folder A, the one whose UID or description begins so",
        "TEXT",
    )
    series_b: str | None = setting(None, "the same for the folder B", "TEXT")
    check_alignment: bool = setting(
        True, "say so when the two images seem to be shifted by a few pixels"
    )
    samples: int = setting(1, "results per pair, of a system that samples")
    record: Literal["gif", "webp", "png"] | None = setting(
        None, "also keep an image of every step, of a system that samples"
    )
    report: bool = setting(
        False, "also write report.html: every pair with a divider, metrics, and the settings"
    )
    allow_partial: bool = inference.allow_partial_setting()
    range: str = image.range_setting()
    max_pixels: float = image.max_pixels_setting()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.a and self.b):
            raise UserError(
                "name two images, or two folders with images of the same names: jfusion fuse A B"
            )
        if self.task is not None:
            check_task(self.task)
        if self.system is not None:
            registry.check_name(self.system)
        if self.samples < 1:
            raise UserError(f"--samples must be 1 or more, not {self.samples}")
        if self.blend > 1:
            raise UserError(f"--blend must be from 0 to 1, not {self.blend:g}")
        self._check_companions()
        Unit.parse(self.unit)
        if self.size and self.size_of:
            raise UserError("--size and --size-of exclude each other; leave out one")

    def _check_companions(self) -> None:
        """Raises UserError for an option that does nothing without another one."""
        for name in ("hotter_than", "blend"):
            if getattr(self, name) != getattr(type(self), name) and self.palette is None:
                raise UserError(
                    f"{option_of(name)} is for the overlay of --palette; name a palette, such as iron"
                )
        if self.background != type(self).background and self.pseudo_color == "none":
            raise UserError("--background is for --pseudo-color; name the image: --pseudo-color a")


def system_of(values: Mapping[str, Any]) -> str | None:
    """The system whose settings are offered: the one named or the checkpoint's own; None without both."""
    if values.get("weights") is None and values.get("system") is None:
        return None
    return inference.system_of(values.get("weights"), values.get("system"))


def run(options: Options, settings: Mapping[str, Any]) -> int:
    """Fuses, prints what was written, and lists what failed; returns 2 if anything did."""
    outcome = fuse(options, settings)
    if options.dry_run:
        return 0
    written, failed = outcome.written, outcome.failed
    if len(failed) == 1 and not (written or outcome.kept):
        raise UserError(*failed.values())
    place = written[0] if len(written) == 1 else Path(options.out)
    if written:
        print(f"{len(written)} fused: {printable(place, 4000)}")
    if failed:
        pairs = counted(len(failed), "pair")
        print(f"jfusion: {pairs} failed:", file=sys.stderr)
        for name, reason in list(failed.items())[:LISTED]:
            print(printable(f"  {name}: {reason}", 1000), file=sys.stderr)
    return 2 if failed else 0


def fuse(options: Options, settings: Mapping[str, Any] | None = None) -> Outcome:
    """Fuses what A and B hold, and returns what was written; `settings` change those of the system.

    Each kind of input is a module of `jfusion.fusing` that has such a function, imported when it is
    needed. Raises UserError for anything that is known to be wrong before the first pair is fused.
    """
    kind = import_module(f"jfusion.fusing.{inputs.kind_of(options)}")
    return kind.fuse(options, settings or {})
