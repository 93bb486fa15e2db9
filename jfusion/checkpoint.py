"""The only place that reads and writes weights. Nothing read here can run code.

Written: `.pkl`, a dictionary that `jt.load` reads, and `.safetensors`. Read: those, any file of
`jt.save`, and PyTorch's zip `.pth` without PyTorch. A pickle from outside goes through an unpickler
that knows containers, numbers, strings, NumPy arrays, Jittor's Vars and PyTorch's tensors, and
refuses every other name.
"""

from __future__ import annotations

import collections
import difflib
import hashlib
import io
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jfusion.errors import UserError
from jfusion.files import replacing

_TAIL = b"HCAJSLHD"  # ends a file of jt.save, after the SHA-1 of the pickle before it


# ---- names -------------------------------------------------------------------------------------


class NameMap:
    """Parameter names of the authors <-> ours, by templates.

    In a template `{word}` stands for one part of a dotted name, the same on both sides:
    `NameMap({"restormer{i}.body.{p}": "block{i}.{p}"})`. A name that no template fits is kept.
    """

    def __init__(self, templates: Mapping[str, str]):
        self.templates = dict(templates)
        self._forward = [(_pattern(o), u) for o, u in self.templates.items()]
        self._backward = [(_pattern(u), o) for o, u in self.templates.items()]

    def ours(self, official: str) -> str:
        """Our name for the authors' one."""
        return _translate(official, self._forward)

    def official(self, ours: str) -> str:
        """The authors' name for ours."""
        return _translate(ours, self._backward)


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    return re.compile(
        "".join(f"(?P<{p}>[^.]+?)" if i % 2 else re.escape(p) for i, p in enumerate(parts))
    )


def _translate(name: str, table: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, template in table:
        match = pattern.fullmatch(name)
        if match:
            return template.format(**match.groupdict())
    return name


def check_names(
    expected: Mapping[str, Iterable[int]], state: Mapping[str, np.ndarray], where: str, system: str
) -> None:
    """Raises one UserError with every missing, unexpected and misshapen name, and the nearest match."""
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    shapes = {
        name: (list(expected[name]), list(np.shape(state[name])))
        for name in state
        if name in expected
    }
    wrong = {name: pair for name, pair in shapes.items() if pair[0] != pair[1]}
    if not (missing or unexpected or wrong):
        return
    parts = []
    if missing:
        parts.append(
            f"{len(missing)} missing: " + ", ".join(_with_nearest(m, unexpected) for m in missing)
        )
    if unexpected:
        parts.append(f"{len(unexpected)} unexpected: " + ", ".join(unexpected))
    if wrong:
        listed = (f"{name} is {has}, must be {must}" for name, (must, has) in wrong.items())
        parts.append(f"{len(wrong)} of another shape: " + ", ".join(listed))
    raise UserError(f"{where} does not fit {system}: " + "; ".join(parts))


def _with_nearest(name: str, candidates: list[str]) -> str:
    near = difflib.get_close_matches(name, candidates, 1, 0.8)
    return f"{name} (nearest: {near[0]})" if near else name


# ---- writing -----------------------------------------------------------------------------------


def save(path: str | Path, content: Mapping[str, Any]) -> None:
    """Writes a checkpoint: `content["model"]` holds the arrays by name, the rest is its record.

    `.pkl` holds everything; `.safetensors` the model's arrays, and the plain values as metadata.
    Raises UserError when it cannot be written; what was there before is then untouched.
    """
    path = Path(path)
    with replacing(path, "the checkpoint") as temporary:
        if path.suffix == ".safetensors":
            import json

            from safetensors.numpy import save_file

            record = {
                k: json.dumps(v) for k, v in content.items() if k not in ("model", "optimizer")
            }
            save_file(dict(content["model"]), temporary, metadata=record)
        else:
            body = pickle.dumps(dict(content), protocol=4)
            temporary.write_bytes(body + hashlib.sha1(body).digest() + _TAIL)


# ---- reading -----------------------------------------------------------------------------------


def load(path: str | Path) -> dict[str, Any]:
    """What a checkpoint holds, arrays as NumPy; "model" is always there.

    A file that holds just the weights is returned as {"model": weights}; a `module.` prefix on every
    name (PyTorch's DataParallel) is dropped. Raises UserError, naming the file, for anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist")
    try:
        content = _read(path)
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"checkpoint {path} cannot be read: {reason[:300]}; it may be truncated: get it again"
        ) from error
    if not isinstance(content, dict):
        raise UserError(
            f"checkpoint {path} holds a {type(content).__name__}, not a dictionary of weights"
        )
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), dict):
            return {**content, "model": _clean(content[key], path)}
    return {"model": _clean(content, path)}


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "np") as file:
            return {"model": {k: file.get_tensor(k) for k in file.keys()}}  # noqa: SIM118
    if zipfile.is_zipfile(path):
        return _read_torch_zip(path)
    raw = path.read_bytes()
    if raw.endswith(_TAIL):
        body = raw[:-28]
        if hashlib.sha1(body).digest() != raw[-28:-8]:
            raise ValueError("its checksum does not match")
        raw = body
    stream = io.BytesIO(raw)
    content = _Unpickler(stream).load()
    if stream.read(1):
        raise ValueError("it goes on after its end: the checksum is cut short")
    return content


def _clean(state: Mapping[str, Any], path: Path) -> dict[str, np.ndarray]:
    arrays = {}
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(
            value, np.ndarray | np.generic | int | float
        ):
            raise UserError(
                f"checkpoint {path} holds {type(value).__name__} under {name!r} where weights were expected"
            )
        arrays[name] = np.asarray(value)
    if arrays and all(name.startswith("module.") for name in arrays):
        arrays = {name.removeprefix("module."): value for name, value in arrays.items()}
    return arrays


def _array(*arguments: Any) -> np.ndarray:
    """Stands for `jt.Var` and `jt.array` in a pickle: the array that it was made from."""
    return np.asarray(arguments[0])


def _reconstruct(_kind: Any, _shape: Any, _dtype: Any) -> np.ndarray:
    """The empty array that NumPy's pickles start from; its state follows."""
    return np.ndarray.__new__(np.ndarray, (0,), "b")


def _parameter(data: np.ndarray, *_: Any) -> np.ndarray:
    return data


def _tensor(storage: np.ndarray, offset: int, shape: tuple, stride: tuple, *_: Any) -> np.ndarray:
    """PyTorch's `_rebuild_tensor_v2` on a flat array; a copy, after checking that it stays inside."""
    if len(shape) != len(stride) or min([offset, *shape, *stride], default=0) < 0:
        raise ValueError("a tensor has a negative size, offset or stride")
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    if 0 not in shape and last >= storage.size:
        raise ValueError("a tensor reaches beyond its storage")
    if int(np.prod(shape, dtype=object)) > storage.size:
        raise ValueError("a tensor is larger than its storage")
    strides = [s * storage.itemsize for s in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides).copy()


class _StorageType:
    """Stands for `torch.FloatStorage` and its like: the dtype of a storage."""

    def __init__(self, dtype: str):
        self.dtype = dtype


_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_ALLOWED = {
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "complex"): complex,
    ("builtins", "bytearray"): bytearray,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("jittor", "array"): _array,
    ("jittor", "Var"): _array,
    ("jittor", "jittor_core.Var"): _array,
    ("jittor_core", "Var"): _array,
    ("jittor_core.jittor_core", "Var"): _array,
}
for _core in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _ALLOWED[_core, "_reconstruct"] = _reconstruct
    _ALLOWED[_core, "scalar"] = np.core.multiarray.scalar


