"""Features of paragraphs: the encoder that makes them, their files, and the record of their making."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jfusion.errors import UserError, printable
from jfusion.files import mark_input, write_text
from jfusion.text import encoders
from jfusion.text.config import Config

if TYPE_CHECKING:
    from jfusion.text.bert import Bert

RECORD = "encoder.json"


@dataclass
class Record:
    """Which encoder made the features of a folder, and from which texts (name -> SHA-256)."""

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

    def write(self, folder: Path) -> None:
        """Writes the record into the folder of its features."""
        text = json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False)
        write_text(folder / RECORD, text + "\n", "the record of the features")

    def same_encoder(self, other: Record | None) -> bool:
        """Whether the other record's features come from the same encoder in the same way.

        Its name and revision do not matter: a copy of an encoder has its hash.
        """
        free = {"texts": 0, "encoder": 0, "revision": 0}
        return other is not None and {**asdict(other), **free} == {**asdict(self), **free}


def read_features(path: str | Path) -> np.ndarray:
    """One paragraph's features, (L, D) float32, from a file that holds (L, D) or (1, L, D).

    Raises UserError when it cannot be read or holds something else.
    """
    mark_input(path)
    try:  # mapped, so that a header that claims more than the file holds allocates nothing
        features = np.load(path, mmap_mode="r", allow_pickle=False)
    except (
        Exception
    ) as error:  # NumPy reads a header as Python's words: there are many kinds of errors
        reason = printable(" ".join(str(error).split()), 200)
        raise UserError(f"paragraph features {path} cannot be read: {reason}") from error
    shape = features.shape[1:] if features.ndim == 3 and len(features) == 1 else features.shape
    if len(shape) != 2 or features.dtype.kind != "f":
        raise UserError(
            f"paragraph features {path} must be (1, L, D) floating-point values, not {features.shape} of "
            f"{features.dtype}; make them with jfusion embed"
        )
    if not np.isfinite(features).all():
        raise UserError(
            f"paragraph features {path} hold NaN or infinite values; make them again with jfusion embed"
        )
    return np.array(features, np.float32).reshape(shape)


class Encoder:
    """A tokenizer with its encoder's files; the weights are loaded when first needed."""

    def __init__(self, name: str):
        from jfusion.checkpoint.safetensors_file import Tensors
        from jfusion.text.config import Config

        self.source = encoders.find(name)
        self.config = Config.read(self.source.folder)
        self.hash = Tensors(self.source.folder).digest()
        self.dim = self.config.hidden_size
        self._tokenizer = _tokenizer(self.source.folder, self.config.vocab_size)
        self._padding = self._tokenizer.pad_token_id or 0
        self._network: Bert | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs to encode tokens; it loads the weights itself."""
        return {**vars(self), "_tokenizer": None, "_network": None}

    def limit(self, max_length: int | None) -> int:
        """The most tokens of a paragraph: `max_length`, or as many as the encoder has positions."""
        positions = self.config.max_position_embeddings
        if max_length is not None and not 3 <= max_length <= positions:
            raise UserError(
                f"--max-length must be 3 to {positions} for this encoder, not {max_length}"
            )
        return max_length or positions

    def tokens(self, text: str) -> list[int]:
        """Token numbers, [CLS] and [SEP] included; not truncated."""
        return self._tokenizer(text, truncation=False, verbose=False)["input_ids"]

    def encode(self, batch: list[list[int]], length: int) -> np.ndarray:
        """The last hidden states of N paragraphs of at most `length` tokens: (N, length, dim) float32."""
        from jfusion.runtime import jt

        if self._network is None:
            from jfusion.text import bert

            self._network = bert.load(self.source.folder)
        tokens = np.full((len(batch), length), self._padding)
        for row, paragraph in zip(tokens, batch, strict=True):
            row[: len(paragraph)] = paragraph
        with jt.no_grad():
            return self._network(tokens, np.array([len(p) for p in batch])).numpy()


def token_counter(name: str) -> tuple[Callable[[str], int], int]:
    """How many tokens a text has for an encoder, and how many the encoder takes; the weights stay unread.

    Raises UserError when the encoder called `name` is not there or does not fit its tokenizer.
    """
    folder = encoders.find(name).folder
    config = Config.read(folder)
    tokenizer = _tokenizer(folder, config.vocab_size)
    lock = threading.Lock()  # a tokenizer serves one thread at a time

    def count(text: str) -> int:
        with lock:
            return len(tokenizer(text, truncation=False, verbose=False)["input_ids"])

    return count, config.max_position_embeddings


def _tokenizer(folder: Path, vocabulary: int) -> Any:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.txt").is_file():
        raise UserError(f"{folder} holds no tokenizer (tokenizer.json or vocab.txt)")
    # Named classes: AutoTokenizer would look for a class in the folder, and offer to run its Python.
    from transformers import BertTokenizerFast, PreTrainedTokenizerFast

    whole = (folder / "tokenizer.json").is_file()
    cls = PreTrainedTokenizerFast if whole else BertTokenizerFast
    try:
        tokenizer = cls.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        size = len(tokenizer)
    except Exception as error:
        reason = printable(" ".join(str(error).split()), 200)
        raise UserError(f"the tokenizer of {folder} cannot be read: {reason}") from error
    if not 0.9 * vocabulary <= size <= vocabulary:
        raise UserError(
            f"{folder}: the tokenizer knows {size} tokens and the weights {vocabulary}; they do not "
            "belong together"
        )
    return tokenizer
