"""`jfusion preprocess`: from folders of pairs to one H5 file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np

from jfusion import processes
from jfusion.commands import describe as describing
from jfusion.commands.embed import Options as EmbedOptions
from jfusion.commands.embed import embed
from jfusion.config import CommandOptions, setting
from jfusion.data import color, image
from jfusion.data.alignment import Shift, find_shift
from jfusion.data.depth import Range
from jfusion.data.h5 import PATCH_GROUPS, SCHEMA, Pair, created
from jfusion.data.layout import Sample, find_samples, task
from jfusion.data.layouts import ALL, DataSet, data_set_of
from jfusion.data.patches import low_contrast, patches
from jfusion.data.splits import Hashes, comparison, duplicates, find_list
from jfusion.errors import UserError, counted
from jfusion.files import check_output, remove_left, replacing, writing
from jfusion.text.describe import existing, summary
from jfusion.text.encoders import check_name, is_folder
from jfusion.text.features import Encoder, Record, read_features
from jfusion.version import __version__

T = TypeVar("T")
SMALL = (288, 384)  # the size of the reference's training images
LISTED = 10  # misaligned pairs, and copies of files, that are printed
# options that do not change what the file holds, or whose effect is in the files that it is made of
FREE = {
    *("out", "root", "from_", "a", "b", "name"),
    *("describe", "base_url", "model", "api_key_env", "encoder"),
}


@dataclass(frozen=True)
class Options(CommandOptions):
    """The data set, and how its pairs are stored."""

    RENAMED: ClassVar[dict[str, str]] = {
        "rainbow": "pseudo_color",
        "preflight": "check_alignment",
    }

    task: str | None = setting(
        None, "IVF, MIF, MEF, MFF, NIR or PIF (default: IVF; with --from, that of its layout)"
    )
    dataset: str | None = setting(
        None, "folder name of the data set under --root (default: MSRS)", "NAME"
    )
    split: str | None = setting(
        None,
        "name of the list file without .txt; all: every image of the first folder (default: train; with "
        "--from, a file for each split that there is)",
        "NAME",
    )
    root: str = setting("VLFDataset", "the folder that holds Image/, Text/ and TextFeature/", "DIR")
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
        "from the paragraphs under Text first; 'a sentence of words': the same for every pair; zeros: "
        "placeholders, recorded as such",
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
    from_: str | None = describing.from_setting()
    a: str | None = describing.side_setting("a")
    b: str | None = describing.side_setting("b")
    name: str | None = describing.name_setting()
    encoder: str = setting("minilm", "with --text 'a sentence', the encoder that reads it")
    describe: bool = setting(
        False,
        "first let a vision-language model write the paragraphs that are missing, for --text ENCODER "
        "(jfusion describe has more options)",
    )
    base_url: str | None = describing.base_url_setting()
    model: str | None = describing.model_setting()
    api_key_env: str | None = describing.key_setting()


@dataclass(frozen=True)
class Result:
    """The file, its number of pairs, and whether it was written now or was up to date.

    skipped: the samples that are not in it, and why; misaligned: those that look misaligned; remarks:
    what the hashes of the files say.
    """

    path: Path
    samples: int
    skipped: list[str]
    misaligned: list[str]
    remarks: list[str]
    written: bool


class _Content(NamedTuple):
    """What a finished file holds, as the fields of a `Result`."""

    samples: int
    skipped: list[str]
    misaligned: list[str]
    remarks: list[str]


class _Source(NamedTuple):
    """What a file is made from: the samples, those left out before, and what the hashes say."""

    samples: list[Sample]
    skipped: list[str]
    remarks: list[str]


def run(options: Options) -> int:
    """Writes the files, and prints what is in them and what is not."""
    data = data_set_of(options)
    if options.from_ or options.a:
        print(data.why)
    for result in preprocess_all(options, data):
        _print(result, options)
    return 0


def _print(result: Result, options: Options) -> None:
    state = "written" if result.written else "is up to date"
    print(f"{result.path} {state}: {counted(result.samples, 'pair')}")
    if options.text == "zeros":
        print(
            "note: the text features are zeros (no paragraphs); the file's attribute `encoder` says so"
        )
    for line in result.skipped:
        print(f"  skipped {line}")
    for line in _shortened(result.remarks):
        print(f"  {line}")
    if result.misaligned:
        print(
            f"note: {len(result.misaligned)} of {counted(result.samples, 'pair')} may be misaligned (see "
            "docs/alignment.md):"
        )
        for line in _shortened(result.misaligned):
            print(f"  {line}")


def _shortened(lines: list[str]) -> list[str]:
    more = len(lines) - LISTED
    return lines[:LISTED] + ([f"and {more} more"] if more > 0 else [])


def preprocess(options: Options, ranges: Mapping[str, Range] | None = None) -> Result:
    """Writes the H5 file of one split, "train" by default; see `preprocess_all`."""
    (result,) = preprocess_all(replace(options, split=options.split or "train"), ranges=ranges)
    return result


def preprocess_all(
    options: Options, data: DataSet | None = None, ranges: Mapping[str, Range] | None = None
) -> list[Result]:
    """Writes the H5 file of each split; does nothing where the file is up to date.

    data: the data set of the options, if it has been opened. ranges: the ranges of values of the sides
    "a" and "b" that a system was trained with, which win over `--range auto`: a test set is read as the
    training set was. Raises UserError for the first pair that is missing, unreadable or of unequal size, unless
    `skip_bad`; a file appears under its name only when it is complete.
    """
    _check_options(options)
    data = data or data_set_of(options)
    splits = [options.split] if options.split else list(data.splits)
    if options.out and len(splits) > 1:
        raise UserError(
            f"--out is one file, and {data.name} has the splits {', '.join(splits)}; choose one with --split"
        )
    options = replace(options, task=data.task, dataset=options.dataset or data.name)
    if options.describe:
        describing.describe(describing.connection(options, options.split or ALL), data)
    if options.text not in ("features", "zeros") and not _is_sentence(options.text):
        partial = options.describe or options.skip_bad
        embed(EmbedOptions(options.task, options.dataset, options.root, options.text), partial)
    return [_preprocess(replace(options, split=split), data, ranges) for split in splits]


def _preprocess(options: Options, data: DataSet, ranges: Mapping[str, Range] | None) -> Result:
    """Writes the H5 file of the split that the options name."""
    samples, skipped = data.samples(options.split), []
    if options.describe:
        there = existing(_paragraphs(options))
        skipped = [f"{s.name}: no paragraph" for s in samples if s.name not in there]
        samples = [s for s in samples if s.name in there]
        if not samples:
            raise UserError(f"no pair of {data.name} {options.split} has a paragraph")
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
    source = _Source(samples, skipped, _remarks(options, data))
    write = _write_images if options.patches is None else _write_patches
    with replacing(out, "the H5 file", "H5 file") as temporary:
        try:
            content = write(temporary, options, source, fingerprint, reader)
        except RuntimeError as error:  # h5py, when closing a file fails: a full disk
            raise writing("the H5 file", out, error) from error
    return Result(out, *content, written=True)


def _remarks(options: Options, data: DataSet) -> list[str]:
    """What the hashes of the files say: the paper's pairs or others, copies, files of two splits."""
    splits = dict(data.splits)
    if not (options.from_ or options.a) and options.split != ALL:
        for other in {"train", "test"} - {options.split}:
            try:
                splits[other] = find_samples(
                    Path(options.root), options.task, options.dataset, other
                )
            except UserError:  # there is no such list, or it is empty
                continue
    splits.setdefault(options.split, data.samples(options.split))
    if options.split == ALL:
        splits = {ALL: splits[ALL]}
    hashes = Hashes()
    for split, samples in splits.items():
        hashes.compute(samples, f"{data.name} {split}")
    lines = duplicates(splits, options.split, hashes)
    known = find_list(data.task, data.name, splits[options.split])
    if known is not None and options.split in known.splits:
        lines.insert(0, comparison(known, options.split, splits[options.split], hashes))
    return lines


