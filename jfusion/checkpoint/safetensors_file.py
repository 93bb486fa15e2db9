"""Safetensors files: the one reader, for checkpoints and for a text encoder's weights, whole or in shards.

bfloat16 becomes float32, which NumPy has; other types stay as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jfusion.checkpoint import bfloat16
from jfusion.errors import UserError
from jfusion.files import read_text

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES = {"F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"}


def read_metadata(path: Path) -> dict[str, str]:
    """The texts that a file holds besides its tensors, by name."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return file.metadata() or {}


def read_names(path: Path) -> list[str]:
    """The names of a file's tensors."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return list(file.keys())


def read_tensors(path: Path, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """The tensors of these names (all of the file's by default); only they are read from the disk.

    Raises UserError for a type that NumPy does not have, and safetensors' own errors for a damaged file.
    """
    from safetensors import safe_open

    tensors = {}
    with safe_open(path, "np") as file:
        for name in file.keys() if names is None else names:
            dtype = file.get_slice(name).get_dtype()
            if dtype == "BF16":
                tensors[name] = _read_bfloat16(path, name)
            elif dtype in _DTYPES:
                tensors[name] = file.get_tensor(name)
            else:
                raise UserError(
                    f"tensor {name[:80]!r} is of type {dtype}, which is not read; save it as F32, F16 or BF16"
                )
    return tensors


def _read_bfloat16(path: Path, name: str) -> np.ndarray:
    with path.open("rb") as file:  # safetensors has checked its header
        length = int.from_bytes(file.read(8), "little")
        entry: dict[str, Any] = json.loads(file.read(length))[name]
        first, last = entry["data_offsets"]
        file.seek(8 + length + first)
        return bfloat16.to_float32(file.read(last - first)).reshape(entry["shape"])


class Tensors:
    """The tensors of a folder by name; `read` reads only its tensor from the disk.

    names: name -> file. Raises UserError when there is none, or the index names a file that is missing.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        if (folder / INDEX).is_file():
            try:
                text = read_text(folder / INDEX, "the index of the shards")
                index = json.loads(text)["weight_map"]
                self.names = {str(k): folder / Path(str(v)).name for k, v in index.items()}
            except (ValueError, KeyError, AttributeError) as error:
                raise UserError(f"{folder / INDEX} is not an index of shards: {error}") from error
        elif (folder / WHOLE).is_file():
            try:
                self.names = dict.fromkeys(read_names(folder / WHOLE), folder / WHOLE)
            except Exception as error:
                raise _unreadable(folder / WHOLE, error) from error
        else:
            raise UserError(
                f"{folder} holds no {WHOLE}; an encoder is a folder with config.json, {WHOLE} and a "
                "tokenizer (PyTorch's .bin files are not read: save the model as safetensors)"
            )

    def read(self, name: str) -> np.ndarray:
        """One tensor as float32."""
        path = self.names[name]
        try:
            return np.asarray(read_tensors(path, [name])[name], np.float32)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        except Exception as error:
            raise _unreadable(path, error) from error

    def digest(self) -> str:
        """A SHA-256 that is quick to compute and differs for another checkpoint.

        It is over the files' names, sizes and headers, which hold every tensor's name, shape and place,
        and over the first and last 64 KiB of their data.
        """
        total = hashlib.sha256()
        for path in sorted(set(self.names.values())):
            size = path.stat().st_size
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                total.update(
                    f"{path.name} {size}".encode() + file.read(min(length, 1 << 26) + (1 << 16))
                )
                file.seek(max(0, size - (1 << 16)))
                total.update(file.read())
        return total.hexdigest()


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())
    return UserError(f"{path} cannot be read: {reason}; it may be truncated: get it again")
