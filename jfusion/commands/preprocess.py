"""`jfusion preprocess`: from folders of pairs to one H5 file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np

from jfusion.commands.embed import Options as EmbedOptions
from jfusion.commands.embed import embed
from jfusion.config import CommandOptions, setting
from jfusion.data import color, image
from jfusion.data.alignment import find_shift
from jfusion.data.depth import Range
from jfusion.data.h5 import PATCH_GROUPS, SCHEMA, Pair, created
from jfusion.data.layout import Sample, find_samples, task
from jfusion.data.patches import low_contrast, patches
from jfusion.errors import UserError
from jfusion.files import check_output, remove_left, replacing, writing
from jfusion.text.encoders import check_name
from jfusion.text.features import Record, read_features
from jfusion.version import __version__

T = TypeVar("T")
SMALL = (288, 384)  # the size of the reference's training images
LISTED = 10  # misaligned pairs that are printed


@dataclass(frozen=True)
class Options(CommandOptions):
    """The data set, and how its pairs are stored."""

    RENAMED: ClassVar[dict[str, str]] = {
        "rainbow": "pseudo_color",
        "preflight": "check_alignment",
    }

    task: str = setting("IVF", "IVF, MIF, MEF, MFF, NIR or PIF")
    dataset: str = setting("MSRS", "folder name of the data set", "NAME")
    split: str = setting(
        "train", "name of the list file without .txt; all: every image of the first folder", "NAME"
    )
    root: str = setting("VLFDataset", "the folder that holds Image/ and TextFeature/", "DIR")
    out: str | None = setting(
        None,
        "the H5 file to write (default: VLFDataset_h5/<dataset>_<split>[_patches<N>].h5)",
        "FILE",
    )
    size: str = setting(
        "auto",
        "auto: 288x384 for the split train (MIF: native), native otherwise; or small, native, or "
        "HEIGHTxWIDTH (such as 256x256: resized as OpenCV does, in color)",
    )
    text: str = setting(
        "features",
        "features: the .npy files under TextFeature; an encoder's name (minilm, blip2, ...): make them "
        "from the paragraphs under Text first; zeros: placeholders, recorded as such",
    )
    text_dim: int = setting(768, "width of the features with --text zeros")
    chroma: Literal["auto", "a", "b", "weighted", "none"] = setting(
        "auto", "whose color the fused image gets; auto: by task"
    )
    pseudo_color: Literal["none", "a", "b"] = setting(
        "none",
        "the gray image that gets the colors of OpenCV's colormap JET (Diff-FCCF: CT-MRI, ADNI)",
    )
    background: Literal["jet", "black"] = setting(
        "jet", "with --pseudo-color, what 0 becomes: jet's dark blue, as published, or black"
    )
    patches: int | None = setting(
        None,
        "store square patches of this side (CDDFuse, SFDFuse: 128) instead of whole images "
        "(default: whole images)",
    )
    stride: int = setting(200, "distance of the patches' corners")
    check_alignment: bool = setting(
        True, "list the pairs whose images seem to be shifted by a few pixels (docs/alignment.md)"
    )
    skip_bad: bool = setting(
        False, "continue without a pair that cannot be used, and list those at the end"
    )
    range: str = image.range_setting()
    max_pixels: float = image.max_pixels_setting()


@dataclass(frozen=True)
class Result:
    """The file, its number of pairs, and whether it was written now or was up to date.

    skipped: the samples that are not in it, and why; misaligned: those that look misaligned.
    """

    path: Path
    samples: int
    skipped: list[str]
    misaligned: list[str]
    written: bool


class _Content(NamedTuple):
    """What a finished file holds, as the fields of a `Result`."""

    samples: int
    skipped: list[str]
    misaligned: list[str]


def run(options: Options) -> int:
    """Writes the file, and prints what is in it and what is not."""
    result = preprocess(options)
    state = "written" if result.written else "is up to date"
    print(f"{result.path} {state}: {result.samples} pairs")
    if options.text == "zeros":
        print(
            "note: the text features are zeros (no paragraphs); the file's attribute `encoder` says so"
        )
    for line in result.skipped:
        print(f"  skipped {line}")
    if result.misaligned:
        count, more = len(result.misaligned), len(result.misaligned) - LISTED
        print(f"note: {count} of {result.samples} pairs look misaligned (see docs/alignment.md):")
        for line in result.misaligned[:LISTED] + ([f"and {more} more"] if more > 0 else []):
            print(f"  {line}")
    return 0


def preprocess(options: Options, ranges: Mapping[str, Range] | None = None) -> Result:
    """Writes the H5 file of one split; does nothing when the file is up to date.

    ranges: the ranges of values of the sides "a" and "b" that a system was trained with, which win over
    `--range auto`: a test set is read as the training set was. Raises UserError for the first pair that is missing, unreadable or of unequal size, unless
    `skip_bad`; the file appears under its name only when it is complete.
    """
    _check_options(options)
    samples = find_samples(Path(options.root), options.task, options.dataset, options.split)
    if options.text not in ("features", "zeros"):
        embed(EmbedOptions(options.task, options.dataset, options.root, options.text))
    patched = f"_patches{options.patches}" if options.patches else ""
    default = f"VLFDataset_h5/{Path(options.dataset).name}_{options.split}{patched}.h5"
    out = Path(options.out or default)
    reader = image.Reader(options.range, options.max_pixels, ranges)
    fingerprint = _fingerprint(options, samples, ranges)
    done = _up_to_date(out, fingerprint)
    if done is not None:
        return Result(out, *done, written=False)
    check_output(out, "the H5 file", _size_of(samples, options))
    remove_left(out.parent)
    for side in "ab":
        reader.prepare([getattr(sample, side) for sample in samples], side)
    write = _write_images if options.patches is None else _write_patches
    with replacing(out, "the H5 file", "H5 file") as temporary:
        try:
            content = write(temporary, options, samples, fingerprint, reader)
        except RuntimeError as error:  # h5py, when closing a file fails: a full disk
            raise writing("the H5 file", out, error) from error
    return Result(out, *content, written=True)


def _size_of(samples: list[Sample], options: Options) -> int:
    """About how many bytes the file will have, by the size of the first pair's images."""
    try:
        pixels = image.pixels_of(samples[0].a)
    except UserError:  # reading it says what is wrong
        return 1 << 20
    pixels = SMALL[0] * SMALL[1] if _size(options) == "small" else pixels
    return len(samples) * pixels * 8


