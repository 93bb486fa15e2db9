"""PyTorch's checkpoint files without PyTorch: the zip format (since 1.6), the one before, writing."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jfusion.checkpoint import bfloat16, pickles
from jfusion.checkpoint.kinds import whole_object
from jfusion.checkpoint.pickles import STORAGES, Name, Storage
from jfusion.errors import UserError

RECORD = "jfusion.json"  # the entry of a zip file that holds the record
MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the old format


# ---- zip ----------------------------------------------------------------------------------------


def read_zip(path: Path) -> Any:
    """What a zip `.pth` holds, arrays as NumPy. Nothing is unpacked to the disk; ValueError if it is
    not as PyTorch writes it (names are only compared, so `..` in one leads nowhere)."""
    with zipfile.ZipFile(path) as file:
        entries = [n for n in file.namelist() if n.endswith("data.pkl")]
        if len(entries) != 1:
            raise ValueError("it is a zip file, but not one of PyTorch's")
        archive = _Archive(file, path.stat().st_size)
        prefix = entries[0].removesuffix("data.pkl")
        storages: dict[str, Storage] = {}

        def storage(identity: Any) -> Storage:
            new_storage = _storage(identity)
            key = identity[2]
            if key not in storages:
                new_storage.values = _values(
                    archive.read(f"{prefix}data/{key}"), new_storage.dtype, new_storage.size
                )
                storages[key] = new_storage
            return storages[key]

        content = pickles.load(archive.read(entries[0]), storage)
        _refuse_object(content)
        return pickles.resolve(content, path.stat().st_size)


def read_record(path: Path) -> dict[str, Any]:
    """The record that `write_zip` put into a zip `.pth`; {} where there is none."""
    with zipfile.ZipFile(path) as file:
        names = [n for n in file.namelist() if n == RECORD or n.endswith(f"/{RECORD}")]
        if len(names) != 1:
            return {}
        record = json.loads(_Archive(file, path.stat().st_size).read(names[0]))
    return record if isinstance(record, dict) else {}


class _Archive:
    """Entries of a zip file; together no more than the file itself holds."""

    def __init__(self, file: zipfile.ZipFile, size: int):
        self.file, self.left = file, size

    def read(self, name: str) -> bytes:
        try:
            entry = self.file.getinfo(name)
        except KeyError:
            raise ValueError(f"it lacks its part {name[:60]!r}") from None
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError("its parts are compressed, which PyTorch never does")
        self.left -= entry.file_size
        if self.left < 0:
            raise ValueError("its parts claim to be larger than the file")
        return self.file.read(entry)


def _storage(identity: Any) -> Storage:
    """("storage", type, key, device, size, ...) as the pickle names it, still empty."""
    if (
        not isinstance(identity, tuple)
        or len(identity) < 5
        or identity[0] != "storage"
        or not isinstance(identity[1], Name)
        or identity[1].name not in STORAGES
        or not isinstance(identity[2], str)
        or not isinstance(identity[4], int)
        or not 0 <= identity[4] < 1 << 62
    ):
        raise ValueError("it refers to data in an unknown way")
    return Storage(STORAGES[identity[1].name], identity[4])


def _values(raw: bytes, dtype: str, size: int) -> np.ndarray:
    width = 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
    if len(raw) < size * width:
        raise ValueError(f"a storage holds {len(raw)} bytes instead of {size * width}")
    if dtype == "bfloat16":
        return bfloat16.to_float32(raw, size)
    return np.frombuffer(raw, dtype, size)


# ---- the format before 1.6 ----------------------------------------------------------------------


def is_old(head: bytes) -> bool:
    """Whether a file starts as PyTorch wrote them before 1.6: with a pickle of the magic number."""
    return MAGIC.to_bytes(10, "little") in head[:32]


def read_old(raw: bytes) -> Any:
    """What an old `.pth` holds: four pickles, the names of the storages, then their values."""
    stream = io.BytesIO(raw)
    if pickles.load(stream) != MAGIC:
        raise ValueError("it is not PyTorch's old format")
    version, system = pickles.load(stream), pickles.load(stream)
    if version != 1001 or not isinstance(system, dict) or not system.get("little_endian", True):
        raise ValueError("its version or byte order is unknown")
    storages: dict[str, Storage] = {}

    def storage(identity: Any) -> Storage:
        new_storage = _storage(identity)
        if len(identity) > 5 and identity[5] is not None:
            raise ValueError("it holds views of storages, which PyTorch wrote before 0.4")
        return storages.setdefault(identity[2], new_storage)

    value = pickles.load(stream, storage)
    _refuse_object(value)
    keys = pickles.resolve(pickles.load(stream), len(raw))
    if not isinstance(keys, list) or set(map(str, keys)) != set(storages):
        raise ValueError("its list of storages does not fit its tensors")
    for key in keys:
        _fill(storages[key], stream)
    return pickles.resolve(value, len(raw))


def _refuse_object(content: Any) -> None:
    text = whole_object(content)
    if text:
        raise UserError(text)


def _fill(storage: Storage, stream: io.BytesIO) -> None:
    head = stream.read(8)
    width = 2 if storage.dtype == "bfloat16" else np.dtype(storage.dtype).itemsize
    if len(head) < 8 or struct.unpack("<q", head)[0] != storage.size or storage.values is not None:
        raise ValueError("a storage is not as long as its tensors say")
    remaining = stream.getbuffer().nbytes - stream.tell()
    if storage.size * width > remaining:
        raise ValueError(f"a storage holds {remaining} bytes instead of {storage.size * width}")
    storage.values = _values(stream.read(storage.size * width), storage.dtype, storage.size)


# ---- writing ------------------------------------------------------------------------------------

_TYPES = {np.dtype(t): name for name, t in STORAGES.items() if t != "bfloat16"}


def write_zip(
    path: Path, model: Mapping[str, np.ndarray], record: Mapping[str, Any] | None = None
) -> None:
    """Writes a zip `.pth` that PyTorch loads (with weights_only=True): a dictionary of tensors by name.

    record: plain values that say how to read the tensors (the system and its settings), in an entry of
    their own, which PyTorch ignores and `read_record` reads.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        body = bytearray(b"\x80\x02}(")
        for number, (name, value) in enumerate(model.items()):
            value = np.ascontiguousarray(value)
            value = value.astype(value.dtype.newbyteorder("<"))
            body += _text(name) + _tensor(str(number), value)
            file.writestr(f"archive/data/{number}", value.tobytes())
        file.writestr("archive/data.pkl", bytes(body + b"u."))
        file.writestr("archive/version", "3\n")
        file.writestr("archive/byteorder", "little")
        if record:
            file.writestr(f"archive/{RECORD}", json.dumps(record))


def _tensor(key: str, value: np.ndarray) -> bytes:
    """The pickle of `_rebuild_tensor_v2(storage, 0, shape, stride, False, OrderedDict())`."""
    if value.dtype not in _TYPES:
        raise ValueError(f"PyTorch has no tensor of {value.dtype}")
    stride = [s // value.itemsize for s in np.empty(value.shape, value.dtype).strides]
    storage = _text("storage") + _name("torch", _TYPES[value.dtype])
    storage += _text(key) + _text("cpu") + _integer(value.size)
    return (
        _name("torch._utils", "_rebuild_tensor_v2")
        + b"(("
        + storage
        + b"tQ"
        + _integer(0)
        + b"("
        + b"".join(map(_integer, value.shape))
        + b"t("
        + b"".join(map(_integer, stride))
        + b"t\x89"
        + _name("collections", "OrderedDict")
        + b")RtR"
    )


def _text(text: str) -> bytes:
    raw = text.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _name(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _integer(number: int) -> bytes:
    if number < 1 << 31:
        return b"J" + struct.pack("<i", number)
    raw = number.to_bytes(9, "little")
    return b"\x8a" + bytes([len(raw)]) + raw
