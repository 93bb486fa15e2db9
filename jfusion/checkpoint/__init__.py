"""The only place that reads and writes weights. Nothing read here can run code.

Written: `.pkl`, a dictionary that `jt.load` reads, `.safetensors`, and `.pth` for PyTorch. Read: those,
any file of `jt.save`, and PyTorch's `.pth`, zip and old, without PyTorch. Pickles are read by
`jfusion.checkpoint.pickles`, which knows containers, numbers, strings, NumPy arrays, Jittor's Vars and PyTorch's
tensors, keeps other objects as inert dictionaries, and refuses names that exist to run code.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import reprlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jfusion.checkpoint import kinds, pickles, safetensors_file, torch_file
from jfusion.checkpoint.names import WeightCard, WeightMap
from jfusion.checkpoint.pickles import plain
from jfusion.errors import UserError, counted, missing
from jfusion.files import replacing

__all__ = [
    "FORMATS",
    "WRAPPERS",
    "WeightCard",
    "WeightMap",
    "digest",
    "load",
    "record",
    "save",
    "summary",
]

FORMATS = (".pkl", ".safetensors", ".pth")
# The keys under which training programs save the weights, next to their epoch and their optimizer.
WRAPPERS = (
    *(
        "model",
        "state_dict",
        "model_state_dict",
        "model_state",
        "weights",
        "net",
        "network",
        "netG",
    ),
    *("generator", "params_ema", "params", "ema", "state_dict_ema", "model_ema"),
)
_TAIL = b"HCAJSLHD"  # ends a file of jt.save, after the SHA-1 of the pickle before it


# ---- writing -----------------------------------------------------------------------------------


def save(path: str | Path, content: Mapping[str, Any]) -> None:
    """Writes a checkpoint: `content["model"]` holds the arrays by name, the rest is its record.

    `.pkl` holds everything; `.safetensors` and `.pth` hold the arrays, and the plain
    values as metadata, or as an entry of the zip file that PyTorch ignores. A hash of the model is added
    to the record. Raises
    UserError when it cannot be written; what was there before is then untouched.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise UserError(f"checkpoint {path} must end in {', '.join(FORMATS)}")
    content = {**content, "hash": digest(content["model"])}
    with replacing(path, "the checkpoint", "checkpoint") as temporary:
        if path.suffix == ".safetensors":
            _write_safetensors(temporary, content)
        elif path.suffix == ".pth":
            torch_file.write_zip(temporary, content["model"], _plain_record(content))
        else:
            body = pickle.dumps(content, protocol=4)
            temporary.write_bytes(body + hashlib.sha1(body).digest() + _TAIL)


