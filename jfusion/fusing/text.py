"""The features of a pair's paragraph: from a sentence, from files, or the task's neutral paragraph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jfusion.data.names import list_files, listed
from jfusion.errors import UserError
from jfusion.files import read_text
from jfusion.text.features import Encoder, read_features

# What is true of every pair of a task.
NEUTRAL = {
    "IVF": "A scene in an infrared and a visible image: warm people and vehicles stand out in the infrared "
    "image, and the visible image shows edges, texture and color.",
    "MIF": "Two medical images of one slice of a head: one shows the structure of the tissue, the other its "
    "density or function.",
    "MEF": "One scene in an over-exposed and an under-exposed photograph: the bright one shows the shadows, "
    "the dark one the highlights.",
    "MFF": "One scene in two photographs: the near objects are sharp in one, the distant ones in the other.",
    "NIR": "A scene in a near-infrared and a color image: the near-infrared image is clear through haze, "
    "and the color image shows the colors.",
    "PIF": "A scene in an image of the degree of polarization and one of intensity: polarization shows "
    "smooth surfaces and outlines.",
}
BY_WIDTH = {384: "minilm", 768: "blip2"}  # the encoder of weights that record none


class Texts:
    """The features of each pair's paragraph, encoded once for each distinct text.

    given: what the user said: a sentence, a file (.txt, .npy), a folder of such files named like the
    pairs, "zeros", or None for the neutral paragraph of the `task`. record: that of the checkpoint, with
    its encoder. `fit` is called before the first of `of`. Raises UserError for what is missing.
    """

    def __init__(
        self, given: str | None, task: str, record: Mapping[str, Any], names: Iterable[str]
    ):
        self._record, self._width = record, 0
        self._cache: dict[str, np.ndarray] = {}
        self._sources = self._of_names(given, task, list(names))
        self._encoder: Encoder | None = None

    def fit(self, width: int) -> None:
        """Finds the encoder of a system whose text_dim is `width`, where there is a text to encode."""
        self._width = width
        if any(isinstance(x, str) for x in self._sources.values()):
            self._encoder = self._find_encoder()

    def of(self, name: str) -> np.ndarray:
        """The features of the pair called `name`, (L, width) float32."""
        source = self._sources[name]
        if source is None:
            return np.zeros((1, self._width), np.float32)
        if isinstance(source, Path):
            return read_features(source)
        if source not in self._cache:
            tokens = self._encoder.tokens(source)
            most = self._encoder.limit(None)
            tokens = tokens if len(tokens) <= most else [*tokens[: most - 1], tokens[-1]]
            self._cache[source] = self._encoder.encode([tokens], len(tokens))[0]
        return self._cache[source]

    def _of_names(
        self, given: str | None, task: str, names: list[str]
    ) -> dict[str, str | Path | None]:
        """Name -> a text, a file of features, or None for zeros."""
        if given is None and self._record.get("encoder") == "zeros":
            print("note: the weights were trained without paragraphs, so none are used (--text)")
            given = "zeros"
        if given is None:
            print(
                f'note: the text is the neutral paragraph of {task}; describe the scene with --text "..."'
            )
            return dict.fromkeys(names, NEUTRAL[task])
        if given == "zeros":
            return dict.fromkeys(names)
        path = Path(given)
        if len(given) < 256 and path.is_dir():
            return self._of_folder(path, names)
        if len(given) < 256 and path.is_file():
            return dict.fromkeys(names, _source(path))
        if given.lower().endswith((".txt", ".npy")) or " " not in given.strip():
            raise UserError(
                f"--text {given} is no file or folder; write a sentence of several words, or zeros for none"
            )
        return dict.fromkeys(names, given.strip())

    def _of_folder(self, folder: Path, names: list[str]) -> dict[str, str | Path | None]:
        files = list_files(folder, _is_text, "paragraph (.txt or .npy)")
        missing = [name for name in names if name not in files]
        if missing:
            raise UserError(
                f"--text {folder} has no <name>.txt or <name>.npy for {listed(missing)}; write one for each "
                "pair"
            )
        return {name: _source(files[name]) for name in names}

    def _find_encoder(self) -> Encoder:
        """The encoder of the weights. Raises UserError when it is not there, or is another one."""
        name = str(self._record.get("encoder") or "not recorded")
        if name == "zeros":
            raise UserError("the weights were trained without paragraphs; leave out --text")
        if name == "not recorded":
            name = BY_WIDTH.get(self._width, "")
        if not name:
            raise UserError(
                f"the weights do not say which encoder made their features of {self._width} values; give "
                "the features themselves, --text FOLDER of .npy files, or --text zeros"
            )
        try:
            encoder = Encoder(name)
        except UserError as error:
            raise UserError(f"{error} (or fuse without a text: --text zeros)") from error
        recorded = self._record.get("encoder_hash")
        if encoder.dim != self._width or (recorded and recorded != encoder.hash):
            raise UserError(
                f"the weights were trained with another encoder than this {name}; give the features "
                "themselves, --text FOLDER of .npy files, or --text zeros"
            )
        return encoder


def _is_text(path: Path) -> bool:
    return path.suffix.lower() in (".txt", ".npy")


def _source(path: Path) -> str | Path:
    """The text of a .txt file; a .npy file itself."""
    if path.suffix.lower() == ".npy":
        return path
    text = read_text(path, "the paragraph").strip()
    if not text:
        raise UserError(f"the paragraph {path} is empty; write one, or use --text zeros")
    return text
