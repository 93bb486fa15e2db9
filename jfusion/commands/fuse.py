"""`jfusion fuse`: two images, or two folders of images, without a data set."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from jfusion import inference
from jfusion.config import REQUIRED, CommandOptions, setting
from jfusion.data import image
from jfusion.data.depth import recorded_ranges
from jfusion.data.h5 import Pair
from jfusion.data.layout import find_pairs, task
from jfusion.errors import printable
from jfusion.files import check_output
from jfusion.systems import registry
from jfusion.text.features import read_features


@dataclass(frozen=True)
class Options(CommandOptions):
    """The images, the checkpoint, and what is written."""

    RENAMED: ClassVar[dict[str, str]] = {
        "rainbow": "pseudo_color",
        "preflight": "check_alignment",
    }

    a: str = setting(REQUIRED, "images A (infrared, MRI, ...): a file or a folder", "PATH")
    b: str = setting(REQUIRED, "images B (visible, PET, ...): the same, names as in A", "PATH")
    weights: str | None = setting(
        None,
        "a checkpoint (ours or the authors'), a run folder, or a folder of runs: the newest "
        "(default: exp)",
        "PATH",
    )
    out: str = setting("fused", "folder for the fused images", "DIR")
    system: str | None = setting(
        None,
        f"see jfusion systems; needed with the authors' checkpoints and for methods without weights (default: the checkpoint's own, else {registry.DEFAULT})",
        "NAME",
    )
    text: str | None = setting(
        None, "folder of paragraph features, <name>.npy, for a system that reads them", "DIR"
    )
    task: str = setting("IVF", "IVF, MIF, MEF, MFF, NIR or PIF: decides whose color is kept")
    seed: int | None = setting(None, "fixes what is random (default: the paper's)")
    pseudo_color: Literal["none", "a", "b"] = setting(
        "none", "the gray image that gets the colors of OpenCV's colormap JET first"
    )
    background: Literal["jet", "black"] = setting(
        "jet", "with --pseudo-color, what 0 becomes: jet's dark blue, or black"
    )
    check_alignment: bool = setting(
        True, "say so when the two images seem to be shifted by a few pixels"
    )
    samples: int = setting(1, "results per pair, of a system that samples")
    record: Literal["gif", "webp", "png"] | None = setting(
        None, "also keep an image of every step, of a system that samples"
    )
    allow_partial: bool = setting(
        False, "load the tensors of the checkpoint that fit, and print what was skipped"
    )
    range: str = image.range_setting()
    max_pixels: float = image.max_pixels_setting()


def system_of(values: Mapping[str, Any]) -> str:
    """The system whose settings are offered: the one named, the checkpoint's own, or the default."""
    return inference.system_of(values.get("weights"), values.get("system"))


def run(options: Options, settings: Mapping[str, Any]) -> int:
    """Fuses, and prints what was written."""
    written = fuse(options, settings)
    place = written[0] if len(written) == 1 else options.out
    print(f"{len(written)} fused: {printable(place, 4000)}")
    return 0


def fuse(options: Options, settings: Mapping[str, Any] | None = None) -> list[Path]:
    """Fuses every pair of images of one name, and returns the written files.

    settings change the configuration of the system. Raises UserError for images without a partner,
    of unequal size or unreadable, and for a checkpoint or an option that does not fit the system.
    """
    from tqdm import tqdm

    task(options.task)
    pairs = find_pairs(options.a, options.b)
    check_output(options.out, "the fused images", folder=True)
    path = inference.find_checkpoint(options.weights, options.system)
    content = inference.read_checkpoint(path)
    reader = image.Reader(options.range, options.max_pixels, recorded_ranges(content))
    for i, side in enumerate("ab", 1):
        reader.prepare([pair[i] for pair in pairs], side)
    system = inference.from_checkpoint(
        path, content, options.system, settings, options.allow_partial
    )
    inference.check_sampling_options(system, options.samples, options.record)
    written, out = [], Path(options.out)
    for name, a, b in tqdm(pairs, desc="fusing", unit="pair", disable=len(pairs) == 1):
        pair = _read(name, a, b, options, reader)
        if options.check_alignment:
            inference.warn_if_misaligned(pair)
        with ExitStack() as stack:
            callback = inference.step_callback(system, pair, stack, options.record, out / "steps")
            fused = inference.fuse_pair(system, pair, options.seed, options.samples, callback)
        for i, one in enumerate(fused):
            path = out / (f"{name}.png" if len(fused) == 1 else f"{name}_{i}.png")
            image.write(path, one.image)
            written.append(path)
    return written


def _read(name: str, a: Path, b: Path, options: Options, reader: image.Reader) -> Pair:
    text = read_features(Path(options.text, f"{name}.npy")) if options.text else None
    rgb = reader.pair(a, b, options.pseudo_color, options.background)
    return Pair.of_images(name, *rgb, text, task(options.task).chroma)