def _size_of(samples: list[Sample], options: Options) -> int:
    """About how many bytes the file will have, by the size of the first pair's images."""
    try:
        pixels = image.pixels_of(samples[0].a)
    except UserError:  # reading it says what is wrong
        return 1 << 20
    pixels = SMALL[0] * SMALL[1] if _size(options) == "small" else pixels
    return len(samples) * pixels * 8


def _check_options(options: Options) -> None:
    if options.task is not None:
        task(options.task)
    encoder = options.encoder if _is_sentence(options.text) else options.text
    if encoder not in ("features", "zeros"):
        check_name(encoder)
    if options.describe and options.text in ("features", "zeros"):
        raise UserError("--describe needs an encoder that reads the paragraphs: --text minilm")
    if options.describe and (_is_sentence(options.text) or options.patches is not None):
        other = "--patches" if options.patches is not None else "a sentence"
        raise UserError(f"with {other} the file holds no paragraphs; leave --describe out")
    if options.patches is not None and (options.patches < 2 or options.stride < 1):
        raise UserError("--patches must be 2 or more and --stride 1 or more")
    if not re.fullmatch(r"auto|small|native|\d+x\d+", options.size):
        raise UserError(
            "--size must be one of auto, small, native, or HEIGHTxWIDTH such as 256x256, not "
            f"{options.size!r}"
        )


