"""Single tensors out of Hugging Face's safetensors files, whole or in shards."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from jfusion.errors import UserError
from jfusion.files import read_text

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"


class Tensors:
    """The tensors of a folder by name; only what `read` is asked for is read from the disk.

    names: name -> file. Raises UserError when there is none, or the index names a file that is missing.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        if (folder / INDEX).is_file():
            try:
                found = json.loads(read_text(folder / INDEX, "the index of the shards"))[
                    "weight_map"
                ]
                self.names = {str(k): folder / Path(str(v)).name for k, v in found.items()}
            except (ValueError, KeyError, AttributeError) as error:
                raise UserError(f"{folder / INDEX} is not an index of shards: {error}") from error
        elif (folder / WHOLE).is_file():
            self.names = dict.fromkeys(self._keys(folder / WHOLE), folder / WHOLE)
        else:
            raise UserError(
                f"{folder} holds no {WHOLE}; an encoder is a folder with config.json, {WHOLE} and a "
                "tokenizer (PyTorch's .bin files are not read: save the model as safetensors)"
            )

    def read(self, name: str) -> np.ndarray:
        """One tensor in float32."""
        from safetensors import safe_open

        path = self.names[name]
        try:
            with safe_open(path, "np") as file:
                kind = file.get_slice(name).get_dtype()
                if kind != "BF16":
                    return np.asarray(file.get_tensor(name), np.float32)
            return self._bfloat16(path, name)
        except Exception as error:
            raise _unreadable(path, error) from error

    def digest(self) -> str:
        """SHA-256 over the files' names, sizes and headers, which hold every name, shape and place,
        and the first and last 64 KiB of their data: quick, and another checkpoint gives another one."""
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

    def _keys(self, path: Path) -> list[str]:
        from safetensors import safe_open

        try:
            with safe_open(path, "np") as file:
                return list(file.keys())
        except Exception as error:
            raise _unreadable(path, error) from error

    @staticmethod
    def _bfloat16(path: Path, name: str) -> np.ndarray:
        """NumPy has no bfloat16: the bytes are the upper half of a float32."""
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            entry = json.loads(file.read(length))[name]
            first, last = entry["data_offsets"]
            file.seek(8 + length + first)
            raw = np.frombuffer(file.read(last - first), "<u2")
        return (raw.astype("<u4") << 16).view("<f4").reshape(entry["shape"])


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())
    return UserError(f"{path} cannot be read: {reason}; it may be truncated: get it again")
