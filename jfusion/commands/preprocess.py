"""From folders of pairs to one H5 file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from jfusion.config import setting
from jfusion.data import color, image
from jfusion.data.alignment import find_shift
from jfusion.data.h5 import PATCH_GROUPS, SCHEMA, Pair
from jfusion.data.layout import Sample, find_samples, task
from jfusion.errors import UserError
from jfusion.files import remove_left, replacing, writing
from jfusion.text.encoders import check_name
from jfusion.text.features import Options as EmbedOptions
from jfusion.text.features import Record, embed, read_features
from jfusion.version import __version__

T = TypeVar("T")
SMALL = (288, 384)  # the size of the reference's training images


@dataclass(frozen=True)
class Options:
    """What `jfusion preprocess` is asked for."""

    task: str = setting("IVF", "IVF, MIF, MEF, MFF, NIR or PIF")
    dataset: str = setting("MSRS", "folder name of the data set")
    split: str = setting(
        "train", "name of the list file without .txt; all: every image of the first folder"
    )
    root: str = setting("VLFDataset", "the folder that holds Image/ and TextFeature/")
    out: str | None = setting(
        None, "the H5 file to write; default VLFDataset_h5/<dataset>_<split>[_patches<N>].h5"
    )
    size: str = setting(
        "auto",
        "auto: 288x384 for the split train (MIF: native), native otherwise; or small, native, or "
        "HEIGHTxWIDTH (such as 256x256: resized as OpenCV does, in colour)",
    )
    text: str = setting(
        "features",
        "features: the .npy files under TextFeature; an encoder's name (minilm, blip2, ...): make them "
        "from the paragraphs under Text first; zeros: a marked stand-in",
    )
    text_dim: int = setting(768, "width of the features with --text zeros")
    chroma: str = setting(
        "auto", "whose colour is kept for the fused image: a, b, weighted, none; auto: by task"
    )
    rainbow: str = setting(
        "none",
        "a or b: give this gray image the colours of OpenCV's JET table (Diff-FCCF: CT-MRI, ADNI)",
    )
    background: str = setting(
        "jet", "with --rainbow, what 0 becomes: jet (dark blue, as published) or black"
    )
    patches: int | None = setting(
        None, "cut square patches of this side (CDDFuse, SFDFuse: 128) in the place of whole images"
    )
    stride: int = setting(200, "distance of the patches' corners")
    preflight: bool = setting(
        True,
        "look for pairs whose images lie a few pixels apart, and list them (docs/alignment.md)",
    )
    skip_bad: bool = setting(
        False, "go on without a pair that cannot be used, and list them at the end"
    )


@dataclass(frozen=True)
class Result:
    """What was done: the file, its number of pairs, what was skipped and why, which pairs look
    misaligned, and whether it was new."""

    path: Path
    samples: int
    skipped: list[str]
    misaligned: list[str]
    written: bool


def preprocess(options: Options) -> Result:
    """Writes the H5 file of one split; does nothing when the file is up to date.

    Raises UserError for the first pair that is missing, unreadable or of unequal size, unless
    `skip_bad`; the file appears under its name only when it is complete.
    """
    _check_options(options)
    samples = find_samples(Path(options.root), options.task, options.dataset, options.split)
    if options.text not in ("features", "zeros"):
        embed(EmbedOptions(options.task, options.dataset, options.root, options.text))
    patched = f"_patches{options.patches}" if options.patches else ""
    default = f"VLFDataset_h5/{Path(options.dataset).name}_{options.split}{patched}.h5"
    out = Path(options.out or default)
    fingerprint = _fingerprint(options, samples)
    done = _up_to_date(out, fingerprint)
    if done is not None:
        return Result(out, *done, written=False)
    remove_left(out.parent)
    write = _write if options.patches is None else _write_patches
    with replacing(out, "the H5 file") as temporary:
        try:
            found = write(temporary, options, samples, fingerprint)
        except RuntimeError as error:  # h5py, when closing a file fails: a full disk
            raise writing("the H5 file", out, error) from error
    return Result(out, *found, written=True)


def _check_options(options: Options) -> None:
    task(options.task)
    if options.text not in ("features", "zeros"):
        check_name(options.text)
    if options.patches is not None and (options.patches < 2 or options.stride < 1):
        raise UserError("--patches must be 2 or more and --stride 1 or more")
    for name, allowed in (
        ("size", ("auto", "small", "native", *re.findall(r"^\d+x\d+$", options.size))),
        ("chroma", ("auto", "a", "b", "weighted", "none")),
    ):
        if getattr(options, name) not in allowed:
            raise UserError(
                f"--{name} must be one of {', '.join(allowed)}, not {getattr(options, name)!r}"
            )


def _fingerprint(options: Options, samples: list[Sample]) -> str:
    """Changes when the options or any source file (by size and time of change) do."""
    chosen = {k: v for k, v in asdict(options).items() if k not in ("out", "root")}
    state = [json.dumps([SCHEMA, chosen], sort_keys=True)]
    for sample in samples:
        for path in (sample.a, sample.b, sample.text):
            status = path.stat() if path.exists() else None
            state.append(f"{path.name} {status and (status.st_size, status.st_mtime_ns)}")
    return hashlib.sha256("\n".join(state).encode()).hexdigest()


def _up_to_date(out: Path, fingerprint: str) -> tuple[int, list[str], list[str]] | None:
    """(samples, skipped, misaligned) of a finished file with this fingerprint."""
    import h5py

    try:
        with h5py.File(out, "r") as file:
            if file.attrs.get("fingerprint") == fingerprint:
                group = PATCH_GROUPS[0] if PATCH_GROUPS[0] in file else "imageA"
                lists = (json.loads(file.attrs[k]) for k in ("skipped", "misaligned"))
                return len(file[group]), *lists
    except (OSError, KeyError):
        pass
    return None


def _readable(
    samples: list[Sample],
    options: Options,
    skipped: list[str],
    read: Callable[[Sample, Options], T],
) -> Iterator[tuple[Sample, T]]:
    """Each sample with what `read` makes of it; with `skip_bad`, the others go to `skipped`."""
    from tqdm import tqdm

    for sample in tqdm(samples, desc=f"{options.dataset} {options.split}", unit="pair"):
        try:
            value = read(sample, options)
        except UserError as error:
            if not options.skip_bad:
                raise UserError(
                    f"sample {sample.name!r}: {error} (--skip-bad goes on without it)"
                ) from error
            skipped.append(f"{sample.name}: {error}")
            continue
        yield sample, value


def _write(
    path: Path, options: Options, samples: list[Sample], fingerprint: str
) -> tuple[int, list[str], list[str]]:
    import h5py

    skipped, misaligned, lengths = [], [], set()
    with h5py.File(path, "w") as file:
        for sample, arrays in _readable(samples, options, skipped, _arrays):
            lengths.add(arrays["text"].shape[1:])
            shift = options.preflight and find_shift(*(arrays[f"image{x}"][0] for x in "AB"))
            if shift and shift.suspicious:
                misaligned.append(f"{sample.name}: {shift}")
            for group, array in arrays.items():
                file.require_group(group).create_dataset(sample.name, data=array)
        if not lengths:
            raise UserError(
                f"none of the {len(samples)} pairs can be used; the first: {skipped[0]}"
            )
        if len({width for _, width in lengths}) > 1:
            raise UserError(
                f"paragraph features of several widths: {sorted(lengths)}; make them with one encoder"
            )
        file.attrs.update(
            **_origin(options, fingerprint, skipped, misaligned),
            **_encoder(options),
            text_dim=next(iter(lengths))[1],
            text_length=max(length for length, _ in lengths),
            size=_size(options),
        )
    return len(samples) - len(skipped), skipped, misaligned


def _origin(
    options: Options, fingerprint: str, skipped: list[str], misaligned: list[str]
) -> dict[str, object]:
    """The attributes that every file has."""
    return {
        "schema": SCHEMA,
        "task": options.task,
        "chroma": task(options.task).chroma if options.chroma == "auto" else options.chroma,
        "dataset": Path(options.dataset).name,
        "split": options.split,
        "made_by": f"jfusion {__version__}",
        "fingerprint": fingerprint,
        "skipped": json.dumps(skipped),
        "misaligned": json.dumps(misaligned),
    }


def _write_patches(
    path: Path, options: Options, samples: list[Sample], fingerprint: str
) -> tuple[int, list[str], list[str]]:
    """The schema of CDDFuse's training set: groups ir_patchs and vis_patchs, names "0", "1", ..."""
    import h5py

    skipped, count, rejected = [], 0, 0
    with h5py.File(path, "w") as file:
        groups = [file.create_group(name) for name in PATCH_GROUPS]
        for _, rgb in _readable(samples, options, skipped, _both):
            pair = [_luma(x / np.float32(255)) for x in rgb]
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
                f"({rejected} without); take smaller --patches"
            )
        file.attrs.update(
            **_origin(options, fingerprint, skipped, []),
            patches=options.patches,
            stride=options.stride,
            rejected=rejected,
        )
    return count, skipped, []