def _write_safetensors(path: Path, content: Mapping[str, Any]) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    record = {k: json.dumps(v) for k, v in _plain_record(content).items()}
    model = {k: np.ascontiguousarray(v) for k, v in content["model"].items()}
    try:
        save_file(model, path, metadata=record)
    except SafetensorError as error:  # a full disk, by the number of the system's error in its text
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def _plain_record(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint holds besides its arrays: the system, its settings, hashes, counts."""
    return {k: v for k, v in content.items() if k not in ("model", "optimizer")}


def digest(model: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the names, shapes, dtypes and values of a model, in the order of names."""
    total = hashlib.sha256()
    for name in sorted(model):
        value = np.ascontiguousarray(model[name])
        total.update(f"{name} {value.shape} {value.dtype.str} ".encode(errors="backslashreplace"))
        total.update(value.reshape(-1).view(np.uint8) if value.size else b"")
    return total.hexdigest()


# ---- reading -----------------------------------------------------------------------------------


def load(path: str | Path) -> dict[str, Any]:
    """What a checkpoint holds, arrays as NumPy (perhaps read-only); "model" is always there.

    A file that holds just the weights is returned as {"model": weights}; so are weights under one of the
    usual keys (`WRAPPERS`). Several networks in one file (CDDFuse) become one model, each name after its
    network's and a dot. The prefixes `module.` and `_orig_mod.` on every name of a network (PyTorch's
    DataParallel and compile) are removed. Raises UserError, naming the file, for anything else, also when
    the hash that is inside does not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise missing("checkpoint", path)
    try:
        what = kinds.by_content(path)
        content = None if what else _read(path)
    except UserError as error:
        raise UserError(f"checkpoint {path}: {error}") from error
    except Exception as error:
        if kinds.is_text(path):
            raise UserError(f"checkpoint {path} is a text file, not a checkpoint") from error
        reason = pickles.plain(" ".join(str(error).split()), 300) or type(error).__name__
        remedy = "; it is truncated: get it again" if _is_truncated(error) else ""
        remedy = "; it is damaged: get it again" if "does not match" in reason else remedy
        raise UserError(f"checkpoint {path} cannot be read: {reason}{remedy}") from error
    if what:
        raise UserError(f"checkpoint {path} is {what}")
    if not isinstance(content, dict):
        raise UserError(
            f"checkpoint {path} holds a {type(content).__name__}, not a dictionary of weights"
        )
    if kinds.is_optimizer(content):
        raise UserError(
            f"checkpoint {path} is an optimizer's state, not weights; name the file of the network"
        )
    model, record = _split(content)
    if not model:
        raise UserError(f"checkpoint {path} holds no weights")
    checkpoint = {**record, "model": _clean(model, path)}
    if isinstance(checkpoint.get("hash"), str) and checkpoint["hash"] != digest(
        checkpoint["model"]
    ):
        raise UserError(f"checkpoint {path} is damaged: its weights do not fit its hash")
    return checkpoint


def record(path: str | Path) -> dict[str, Any]:
    """What a checkpoint holds besides its weights: "system", "config", ...; {} for the authors' files.

    The weights of a `.safetensors` or `.pth` file are not read. Raises UserError as `load` does.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return {k: _json(v) for k, v in safetensors_file.read_metadata(path).items()}
        if zipfile.is_zipfile(path):
            return torch_file.read_record(path)
    except Exception:
        pass  # `load` says what is wrong
    return {k: v for k, v in load(path).items() if k != "model"}


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        head = file.read(64)
    if path.suffix == ".safetensors":
        metadata = {k: _json(v) for k, v in safetensors_file.read_metadata(path).items()}
        return {**metadata, "model": safetensors_file.read_tensors(path)}
    if zipfile.is_zipfile(path):
        record, content = torch_file.read_record(path), torch_file.read_zip(path)
        return {**record, "model": content} if record else content
    raw = path.read_bytes()
    if torch_file.is_old(head):
        return torch_file.read_old(raw)
    has_checksum = raw.endswith(_TAIL)
    if has_checksum:
        body = raw[:-28]
        if hashlib.sha1(body).digest() != raw[-28:-8]:
            raise ValueError("its checksum does not match")
        raw = body
    stream = io.BytesIO(raw)
    content = pickles.load(stream)
    if stream.read(1):
        raise ValueError("there are bytes after its end: the checksum is truncated")
    if isinstance(content, dict) and "hash" in content and not has_checksum:  # written by `save`
        raise ValueError("the checksum after its end is missing")
    text = kinds.whole_object(content)
    if text:
        raise UserError(text)
    return pickles.resolve(content, len(raw))


def _is_truncated(error: Exception) -> bool:
    """Whether an error says that the file ends too early."""
    words = (
        "exhausted",
        "expected",
        "truncated",
        "incomplete",
        "not enough",
        "end of",
        "is missing",
    )
    words += ("header too small", "invalid header length")  # safetensors' words
    return isinstance(error, EOFError) or any(w in str(error).lower() for w in words)


def _json(text: str) -> Any:
    """A value of the metadata; text that is not JSON (another tool's) stays text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _is_state(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(v, np.ndarray) for v in value.values())


def _split(content: dict[Any, Any]) -> tuple[dict[Any, Any], dict[str, Any]]:
    """The weights, and everything else that the file holds."""
    key = next((k for k in WRAPPERS if _holds_weights(content.get(k))), None)
    if key is None:
        model, record = content, {}
    else:
        model, record = content[key], {k: v for k, v in content.items() if k != key}
    networks = {k: v for k, v in model.items() if _is_state(v)}
    if networks and not _is_state(model):
        record = {**record, **{k: v for k, v in model.items() if k not in networks}}
        model = {f"{n}.{k}": v for n, state in networks.items() for k, v in _bare(state).items()}
    return model, {str(k): v for k, v in record.items()}


def _holds_weights(value: Any) -> bool:
    """Whether a value is a state, or a dictionary of the states of several networks."""
    return _is_state(value) or (isinstance(value, dict) and any(map(_is_state, value.values())))


def _bare(state: dict[Any, Any]) -> dict[Any, Any]:
    """Without the prefixes that PyTorch's DataParallel and compile put before every name."""
    for prefix in ("module.", "_orig_mod.") * 3:
        if state and all(str(name).startswith(prefix) for name in state):
            state = {str(name).removeprefix(prefix): value for name, value in state.items()}
    return state


def _clean(state: Mapping[Any, Any], path: Path) -> dict[str, np.ndarray]:
    arrays = {}
    for name, value in _bare(dict(state)).items():
        if not isinstance(name, str) or not isinstance(
            value, np.ndarray | np.generic | int | float
        ):
            raise UserError(
                f"checkpoint {path} holds {type(value).__name__} under {str(name)[:80]!r} where weights "
                "were expected"
            )
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            raise UserError(f"checkpoint {path} holds an impossible number under {name[:80]!r}")
        arrays[name] = np.asarray(value)
    return arrays


# ---- what a user sees --------------------------------------------------------------------------


def summary(path: str | Path) -> str:
    """What is in a checkpoint: its record, and each tensor's name, shape and dtype."""
    content = load(path)
    model = content.pop("model")
    count = sum(v.size for v in model.values())
    size = sum(v.nbytes for v in model.values()) / 2**20
    lines = [f"{path}: {counted(len(model), 'tensor')}, {count:,} values, {size:.1f} MiB"]
    lines.append(f"  hash {content.pop('hash', None) or digest(model) + ' (not in the file)'}")
    lines += [f"  {plain(key)}: {_short(value)}" for key, value in content.items()]
    names = [plain(name, 200) for name in model]
    width = min(60, max(map(len, names), default=0))
    for name, value in zip(names, model.values(), strict=True):
        shape = "x".join(map(str, value.shape)) or "scalar"
        lines.append(f"  {name:<{width}}  {shape:<16} {value.dtype}")
    return "\n".join(lines)


# A nested list that holds itself many times over has a text of terabytes: what is printed is bounded.
_PRINTED = reprlib.Repr()
_PRINTED.maxlevel, _PRINTED.maxdict, _PRINTED.maxstring, _PRINTED.maxother = 3, 60, 200, 100


def _short(value: Any) -> str:
    if isinstance(value, dict) and any(isinstance(v, dict | np.ndarray) for v in value.values()):
        return f"{len(value)} entries: {', '.join(plain(k) for k in list(value)[:8])}"
    text = " ".join((value if isinstance(value, str) else _PRINTED.repr(value)).split())
    return plain(text, 300) + (" ..." if len(text) > 300 else "")
