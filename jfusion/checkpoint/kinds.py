"""What a file is that holds no checkpoint: named as what it is, with what to do."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from jfusion.checkpoint.pickles import Object

_SAVE = "in the program that made it, save the weights alone: torch.save(model.state_dict(), FILE)"
_HEADS = (
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the file itself; get it with: git lfs pull",
    ),
    (b"\x1f\x8b", "a gzip archive; unpack it and name the file inside"),
    (b"BZh", "a bzip2 archive; unpack it and name the file inside"),
    (b"\xfd7zXZ", "an xz archive; unpack it and name the file inside"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it and name the file inside"),
    (b"Rar!", "a RAR archive; unpack it and name the file inside"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (a data set, or Keras weights), not a checkpoint"),
    (b"\x93NUMPY", "a NumPy array, not a checkpoint"),
    (b"\x89PNG", "an image, not a checkpoint"),
    (b"\xff\xd8\xff", "an image, not a checkpoint"),
    (b"%PDF", "a PDF document, not a checkpoint"),
)


def by_content(path: Path) -> str | None:
    """What the first bytes of a file say, where that is no checkpoint; None for anything else."""
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return "empty, that is truncated; get it again"
    for start, text in _HEADS:
        if head.startswith(start):
            return text
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it and name the file inside"
    words = head.lstrip().lower()
    if words.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, probably that of a failed download; download the file itself"
    return _of_zip(path) if head.startswith(b"PK") else None


def is_text(path: Path) -> bool:
    """Whether the first bytes of a file are text of a person's: UTF-8 without control characters."""
    with path.open("rb") as file:
        head = file.read(512)
    text = head.decode("utf-8", errors="ignore")  # the last character may be cut
    return len(head) - len(text.encode()) < 4 and all(
        c.isprintable() or c in "\t\r\n" for c in text
    )


def _of_zip(path: Path) -> str | None:
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as file:
        names = file.namelist()
    if any(n.endswith("constants.pkl") for n in names) or any("/code/" in n for n in names):
        return f"a TorchScript archive; {_SAVE}"
    if names and all(n.endswith(".npy") for n in names):
        return "an archive of NumPy arrays (.npz), not a checkpoint"
    if not any(n.endswith("data.pkl") for n in names):
        return "a zip archive, and not one of PyTorch's; unpack it and name the file inside"
    return None


def whole_object(content: Any) -> str | None:
    """Says so where a pickle holds an object, such as a whole network, and not its weights.

    content: as `pickles.load` returns it, not resolved.
    """
    if isinstance(content, Object):
        return f"it holds an object of the class {content.name}, not weights; {_SAVE}"
    if not isinstance(content, dict):
        return None
    for key, value in content.items():
        attributes = value.items if isinstance(value, Object) else ()
        if "_parameters" in attributes or "_modules" in attributes:
            return f"under {str(key)[:40]!r} it holds a whole network ({value.name}); {_SAVE}"
    return None


def is_optimizer(content: dict[Any, Any]) -> bool:
    """Whether a dictionary is the state of one of PyTorch's optimizers."""
    return {"state", "param_groups"} <= set(content) and "model" not in content