def _is_sentence(text: str) -> bool:
    """Whether `--text` is a text itself: it has several words, and is no folder of an encoder."""
    return len(text.split()) > 1 and not is_folder(text)


def _paragraphs(options: Options) -> Path:
    return Path(options.root, "Text", options.task, options.dataset)


def _fingerprint(
    options: Options, samples: list[Sample], ranges: Mapping[str, Range] | None
) -> str:
    """A hash that changes when the options or any source file (by size and time of change) do."""
    chosen = {k: v for k, v in asdict(options).items() if k not in FREE}
    if _is_sentence(options.text):
        chosen["encoder"] = options.encoder
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
                lists = [json.loads(file.attrs[k]) for k in ("skipped", "misaligned")]
                lists.append(json.loads(file.attrs.get("remarks", "[]")))
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
        "remarks": json.dumps(content.remarks),
        **{f"range_{side}": str(r) for side, r in reader.ranges.items() if r is not None},
    }


def _readable(
    samples: list[Sample], options: Options, skipped: list[str], read: Callable[[Sample], T]
) -> Iterator[tuple[Sample, T]]:
    """Each sample with what `read` makes of it; with `skip_bad`, the others go to `skipped`."""
    from tqdm import tqdm

    values = processes.share(partial(_each, read), samples)
    bar = tqdm(values, f"{options.dataset} {options.split}", len(samples), unit="pair")
    for sample, value in zip(samples, bar, strict=True):
        if not isinstance(value, UserError):
            yield sample, value
        elif options.skip_bad:
            skipped.append(f"{sample.name}: {value}")
        else:
            raise UserError(
                f"sample {sample.name!r}: {value} (jfusion preprocess --skip-bad continues without it)"
            ) from value


def _each(read: Callable[[Sample], T], samples: Iterable[Sample]) -> Iterator[T | UserError]:
    """What `read` makes of each sample, or why it cannot."""
    for sample in samples:
        try:
            yield read(sample)
        except UserError as error:
            yield error


def _write_images(
    path: Path, options: Options, source: _Source, fingerprint: str, reader: image.Reader
) -> _Content:
    """The whole images with their features, by the schema of `data/h5.py`."""
    skipped, misaligned, names, shapes = list(source.skipped), [], [], set()
    text_of, encoder = _texts(options)
    read = partial(_read, options=options, reader=reader, text_of=text_of)
    with created(path) as (file, check_written):
        for sample, (arrays, shift) in _readable(source.samples, options, skipped, read):
            shapes.add(arrays["text"].shape[1:])
            names.append(sample.name)
            misaligned += [f"{sample.name}: {shift}"] if shift else []
            for group, array in arrays.items():
                file.require_group(group).create_dataset(sample.name, data=array)
            check_written()
        if not shapes:
            raise UserError(
                f"none of the {counted(len(source.samples), 'pair')} can be used; the first: {skipped[0]}"
            )
        if len({width for _, width in shapes}) > 1:
            raise UserError(
                f"paragraph features of several widths: {sorted(shapes)}; make them with one encoder"
            )
        content = _Content(len(names), skipped, misaligned, source.remarks)
        file.attrs.update(
            **_origin(options, fingerprint, content, reader),
            **encoder,
            **_written_by(options, names),
            text_dim=next(iter(shapes))[1],
            text_length=max(length for length, _ in shapes),
            size=_size(options),
        )
    return content


