"""`jfusion embed`: paragraphs to features, in the layout of FILM's VLF data set.

Text/<TASK>/<DATASET>/<name>.txt  ->  TextFeature/<TASK>/<DATASET>/<name>.npy, (1, L, D) float32
                                      TextFeature/<TASK>/<DATASET>/encoder.json, the record of the encoder

The features are the encoder's last hidden states, those of padding tokens included, as FILM's are: L is
one length for the whole data set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from jfusion import processes
from jfusion.config import CommandOptions, setting
from jfusion.data.layout import find_samples
from jfusion.data.names import list_files, listed
from jfusion.errors import UserError, counted
from jfusion.files import check_output, read_text, remove_left, replacing
from jfusion.text import encoders
from jfusion.text.features import Encoder, Record


@dataclass(frozen=True)
class Options(CommandOptions):
    """The paragraphs, and the encoder that makes features of them."""

    task: str = setting("IVF", "IVF, MIF, MEF, MFF, NIR or PIF")
    dataset: str = setting("MSRS", "folder name of the data set")
    root: str = setting("VLFDataset", "the folder that holds Text/ and gets TextFeature/")
    encoder: str = setting("minilm", "minilm, blip2 (the paper's), bert-base, or a BERT's folder")
    max_length: int | None = setting(
        None,
        "truncate paragraphs to so many tokens (default: as many as the encoder has positions)",
    )
    pad_to: str = setting(
        "data-set",
        "data-set: every feature as long as its longest paragraph; a number; longest: no padding kept",
    )
    batch_size: int = setting(16, "paragraphs computed at once")
    replace: bool = setting(False, "overwrite features that another encoder or tool made")


@dataclass(frozen=True)
class Result:
    """The features' folder and record, how many are new, and how many paragraphs were truncated."""

    folder: Path
    record: Record
    written: int
    truncated: int


@dataclass(frozen=True)
class Paragraph:
    """A paragraph: its sample's name, the hash of its text, and its tokens."""

    name: str
    hash: str
    tokens: list[int]


def run(options: Options) -> int:
    """Writes the features, and prints how many are new."""
    result = embed(options)
    record, total = result.record, len(result.record.texts)
    length = record.length or "their own number of"
    print(
        f"{result.folder}: {counted(total, 'feature')} of {record.encoder}, {length} tokens x {record.dim}"
    )
    print(f"  {result.written} new, {total - result.written} up to date")
    if result.truncated:
        print(
            f"  truncated to {record.max_length} tokens: {counted(result.truncated, 'paragraph')}"
        )
    return 0


def embed(options: Options, partial: bool = False) -> Result:
    """Writes the features that are missing or out of date; does nothing when there are none.

    partial: paragraphs may be missing or empty.

    Raises UserError before anything is written when a paragraph is missing, empty or not UTF-8, when
    the encoder is not there or does not fit its tokenizer, or when the folder holds another
    encoder's features (unless `replace`).
    """
    if options.batch_size < 1:
        raise UserError(f"--batch-size must be 1 or more, not {options.batch_size}")
    encoders.check_name(options.encoder)
    source, folder = (
        Path(options.root, k, options.task, options.dataset) for k in ("Text", "TextFeature")
    )
    texts = _texts(source, options, partial)
    check_output(folder / "encoder.json", "the features")
    if not all((folder / f"{name}.npy").is_file() for name in texts):
        processes.meanwhile(_start_jittor)
    encoder = Encoder(options.encoder)
    limit = encoder.limit(options.max_length)
    paragraphs = [
        Paragraph(name, hashlib.sha256(text.encode()).hexdigest(), encoder.tokens(text))
        for name, text in texts.items()
    ]
    length = _length(options.pad_to, paragraphs, limit)
    remove_left(folder)
    name, revision = encoder.source.name, encoder.source.revision
    record = Record(name, revision, encoder.hash, encoder.dim, length, limit)
    before = Record.read(folder)
    _check_folder(folder, record, before, options)
    if before is not None and record.same_encoder(before):
        record.texts = before.texts
    outdated = [
        p
        for p in paragraphs
        if record.texts.get(p.name) != p.hash or not _file(folder, p).is_file()
    ]
    _write(folder, record, encoder, outdated, options.batch_size)
    truncated = sum(len(p.tokens) > limit for p in paragraphs)
    return Result(folder, record, len(outdated), truncated)


def _start_jittor() -> None:
    """Starts Jittor where its core is compiled already."""
    from jfusion.runtime.build import is_prepared
    from jfusion.runtime.load import load_jittor

    if is_prepared():
        load_jittor()