def _check_options(options: Options) -> None:
    task(options.task)
    if options.text not in ("features", "zeros"):
        check_name(options.text)
    if options.patches is not None and (options.patches < 2 or options.stride < 1):
        raise UserError("--patches must be 2 or more and --stride 1 or more")
    if not re.fullmatch(r"auto|small|native|\d+x\d+", options.size):
        raise UserError(
            "--size must be one of auto, small, native, or HEIGHTxWIDTH such as 256x256, not "
            f"{options.size!r}"
        )


def _fingerprint(
    options: Options, samples: list[Sample], ranges: Mapping[str, Range] | None
) -> str:
    """A hash that changes when the options or any source file (by size and time of change) do."""
    chosen = {k: v for k, v in asdict(options).items() if k not in ("out", "root")}
    state = [json.dumps([SCHEMA, chosen, dict(ranges or {})], sort_keys=True)]
    for sample in samples:
        for path in (sample.a, sample.b, sample.text):
            status = path.stat() if path.exists() else None
            state.append(f"{path.name} {status and (status.st_size, status.st_mtime_ns)}")
    return hashlib.sha256("\n".join(state).encode()).hexdigest()


def _up_to_date(out: Path, fingerprint: str) -> _Content | None:
    """The content of a finished file with this fingerprint; None when there is none."""
    import h5py

    try:
        with h5py.File(out, "r") as file:
            if file.attrs.get("fingerprint") == fingerprint:
                group = PATCH_GROUPS[0] if PATCH_GROUPS[0] in file else "imageA"
                lists = (json.loads(file.attrs[k]) for k in ("skipped", "misaligned"))
                return _Content(len(file[group]), *lists)
    except (OSError, KeyError):
        pass
    return None


# ---- writing -----------------------------------------------------------------------------------


def _origin(
    options: Options, fingerprint: str, content: _Content, reader: image.Reader
) -> dict[str, Any]:
    """The attributes that every file has."""
    return {
        "schema": SCHEMA,
        "task": options.task,
        "chroma": task(options.task).chroma if options.chroma == "auto" else options.chroma,
        "dataset": Path(options.dataset).name,
        "split": options.split,
        "made_by": f"jfusion {__version__}",
        "fingerprint": fingerprint,
        "skipped": json.dumps(content.skipped),
        "misaligned": json.dumps(content.misaligned),
        **{f"range_{side}": str(r) for side, r in reader.ranges.items() if r is not None},
    }


def _readable(
    samples: list[Sample],
    options: Options,
    skipped: list[str],
    read: Callable[[Sample, Options, image.Reader], T],
    reader: image.Reader,
) -> Iterator[tuple[Sample, T]]:
    """Each sample with what `read` makes of it; with `skip_bad`, the others go to `skipped`."""
    from tqdm import tqdm

    for sample in tqdm(samples, desc=f"{options.dataset} {options.split}", unit="pair"):
        try:
            value = read(sample, options, reader)
        except UserError as error:
            if not options.skip_bad:
                raise UserError(
                    f"sample {sample.name!r}: {error} (--skip-bad continues without it)"
                ) from error
            skipped.append(f"{sample.name}: {error}")
            continue
        yield sample, value