def _write_patches(
    path: Path, options: Options, source: _Source, fingerprint: str, reader: image.Reader
) -> _Content:
    """Patches, by the schema of CDDFuse's training set: groups ir_patchs and vis_patchs, names "0", ..."""
    skipped, count, rejected = list(source.skipped), 0, 0
    read = partial(_both, options=options, reader=reader)
    with created(path) as (file, check_written):
        groups = [file.create_group(name) for name in PATCH_GROUPS]
        for _, rgb in _readable(source.samples, options, skipped, read):
            pair = [_gray(x) for x in rgb]
            for a, b in patches(*pair, options.patches, options.stride):
                if low_contrast(a) or low_contrast(b):
                    rejected += 1
                    continue
                for group, patch in zip(groups, (a, b), strict=True):
                    group.create_dataset(str(count), data=patch[None].astype(np.float32))
                count += 1
            check_written()
        if not count:
            raise UserError(
                f"no patch of {options.patches} pixels with enough contrast in {counted(len(source.samples), 'pair')} "
                f"({rejected} without); choose smaller --patches"
            )
        content = _Content(count, skipped, [], source.remarks)
        file.attrs.update(
            **_origin(options, fingerprint, content, reader),
            patches=options.patches,
            stride=options.stride,
            rejected=rejected,
        )
    return content


# ---- the text ----------------------------------------------------------------------------------


def _texts(options: Options) -> tuple[Callable[[Sample], np.ndarray], dict[str, str]]:
    """What gives the features of a sample, (1, L, D) float32, and the attributes of their encoder."""
    if options.text == "zeros":
        zeros = np.zeros((1, 1, options.text_dim), np.float32)
        return partial(_same, zeros), {"encoder": "zeros"}
    if _is_sentence(options.text):
        encoder = Encoder(options.encoder)
        tokens, limit = encoder.tokens(options.text), encoder.limit(None)
        if len(tokens) > limit:
            raise UserError(
                f"the sentence of --text has {counted(len(tokens), 'token')}, and {options.encoder} takes {limit}"
            )
        features = encoder.encode([tokens], len(tokens))
        return partial(_same, features), {
            "encoder": encoder.source.name,
            "encoder_revision": encoder.source.revision,
            "encoder_hash": encoder.hash,
            "sentence": options.text,
        }
    return partial(_features, options=options), _encoder(options)


def _same(features: np.ndarray, sample: Sample) -> np.ndarray:
    return features


def _written_by(options: Options, names: list[str]) -> dict[str, str]:
    """Who wrote the paragraphs of these samples, as `jfusion describe` recorded it."""
    if options.text == "zeros" or _is_sentence(options.text):
        return {}
    found = summary(_paragraphs(options), names)
    return {} if found is None else {"paragraphs": json.dumps(found)}


def _encoder(options: Options) -> dict[str, str]:
    """The encoder that made the features: its name, its commit, the hash of its weights."""
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


def _read(
    sample: Sample,
    options: Options,
    reader: image.Reader,
    text_of: Callable[[Sample], np.ndarray],
) -> tuple[dict[str, np.ndarray], Shift | None]:
    """What the file holds of one sample, by group, and the shift of its images if it looks misaligned."""
    arrays = {**_arrays(sample, options, reader), "text": text_of(sample)}
    if not options.check_alignment:
        return arrays, None
    shift = find_shift(arrays["imageA"][0], arrays["imageB"][0])
    return arrays, shift if shift.suspicious else None


def _arrays(sample: Sample, options: Options, reader: image.Reader) -> dict[str, np.ndarray]:
    """What the file holds of one sample's images, by group."""
    rgb = _both(sample, options, reader)
    if "x" in options.size:
        rgb = [image.resize_8bit(x, *map(int, options.size.split("x"))) for x in rgb]
    if _size(options) == "small":
        a, b = (x[None] / np.float32(255) for x in _shrink(*(color.gray(x) for x in rgb)))
        return {"imageA": a, "imageB": b}
    pair = Pair.of_images(sample.name, *rgb, None, "none")
    colors = {"rgbA": pair.rgb_a, "rgbB": pair.rgb_b}
    stored = {k: v for k, v in colors.items() if v is not None}
    return {"imageA": pair.a, "imageB": pair.b, **stored}


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


def _features(sample: Sample, options: Options) -> np.ndarray:
    """The stored features of a sample's paragraph, (1, L, D) float32."""
    if not sample.text.is_file():
        raise UserError(
            f"paragraph features {sample.text} do not exist; make them with: jfusion embed --task "
            f"{options.task} --dataset {options.dataset}, from paragraphs that you write or that jfusion "
            "describe lets a model write (--text zeros does without paragraphs)"
        )
    return read_features(sample.text)[None]