def _texts(source: Path, options: Options, partial: bool) -> dict[str, str]:
    """Sample name -> paragraph, in the order of names. Complete unless `partial`, or a UserError."""
    if not source.is_dir():
        raise UserError(
            f"folder {source} does not exist; write one paragraph a pair: {source}/<name>.txt, or let a "
            "model write them: jfusion describe"
        )
    texts = {}
    files = list_files(source, lambda path: path.suffix.lower() == ".txt", "paragraph")
    for name, path in files.items():
        text = read_text(path, "the paragraph").strip()
        if not text and partial:
            continue
        if not text:
            raise UserError(
                f"the paragraph {path} is empty; write one, or take the pair off the list"
            )
        texts[name] = text
    if not texts:
        raise UserError(f"folder {source} holds no paragraph; all its files are empty")
    if not partial and Path(options.root, "Image", options.task, options.dataset).is_dir():
        pairs = find_samples(Path(options.root), options.task, options.dataset, "all")
        missing = [s.name for s in pairs if s.name not in texts]
        if missing:
            raise UserError(
                f"{counted(len(missing), 'pair')} without a paragraph: {listed(missing)}; write "
                f"{source}/<name>.txt for each"
            )
    return texts


def _length(pad_to: str, paragraphs: list[Paragraph], limit: int) -> int | None:
    """The one length of all features; None: each its own."""
    longest = min(limit, max(len(p.tokens) for p in paragraphs))
    if pad_to == "data-set":
        return longest
    if pad_to == "longest":
        return None
    if not pad_to.isdigit() or not longest <= int(pad_to) <= limit:
        raise UserError(
            f"--pad-to must be data-set, longest, or a number from {longest} (the longest paragraph) to "
            f"{limit} (the encoder's or --max-length), not {pad_to!r}"
        )
    return int(pad_to)


def _check_folder(folder: Path, record: Record, before: Record | None, options: Options) -> None:
    if options.replace or not folder.is_dir() or record.same_encoder(before):
        return
    if before is None and any(folder.glob("*.npy")):
        raise UserError(
            f"{folder} holds features that `jfusion embed` did not make; --replace overwrites them"
        )
    if before and before.hash != record.hash:
        raise UserError(
            f"{folder} holds features of {before.encoder}; --replace overwrites them with those of "
            f"{record.encoder}"
        )


def _file(folder: Path, paragraph: Paragraph) -> Path:
    return folder / f"{paragraph.name}.npy"


def _write(
    folder: Path, record: Record, encoder: Encoder, paragraphs: list[Paragraph], batch_size: int
) -> None:
    """Writes features first, then the record that names them: an interruption loses a batch at most."""
    from tqdm import tqdm

    label, count = f"{record.encoder} features", len(paragraphs)
    batches = _batches(record, paragraphs, batch_size)
    encode = partial(_encode, folder, encoder, record.length, record.max_length)
    with tqdm(total=count, desc=label, unit="paragraph", disable=not count) as bar:
        for batch in processes.share(encode, batches):
            record.texts.update((paragraph.name, paragraph.hash) for paragraph in batch)
            record.write(folder)
            bar.update(len(batch))


def _batches(record: Record, paragraphs: list[Paragraph], size: int) -> list[list[Paragraph]]:
    if record.length is None:  # similar lengths together, so that little padding is computed
        paragraphs = sorted(paragraphs, key=lambda p: len(p.tokens))
    return [paragraphs[start : start + size] for start in range(0, len(paragraphs), size)]


def _encode(
    folder: Path,
    encoder: Encoder,
    length: int | None,
    limit: int,
    batches: Iterable[list[Paragraph]],
) -> Iterator[list[Paragraph]]:
    """Writes the features of each batch, and yields it then. length: of all features; None: each its own."""
    for batch in batches:
        tokens = [_truncated(p.tokens, limit) for p in batch]
        features = encoder.encode(tokens, length or max(map(len, tokens)))
        for paragraph, own, feature in zip(batch, tokens, features, strict=True):
            with replacing(_file(folder, paragraph), "the features", "features") as temporary:
                with temporary.open("wb") as file:
                    np.save(file, feature[None, : length or len(own)])
        yield batch


def _truncated(tokens: list[int], limit: int) -> list[int]:
    """At most `limit` tokens, the last one ([SEP]) kept."""
    return tokens if len(tokens) <= limit else [*tokens[: limit - 1], tokens[-1]]
