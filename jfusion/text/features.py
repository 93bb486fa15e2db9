"""`jfusion embed`: paragraphs to features, in the layout of FILM's VLF data set.

Text/<TASK>/<DATASET>/<name>.txt  ->  TextFeature/<TASK>/<DATASET>/<name>.npy, (1, L, D) float32
                                      TextFeature/<TASK>/<DATASET>/encoder.json, who made them

The features are the encoder's last hidden states, padding tokens included, as FILM's are: L is one
length for the whole data set.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jfusion.config import setting
from jfusion.data.layout import find_samples
from jfusion.errors import UserError
from jfusion.files import read_text, remove_left, replacing, write_text
from jfusion.text import encoders

if TYPE_CHECKING:
    from jfusion.text.bert import Bert

RECORD = "encoder.json"


@dataclass(frozen=True)
class Options:
    """What `jfusion embed` is asked for."""

    task: str = setting("IVF", "IVF, MIF, MEF, MFF, NIR or PIF")
    dataset: str = setting("MSRS", "folder name of the data set")
    root: str = setting("VLFDataset", "the folder that holds Text/ and gets TextFeature/")
    encoder: str = setting("minilm", "minilm, blip2 (the paper's), bert-base, or a BERT's folder")
    max_length: int | None = setting(None, "cut paragraphs after so many tokens; none: as it can")
    pad_to: str = setting(
        "data-set",
        "data-set: every feature as long as its longest paragraph; a number; longest: no padding kept",
    )
    batch_size: int = setting(16, "paragraphs computed at once")
    replace: bool = setting(False, "overwrite features that another encoder or tool made")


@dataclass
class Record:
    """Who made the features of a folder, and from which texts (name -> SHA-256)."""

    encoder: str
    revision: str
    hash: str
    dim: int
    length: int | None
    max_length: int
    texts: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Record | None:
        """The record of a folder; None where there is none, or not one of ours."""
        try:
            return cls(**json.loads((folder / RECORD).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def same_maker(self, other: Record | None) -> bool:
        """Whether the other record's features can stand beside this one's."""
        return other is not None and {**asdict(other), "texts": 0} == {**asdict(self), "texts": 0}


@dataclass(frozen=True)
class Result:
    """The folder of the features, its record, how many are new, and how many paragraphs were cut."""

    folder: Path
    record: Record
    written: int
    cut: int


@dataclass(frozen=True)
class Paragraph:
    """A paragraph: its sample's name, the hash of its text, and its tokens."""

    name: str
    hash: str
    tokens: list[int]


def read_features(path: str | Path) -> np.ndarray:
    """One paragraph's features, (L, D) float32, from a file that holds (L, D) or (1, L, D).

    Raises UserError when it cannot be read or holds something else.
    """
    try:
        features = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"paragraph features {path} cannot be read: {error}") from error
    shape = features.shape[1:] if features.ndim == 3 and len(features) == 1 else features.shape
    if len(shape) != 2 or features.dtype.kind != "f" or not np.isfinite(features).all():
        raise UserError(
            f"paragraph features {path} must be finite (1, L, D) values, not {features.shape}"
        )
    return features.reshape(shape).astype(np.float32)


def embed(options: Options) -> Result:
    """Writes the features that are missing or out of date; does nothing when there are none.

    Raises UserError before anything is written when a paragraph is missing, empty or not UTF-8, when
    the encoder is not there or does not fit its tokenizer, or when the folder holds another
    encoder's features (unless `replace`).
    """
    encoders.check_name(options.encoder)
    source, folder = (
        Path(options.root, k, options.task, options.dataset) for k in ("Text", "TextFeature")
    )
    texts = _texts(source, options)
    encoder = Encoder(options.encoder)
    limit = encoder.limit(options.max_length)
    paragraphs = [
        Paragraph(name, hashlib.sha256(text.encode()).hexdigest(), encoder.tokens(text))
        for name, text in texts.items()
    ]
    cut = sum(len(p.tokens) > limit for p in paragraphs)
    length = _length(options.pad_to, paragraphs, limit)
    remove_left(folder)
    record = Record(
        encoder.found.name, encoder.found.revision, encoder.hash, encoder.dim, length, limit
    )
    before = Record.read(folder)
    _check_folder(folder, record, before, options)
    if record.same_maker(before):
        record.texts = before.texts
    todo = [
        p
        for p in paragraphs
        if record.texts.get(p.name) != p.hash or not _file(folder, p).is_file()
    ]
    _write(folder, record, encoder, todo, options.batch_size)
    return Result(folder, record, len(todo), cut)