def _write_images(
    path: Path, options: Options, samples: list[Sample], fingerprint: str, reader: image.Reader
) -> _Content:
    """The whole images with their features, by the schema of `data/h5.py`."""
    skipped, misaligned, shapes = [], [], set()
    with created(path) as file:
        for sample, arrays in _readable(samples, options, skipped, _arrays, reader):
            shapes.add(arrays["text"].shape[1:])
            if options.check_alignment:
                shift = find_shift(arrays["imageA"][0], arrays["imageB"][0])
                misaligned += [f"{sample.name}: {shift}"] if shift.suspicious else []
            for group, array in arrays.items():
                file.require_group(group).create_dataset(sample.name, data=array)
        if not shapes:
            raise UserError(
                f"none of the {len(samples)} pairs can be used; the first: {skipped[0]}"
            )
        if len({width for _, width in shapes}) > 1:
            raise UserError(
                f"paragraph features of several widths: {sorted(shapes)}; make them with one encoder"
            )
        content = _Content(len(samples) - len(skipped), skipped, misaligned)
        file.attrs.update(
            **_origin(options, fingerprint, content, reader),
            **_encoder(options),
            text_dim=next(iter(shapes))[1],
            text_length=max(length for length, _ in shapes),
            size=_size(options),
        )
    return content


def _write_patches(
    path: Path, options: Options, samples: list[Sample], fingerprint: str, reader: image.Reader
) -> _Content:
    """Patches, by the schema of CDDFuse's training set: groups ir_patchs and vis_patchs, names "0", ..."""
    skipped, count, rejected = [], 0, 0
    with created(path) as file:
        groups = [file.create_group(name) for name in PATCH_GROUPS]
        for _, rgb in _readable(samples, options, skipped, _both, reader):
            pair = [_gray(x) for x in rgb]
            for a, b in patches(*pair, options.patches, options.stride):
                if low_contrast(a) or low_contrast(b):
                    rejected += 1
                    continue
                for group, patch in zip(groups, (a, b), strict=True):
                    group.create_dataset(str(count), data=patch[None].astype(np.float32))
                count += 1
        if not count:
            raise UserError(
                f"no patch of {options.patches} pixels with enough contrast in {len(samples)} pairs "
                f"({rejected} without); choose smaller --patches"
            )
        content = _Content(count, skipped, [])
        file.attrs.update(
            **_origin(options, fingerprint, content, reader),
            patches=options.patches,
            stride=options.stride,
            rejected=rejected,
        )
    return content


def _encoder(options: Options) -> dict[str, str]:
    """The encoder that made the features: its name, its commit, the hash of its weights."""
    if options.text == "zeros":
        return {"encoder": "zeros"}
    record = Record.read(Path(options.root, "TextFeature", options.task, options.dataset))
    if record is None:
        return {"encoder": "not recorded"}
    return {
        "encoder": record.encoder,
        "encoder_revision": record.revision,
        "encoder_hash": record.hash,
    }


# ---- the arrays of one sample ------------------------------------------------------------------


def _size(options: Options) -> str:
    if options.size != "auto":
        return options.size
    return "small" if options.split == "train" and task(options.task).resized else "native"


def _arrays(sample: Sample, options: Options, reader: image.Reader) -> dict[str, np.ndarray]:
    """What the file holds of one sample, by group."""
    rgb = _both(sample, options, reader)
    text = _text(sample, options)
    if "x" in options.size:
        rgb = [image.resize_8bit(x, *map(int, options.size.split("x"))) for x in rgb]
    if _size(options) == "small":
        a, b = (x[None] / np.float32(255) for x in _shrink(*(color.gray(x) for x in rgb)))
        return {"imageA": a, "imageB": b, "text": text}
    pair = Pair.of_images(sample.name, *rgb, None, "none")
    colors = {"rgbA": pair.rgb_a, "rgbB": pair.rgb_b}
    stored = {k: v for k, v in colors.items() if v is not None}
    return {"imageA": pair.a, "imageB": pair.b, "text": text, **stored}


def _both(sample: Sample, options: Options, reader: image.Reader) -> tuple[np.ndarray, np.ndarray]:
    """Both images (H, W, 3) uint8, with the pseudo-colors that the options ask for."""
    return reader.pair(sample.a, sample.b, options.pseudo_color, options.background)


def _gray(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) float32 in [0, 1], the luma not rounded, as CDDFuse's script does."""
    scaled = rgb / np.float32(255)
    return color.luma(scaled) if color.is_color(rgb) else scaled[..., 0]


def _shrink(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """288x384; portrait and square images become 384x288 and are transposed, as in the reference."""
    if a.shape[0] < a.shape[1]:
        return image.resize(a, *SMALL), image.resize(b, *SMALL)
    return image.resize(a, *SMALL[::-1]).T, image.resize(b, *SMALL[::-1]).T


def _text(sample: Sample, options: Options) -> np.ndarray:
    """(1, L, D) float32."""
    if options.text == "zeros":
        return np.zeros((1, 1, options.text_dim), np.float32)
    if not sample.text.is_file():
        raise UserError(
            f"paragraph features {sample.text} do not exist; make them with: jfusion embed --task "
            f"{options.task} --dataset {options.dataset} (--text zeros does without paragraphs)"
        )
    return read_features(sample.text)[None]
