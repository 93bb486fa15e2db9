"""The H5 file: the reference's schema with a record of what is in it.

Groups `imageA`, `imageB` (1, H, W) float32 in [0, 1] and `text` (1, L, D) float32, one dataset per
sample name; `rgbA`, `rgbB` (H, W, 3) uint8 for the images that have color, and the attribute
`chroma`: whose color a fused image gets. Files made by the authors' script have none of these three
and no attributes, and are read all the same.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jfusion.data import color
from jfusion.data.names import check_part
from jfusion.errors import UserError, counted, printable
from jfusion.files import begins, mark_input

SCHEMA = 2
GROUPS = ("imageA", "imageB", "text")
COLORS = ("rgbA", "rgbB")
PATCH_GROUPS = ("ir_patchs", "vis_patchs")  # (sic) CDDFuse's and SFDFuse's files: a and b
# What the attributes must be where a file has them; the other ones are only shown.
ATTRIBUTES = {
    "task": str,
    "dataset": str,
    "split": str,
    "chroma": str,
    "encoder": str,
    "text_dim": int,
}
MOST_VALUES = 1 << 30  # of one array: larger than any image that can be fused
MOST_PACKED = 1100  # bytes that one stored byte can stand for: the limit of HDF5's compression


@dataclass(frozen=True)
class Pair:
    """One sample: a, b (1, H, W) float32 in [0, 1]; text (L, D) float32 or None.

    rgb_a, rgb_b: (H, W, 3) uint8 where the image has color, otherwise None. rule: whose color the
    fused image gets, "a", "b", "weighted" (both) or "none". dataset: the data set it is of, "" if none
    is known.
    """

    name: str
    a: np.ndarray
    b: np.ndarray
    text: np.ndarray | None = None
    rgb_a: np.ndarray | None = None
    rgb_b: np.ndarray | None = None
    rule: str = "none"
    dataset: str = ""

    @classmethod
    def of_images(
        cls, name: str, a: np.ndarray, b: np.ndarray, text: np.ndarray | None, rule: str
    ) -> Pair:
        """The pair of two images (H, W, 3) uint8, its arguments as the fields of a Pair."""
        grays = (color.gray(x)[None] / np.float32(255) for x in (a, b))
        return cls(name, *grays, text, *(x if color.is_color(x) else None for x in (a, b)), rule)

    def replaced(self, **fields: Any) -> Pair:
        """A pair with other values of some fields."""
        return replace(self, **fields)

    @property
    def chroma(self) -> np.ndarray | None:
        """Cr and Cb of the fused image, (2, H, W) uint8; None when it stays gray."""
        return color.pair_chroma(self.rgb_a, self.rgb_b, self.rule)


class PairFile:
    """The samples of an H5 file, in the reference's order: byte-wise by name.

    attributes: those of the file; where it does not record them, "dataset" (its name, without the
    split) and "text_dim" (the width of the stored text, if there is any) are added. Each process opens
    the file for itself, so a worker never shares a handle. Raises UserError when the file is missing,
    not H5, truncated, or of another schema.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._file, self._owner = None, None
        if self.path.is_dir():
            raise UserError(f"{self.path} is a folder; name an H5 file, such as one inside it")
        if not self.path.is_file():
            raise UserError(
                f"H5 file {self.path} does not exist; correct its name, or make it with jfusion preprocess"
            )
        with self._errors_named("its list of samples"):
            self._index(self._open())

    def _index(self, file: Any) -> None:
        """Reads the groups, the names and the attributes, and checks them."""
        self._groups = PATCH_GROUPS if PATCH_GROUPS[0] in file else GROUPS[:2]
        missing = [g for g in self._groups if g not in file]
        if missing:
            raise UserError(
                f"H5 file {self.path} has no group {missing[0]!r}: it is not a set of pairs"
            )
        for group in (*self._groups, "text", *COLORS):
            if group in file:
                self._check_group(file, group)
        self.names = sorted(file[self._groups[0]], key=str.encode)
        for group in (*self._groups, "text"):
            if group in file and set(file[group]) != set(self.names):
                odd = printable(min(set(file[group]) ^ set(self.names)))
                raise UserError(
                    f"H5 file {self.path}: sample {odd!r} is not in both {self._groups[0]} and {group}"
                )
        for name in self.names:
            check_part(name, f"H5 file {self.path}")
        if not self.names:
            raise UserError(f"H5 file {self.path} holds no samples")
        self.attributes = self._attributes(file)
        check_part(self.dataset, f"H5 file {self.path}, the attribute dataset")

    def _check_group(self, file: Any, name: str) -> None:
        """Raises UserError unless a group is one, and is stored in this file itself."""
        import h5py

        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise UserError(f"H5 file {self.path}: {name} is a link, which jfusion does not follow")
        if not isinstance(file[name], h5py.Group):
            raise UserError(f"H5 file {self.path}: {name} is not a group of samples")

    def _attributes(self, file: Any) -> dict[str, Any]:
        implied: dict[str, Any] = {"dataset": re.sub("_(train|test)$", "", self.path.stem)}
        if "text" in file:
            implied["text_dim"] = int(self._dataset(file, "text", self.names[0]).shape[-1])
        with self._errors_named("its attributes"):
            stored = {str(k): _plain(v) for k, v in file.attrs.items()}
        for name, kind in ATTRIBUTES.items():
            if name in stored and not isinstance(stored[name], kind):
                raise UserError(
                    f"H5 file {self.path}: the attribute {name} is {printable(stored[name], 40)!r}, not "
                    f"{kind.__name__}; make the file again with jfusion preprocess"
                )
        return {**implied, **stored}

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs; it opens the file itself."""
        return {**vars(self), "_file": None}

    def __getitem__(self, index: int) -> Pair:
        return self.read(self.names[index])

    def subset(self, names: Iterable[str]) -> PairFile:
        """The same file with these samples only, in the order of the file."""
        part, wanted = copy.copy(self), set(names)
        part._file, part.names = None, [name for name in self.names if name in wanted]
        return part

    def read(self, name: str) -> Pair:
        """The sample called `name`.

        Raises UserError when it cannot be read, or does not hold what the schema says: shapes, finite
        values in [0, 1], storage in this file.
        """
        file = self._open()
        with self._errors_named(f"sample {printable(name)!r}"):
            a, b = (self._array(file, g, name, np.float32) for g in self._groups)
            text = self._array(file, "text", name, np.float32) if "text" in file else None
            rgb = [
                self._array(file, g, name, np.uint8) if name in file.get(g, ()) else None
                for g in COLORS
            ]
        if text is not None and text.ndim == 3 and text.shape[0] == 1:
            text = text[0]
        rule = str(self.attributes.get("chroma", "none"))
        pair = Pair(name, a, b, text, *rgb, rule, self.dataset)
        faults = _faults(pair)
        if faults:
            raise UserError(f"H5 file {self.path}: sample {printable(name)!r}: {'; '.join(faults)}")
        return pair

    @contextlib.contextmanager
    def _errors_named(self, what: str) -> Iterator[None]:
        """Raises UserError for the errors of h5py, which are of many kinds and name no file."""
        try:
            yield
        except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = printable(" ".join(str(error).split()), 200)
            raise UserError(
                f"H5 file {self.path}: {what} cannot be read ({reason}); make the file again"
            ) from error

    def _array(self, file: Any, group: str, name: str, dtype: type) -> np.ndarray:
        return np.asarray(self._dataset(file, group, name), dtype)

    def _dataset(self, file: Any, group: str, name: str) -> Any:
        """The data set of a sample, not read. Raises UserError unless its values are in this file."""
        import h5py

        where = f"H5 file {self.path}: {group}/{printable(name)}"
        if not isinstance(file[group].get(name, getlink=True), h5py.HardLink):
            raise UserError(f"{where} is a link, which jfusion does not follow")
        data = file[group][name]
        if not isinstance(data, h5py.Dataset) or data.dtype.kind not in "uif":
            raise UserError(f"{where} is not an array of numbers")
        if data.is_virtual or data.external:
            raise UserError(f"{where} has its values in another file, which jfusion does not read")
        stored, packed = data.id.get_storage_size(), data.compression or data.scaleoffset
        if data.size > MOST_VALUES or data.nbytes > stored * (MOST_PACKED if packed else 1):
            raise UserError(
                f"{where} claims {data.nbytes} bytes, and {stored} are stored; make the file again"
            )
        return data

    @property
    def dataset(self) -> str:
        """The data set that the samples are of."""
        return str(self.attributes["dataset"])

    @property
    def size(self) -> int:
        """The bytes of the file."""
        return self.path.stat().st_size

    def shape(self, name: str) -> tuple[int, ...]:
        """(1, H, W) of a sample, without reading it."""
        with self._errors_named(f"sample {printable(name)!r}"):
            return self._dataset(self._open(), self._groups[0], name).shape

    def _open(self) -> Any:
        import h5py

        if self._file is None or self._owner != os.getpid():
            try:
                mark_input(self.path)
                self._file, self._owner = h5py.File(self.path, "r"), os.getpid()
            except OSError as error:
                raise UserError(_not_opened(self.path, error)) from error
        return self._file


class _Destination(io.FileIO):
    """The file that HDF5 writes to. It notes a write that fails, as on a full disk, and does not report it.

    HDF5 ends the process when it cannot write what is left on closing.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Writes all the bytes, unless a write has failed."""
        left = memoryview(data).cast("B")
        size = left.nbytes
        try:
            while left and self.error is None:
                left = left[os.write(self.fileno(), left) :]
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        """Sets the size of the file, unless a write has failed."""
        size = self.tell() if size is None else size
        try:
            return size if self.error is not None else super().truncate(size)
        except OSError as error:
            self.error = error
            return size

    def check(self) -> None:
        """Raises the OSError that was noted."""
        if self.error is not None:
            raise self.error


@contextlib.contextmanager
def created(path: str | Path) -> Iterator[tuple[Any, Callable[[], None]]]:
    """A new H5 file to write to, closed when the block ends; and a check whether all was written so far.

    The check, and the end of the block, raise OSError for a full disk.
    """
    import h5py

    with _Destination(path, "w+") as destination:
        with h5py.File(destination, "w") as file:
            yield file, destination.check
        destination.check()


def _not_opened(path: Path, error: OSError) -> str:
    reason = printable(" ".join(str(error).split()), 200)
    if "unable to lock" in reason or error.errno in (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK):
        return f"H5 file {path} is open in another program, or must not be read ({reason}); close it there"
    if not begins(path, "H5 file"):
        return f"{path} is no H5 file; name one that jfusion preprocess has made"
    if "truncated" in reason or "EOF" in reason:
        return f"{path} is not a complete H5 file ({reason}); make it again with jfusion preprocess"
    return f"H5 file {path} cannot be opened: {reason}"


def encoder_of(data: PairFile) -> dict[str, str]:
    """The encoder that made the features of a file, as a checkpoint records it: its name and hash."""
    attributes = data.attributes
    return {
        "encoder": str(attributes.get("encoder", "not recorded")),
        "encoder_hash": str(attributes.get("encoder_hash", "")),
    }


def ranges_of(data: PairFile) -> dict[str, str]:
    """The ranges of values that became black and white in a file, as a checkpoint records them."""
    return {k: str(data.attributes[k]) for k in ("range_a", "range_b") if data.attributes.get(k)}


def check_encoder(data: PairFile, trained: Mapping[str, Any], where: str) -> None:
    """Raises UserError when the file's features come from another encoder than those of training.

    trained: a checkpoint or a run's record; where: what to call it. Encoders of one hash are one
    encoder, whatever their folders are called; without a hash their names are compared. What was not
    recorded is not compared.
    """
    here = encoder_of(data)
    names = [str(x.get("encoder", "not recorded")) for x in (trained, here)]
    hashes = [str(x.get("encoder_hash", "")) for x in (trained, here)]
    if "not recorded" in names or (all(hashes) and hashes[0] == hashes[1]):
        return
    if names[0] != names[1]:
        raise UserError(
            f"{where} was trained with features of {names[0]}, and {data.path} holds features of "
            f"{names[1]}; make the file again with: jfusion preprocess --text {names[0]}"
        )
    if all(hashes):
        raise UserError(
            f"{where} was trained with features of other weights of {names[0]} than {data.path}; make "
            "its features with the encoder it was trained with"
        )


def check(path: str | Path) -> dict[str, Any]:
    """Reads every sample of an H5 file and returns a summary, which `summary` prints.

    Raises UserError that lists the first ten faults: values that are not finite or not in [0, 1],
    text of several widths, unreadable samples.
    """
    from tqdm import tqdm

    file = PairFile(path)
    faults, sizes, texts, in_color = [], {}, {}, 0
    for name in tqdm(file.names, desc="checking", unit="pair", delay=2):
        try:
            pair = file.read(name)
        except UserError as error:
            faults.append(str(error))
            continue
        sizes[pair.a.shape[1:]] = sizes.get(pair.a.shape[1:], 0) + 1
        if pair.text is not None:
            texts[pair.text.shape] = texts.get(pair.text.shape, 0) + 1
        in_color += pair.rgb_a is not None or pair.rgb_b is not None
    if len({shape[-1] for shape in texts}) > 1:
        faults.append(f"text features of several widths: {sorted({s[-1] for s in texts})}")
    if faults:
        more = f" and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise UserError(f"{path} has {len(faults)} faults: " + "; ".join(faults[:10]) + more)
    return {
        "samples": len(file),
        "sizes": sizes,
        "text": texts,
        "in_color": in_color,
        "attributes": file.attributes,
    }


def _faults(pair: Pair) -> list[str]:
    faults = []
    if pair.a.shape != pair.b.shape or pair.a.ndim != 3 or pair.a.shape[0] != 1 or not pair.a.size:
        return [f"images of {pair.a.shape} and {pair.b.shape}, not both (1, H, W) of one size"]
    for label, pixels in (("imageA", pair.a), ("imageB", pair.b)):
        low, high = float(pixels.min()), float(pixels.max())
        if not np.isfinite([low, high]).all():  # a NaN is passed on by min and max
            faults.append(f"{label} holds NaN or infinite values")
        elif low < 0 or high > 1:
            faults.append(f"{label} has values from {low:g} to {high:g}, outside [0, 1]")
    for label, rgb in (("rgbA", pair.rgb_a), ("rgbB", pair.rgb_b)):
        if rgb is not None and rgb.shape != (*pair.a.shape[1:], 3):
            faults.append(f"{label} has the shape {rgb.shape}, not {(*pair.a.shape[1:], 3)}")
    if pair.text is not None and (pair.text.ndim != 2 or not pair.text.size):
        faults.append(f"text has the shape {pair.text.shape}, not (L, D)")
    elif pair.text is not None and not np.isfinite(pair.text).all():
        faults.append("text holds NaN or infinite values")
    return faults


def _plain(value: Any) -> Any:
    """An attribute as a plain value: NumPy's numbers and bytes as Python's."""
    if isinstance(value, np.generic):
        value = value.item()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def summary(path: str | Path, result: dict[str, Any]) -> str:
    """The lines that `jfusion check` prints of what `check` returned."""
    attributes = result["attributes"]
    origin = " ".join(str(attributes.get(k, "")) for k in ("task", "dataset", "split")).strip()
    origin = origin if "schema" in attributes else "made by another tool"
    sizes = ", ".join(f"{h}x{w} ({n})" for (h, w), n in sorted(result["sizes"].items())[:6])
    more = f", and {len(result['sizes']) - 6} more" if len(result["sizes"]) > 6 else ""
    text = (
        ", ".join(f"{'x'.join(map(str, s))} ({n})" for s, n in sorted(result["text"].items()))
        or "none"
    )
    encoder = attributes.get("encoder", "not recorded")
    return "\n".join(
        [
            f"{path}: {counted(result['samples'], 'pair')}, {origin}",
            f"  sizes   {sizes}{more}",
            f"  text    {text}; encoder: {encoder}{_authors(attributes)}",
            f"  color   {counted(result['in_color'], 'sample')} with an image in color",
        ]
    )


def _authors(attributes: dict[str, Any]) -> str:
    """Who wrote the paragraphs, where `jfusion describe` recorded it."""
    try:
        found = json.loads(attributes["paragraphs"])
        models = [f"{count} by {printable(name)}" for name, count in found["models"].items()]
        by_hand = [f"{found['by_hand']} by hand"] if found["by_hand"] else []
        return f"; paragraphs: {', '.join(models + by_hand)}"
    except (KeyError, TypeError, ValueError, AttributeError):
        return ""