class Encoder:
    """A tokenizer with its encoder's files; the weights are loaded when first needed."""

    def __init__(self, name: str):
        from jfusion.checkpoint.safetensors_file import Tensors
        from jfusion.text.bert import Config

        self.found = encoders.find(name)
        self.config = Config.read(self.found.folder)
        self.hash = Tensors(self.found.folder).digest()
        self.dim = self.config.hidden_size
        self._tokenizer = _tokenizer(self.found.folder, self.config.vocab_size)
        self._network: Bert | None = None

    def limit(self, asked: int | None) -> int:
        """The most tokens of a paragraph."""
        most = self.config.max_position_embeddings
        if asked is not None and not 3 <= asked <= most:
            raise UserError(f"--max-length must be 3 to {most} for this encoder, not {asked}")
        return asked or most

    def tokens(self, text: str) -> list[int]:
        """Token numbers, [CLS] and [SEP] included; not cut."""
        return self._tokenizer(text, truncation=False, verbose=False)["input_ids"]

    def encode(self, batch: list[list[int]], length: int) -> np.ndarray:
        """Paragraphs of at most `length` tokens -> (N, length, dim) float32."""
        from jfusion.runtime import jt

        if self._network is None:
            from jfusion.text import bert

            self._network = bert.load(self.found.folder)
        tokens = np.full((len(batch), length), self._tokenizer.pad_token_id or 0)
        for row, paragraph in zip(tokens, batch, strict=True):
            row[: len(paragraph)] = paragraph
        with jt.no_grad():
            return self._network(tokens, np.array([len(p) for p in batch])).numpy()


def _tokenizer(folder: Path, vocabulary: int) -> Any:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.txt").is_file():
        raise UserError(f"{folder} holds no tokenizer (tokenizer.json or vocab.txt)")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        words = len(tokenizer)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the tokenizer of {folder} cannot be read: {reason}") from error
    if not 0.9 * vocabulary <= words <= vocabulary:
        raise UserError(
            f"{folder}: the tokenizer knows {words} tokens and the weights {vocabulary}; they do not "
            "belong together"
        )
    return tokenizer


def _texts(source: Path, options: Options) -> dict[str, str]:
    """Sample name -> paragraph, in the order of names. Complete, or a UserError."""
    if not source.is_dir():
        raise UserError(
            f"folder {source} does not exist; write one paragraph a pair: {source}/<name>.txt"
        )
    texts = {}
    for path in sorted(source.glob("*.txt")):
        text = read_text(path, "the paragraph").strip()
        if not text:
            raise UserError(
                f"the paragraph {path} is empty; write one, or take the pair off the list"
            )
        texts[path.stem.split(".")[0]] = text
    if not texts:
        raise UserError(f"folder {source} holds no paragraph (*.txt)")
    if Path(options.root, "Image", options.task, options.dataset).is_dir():
        pairs = find_samples(Path(options.root), options.task, options.dataset, "all")
        missing = [s.name for s in pairs if s.name not in texts]
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise UserError(
                f"{len(missing)} pairs have no paragraph: {', '.join(missing[:5])}{more}; write "
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
    if options.replace or not folder.is_dir() or record.same_maker(before):
        return
    if before is None and any(folder.glob("*.npy")):
        raise UserError(
            f"{folder} holds features that `jfusion embed` did not make; --replace overwrites them"
        )
    if before and (before.encoder, before.hash) != (record.encoder, record.hash):
        raise UserError(
            f"{folder} holds features of {before.encoder}; --replace overwrites them with those of "
            f"{record.encoder}"
        )


def _file(folder: Path, paragraph: Paragraph) -> Path:
    return folder / f"{paragraph.name}.npy"


def _write(
    folder: Path, record: Record, encoder: Encoder, todo: list[Paragraph], batch_size: int
) -> None:
    """Features first, then the record that names them: an interruption loses a batch at most."""
    from tqdm import tqdm

    if batch_size < 1:
        raise UserError(f"--batch-size must be 1 or more, not {batch_size}")
    with tqdm(total=len(todo), desc=f"{record.encoder} features", unit="paragraph") as bar:
        for batch, features in _batches(record, encoder, todo, batch_size):
            for paragraph, feature in zip(batch, features, strict=True):
                with replacing(_file(folder, paragraph), "the features") as temporary:
                    with temporary.open("wb") as file:
                        np.save(file, feature[None])
                record.texts[paragraph.name] = paragraph.hash
            _save_record(folder, record)
            bar.update(len(batch))


def _batches(
    record: Record, encoder: Encoder, todo: list[Paragraph], size: int
) -> Iterator[tuple[list[Paragraph], list[np.ndarray]]]:
    if record.length is None:  # of like lengths together, so that little is computed in vain
        todo = sorted(todo, key=lambda p: len(p.tokens))
    for start in range(0, len(todo), size):
        batch = todo[start : start + size]
        tokens = [_cut(p.tokens, record.max_length) for p in batch]
        length = record.length or max(map(len, tokens))
        features = encoder.encode(tokens, length)
        yield batch, [f[: record.length or len(t)] for f, t in zip(features, tokens, strict=True)]


def _cut(tokens: list[int], limit: int) -> list[int]:
    """At most `limit` tokens, the last one ([SEP]) kept."""
    return tokens if len(tokens) <= limit else [*tokens[: limit - 1], tokens[-1]]


def _save_record(folder: Path, record: Record) -> None:
    text = json.dumps(asdict(record), indent=1, sort_keys=True, ensure_ascii=False)
    write_text(folder / RECORD, text + "\n", "the record of the features")