def _luma(rgb: np.ndarray) -> np.ndarray:
    """Not rounded, as CDDFuse's script; a gray image stays as it is."""
    if not color.is_color(rgb):
        return rgb[..., 0]
    return 0.299 * rgb[..., 0] + 0.587 * rgb[..., 1] + 0.114 * rgb[..., 2]


def patches(
    a: np.ndarray, b: np.ndarray, side: int, stride: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same square windows of both images (H, W), row by row."""
    for row in range(0, a.shape[0] - side + 1, stride):
        for column in range(0, a.shape[1] - side + 1, stride):
            window = slice(row, row + side), slice(column, column + side)
            yield a[window], b[window]


def low_contrast(patch: np.ndarray) -> bool:
    """Whether (p90 - p10) / p90 < 0.1; an all-black patch is not, as in the reference (0/0)."""
    low, high = np.percentile(patch, (10, 90))
    return bool(high != 0 and (high - low) / high < 0.1)


def _encoder(options: Options) -> dict[str, str]:
    """Who made the features: the encoder, its commit, the hash of its weights."""
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


def _size(options: Options) -> str:
    if options.size != "auto":
        return options.size
    return "small" if options.split == "train" and task(options.task).resized else "native"


def _arrays(sample: Sample, options: Options) -> dict[str, np.ndarray]:
    """What the file holds of one sample, by group."""
    rgb = _both(sample, options)
    text = _text(sample, options)
    if "x" in options.size:
        rgb = [image.resize_8bit(x, *map(int, options.size.split("x"))) for x in rgb]
    if _size(options) == "small":
        a, b = (x[None] / np.float32(255) for x in _shrink(*(color.gray(x) for x in rgb)))
        return {"imageA": a, "imageB": b, "text": text}
    pair = Pair.of_images(sample.name, *rgb, None, "none")
    colours = {"rgbA": pair.rgb_a, "rgbB": pair.rgb_b}
    kept = {k: v for k, v in colours.items() if v is not None}
    return {"imageA": pair.a, "imageB": pair.b, "text": text, **kept}


def _both(sample: Sample, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Both images in RGB, one of them in pseudo-colours if that is asked for."""
    return image.read_pair(sample.a, sample.b, options.rainbow, options.background)


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
            f"paragraph features {sample.text} do not exist; make them with: jfusion embed --task {options.task} --dataset "
            f"{options.dataset} (--text zeros goes on without paragraphs)"
        )
    return read_features(sample.text)[None]