class _Unpickler(pickle.Unpickler):
    """Knows the names in `_ALLOWED` and `_STORAGES`; any other name is an error, and nothing runs."""

    def __init__(self, file: io.BytesIO, archive: _TorchArchive | None = None):
        super().__init__(file)
        self.archive = archive

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if module == "torch" and name in _STORAGES:
            return _StorageType(_STORAGES[name])
        raise UserError(
            f"refused: the file asks for {module}.{name}, which no checkpoint needs and which could run "
            "code; do not trust where it came from"
        )

    def persistent_load(self, identity: Any) -> np.ndarray:
        if self.archive is None:
            raise ValueError("it refers to data outside itself")
        return self.archive.storage(identity)


class _TorchArchive:
    """The storages of a zip `.pth`, each read once."""

    def __init__(self, file: zipfile.ZipFile):
        self.file = file
        self.folder = next(n for n in file.namelist() if n.endswith("/data.pkl"))[
            : -len("data.pkl")
        ]
        self.read: dict[str, np.ndarray] = {}

    def storage(self, identity: tuple) -> np.ndarray:
        kind, storage_type, key, _device, size = identity
        if (
            kind != "storage"
            or not isinstance(storage_type, _StorageType)
            or not isinstance(key, str)
        ):
            raise ValueError("it refers to data in an unknown way")
        if key not in self.read:
            raw = self.file.read(f"{self.folder}data/{key}")
            self.read[key] = _from_bytes(raw, storage_type.dtype)
        if self.read[key].size < size:
            raise ValueError(f"storage {key} holds {self.read[key].size} values instead of {size}")
        return self.read[key]


def _from_bytes(raw: bytes, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":  # the upper half of a float32
        return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(raw, dtype)


def _read_torch_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as file:
        archive = _TorchArchive(file)
        return _Unpickler(io.BytesIO(file.read(archive.folder + "data.pkl")), archive).load()
