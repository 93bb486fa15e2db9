"""Reads pickles without Python's pickle machine: nothing in the file can run.

A small interpreter of the opcodes that checkpoints are made of. Names are never imported: the few
that are known stand for functions here that build arrays, and any other is refused. What a file can
make us allocate is bounded by its own size, and how long we look at it by `MOST_OPCODES`.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jfusion.errors import UserError

MOST_OPCODES = 600_000  # a network of 5000 tensors with Adam's state has about 450 000
DEEPEST = 100  # levels of containers
_DTYPE = re.compile(r"[<>=|]?(b1|\?|[iu][1248]|f[248]|c8|c16)")


# ---- what a pickle can hold, before it is resolved ----------------------------------------------


@dataclass(frozen=True)
class Name:
    """A global name of the pickle; only those in `KNOWN` or of PyTorch's storages get this far."""

    module: str
    name: str


@dataclass
class _Dtype:
    text: str
    order: str = "="

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|", "="):
            raise ValueError("a dtype has an unknown state")
        if any(part is not None for part in state[2:5]):
            raise ValueError("arrays of records are not weights")
        self.order = state[1]

    def numpy(self) -> np.dtype:
        found = np.dtype(self.text)
        return found.newbyteorder(self.order) if self.order in "<>" else found


@dataclass
class _Array:
    """NumPy's array, filled by BUILD."""

    shape: tuple = (0,)
    dtype: _Dtype = field(default_factory=lambda: _Dtype("u1"))
    raw: bytes = b""
    fortran: bool = False

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise ValueError("an array has an unknown state")
        self.shape, self.dtype, self.fortran, self.raw = state[-4:]

    def numpy(self) -> np.ndarray:
        if not isinstance(self.dtype, _Dtype) or not isinstance(self.raw, bytes | bytearray):
            raise ValueError("an array holds something other than numbers")
        dtype, shape = self.dtype.numpy(), _sizes(self.shape)
        if math.prod(shape) * dtype.itemsize != len(self.raw):
            raise ValueError(f"an array of shape {shape} has {len(self.raw)} bytes")
        order = "F" if self.fortran else "C"
        return np.frombuffer(self.raw, dtype).reshape(shape, order=order)


@dataclass
class Storage:
    """PyTorch's storage: `size` values that lie outside the pickle and are filled in later."""

    dtype: str
    size: int
    values: np.ndarray | None = None


@dataclass
class _Tensor:
    """A view of a storage."""

    storage: Storage
    offset: int
    shape: tuple
    stride: tuple

    def numpy(self) -> np.ndarray:
        """A view, not a copy: many tensors of one storage cost nothing."""
        values = self.storage.values
        shape, stride = _sizes(self.shape), _sizes(self.stride)
        if values is None:
            raise ValueError("a tensor's storage is not in the file")
        if len(shape) != len(stride) or not isinstance(self.offset, int) or self.offset < 0:
            raise ValueError("a tensor has an impossible size, offset or stride")
        last = self.offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
        if 0 in shape:
            return np.zeros(shape, values.dtype)
        if last >= values.size:
            raise ValueError("a tensor reaches beyond its storage")
        if math.prod(shape) > values.size:
            raise ValueError("a tensor is larger than its storage")
        strides = [s * values.itemsize for s in stride]
        return np.lib.stride_tricks.as_strided(
            values[self.offset :], shape, strides, writeable=False
        )


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or len(value) > 32:
        raise ValueError("a shape is not a tuple of sizes")
    if any(not isinstance(n, int) or not 0 <= n < 1 << 62 for n in value):
        raise ValueError("a shape has an impossible size")
    return tuple(value)


# ---- the names that are known -------------------------------------------------------------------


def _reconstruct(kind: Any, shape: Any = (0,), code: Any = b"b") -> _Array:
    if kind != Name("numpy", "ndarray"):
        raise ValueError("an array is of an unknown kind")
    return _Array()


def _dtype(text: Any, *_: Any) -> _Dtype:
    if not isinstance(text, str) or not _DTYPE.fullmatch(text):
        raise ValueError(f"arrays of dtype {str(text)[:20]!r} are not weights")
    return _Dtype(text)


def _scalar(dtype: Any, raw: Any) -> Any:
    return _Array((1,), dtype, raw).numpy()[0]


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    return _Array(shape, dtype, raw, order == "F")


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("bytes are written in an unknown way")
    return text.encode("latin1")


def _no_bytes(*arguments: Any) -> bytes:
    """The empty bytes, as protocols 0 to 2 write them."""
    if arguments:
        raise ValueError("bytes are written in an unknown way")
    return b""


def _pairs(*arguments: Any) -> dict:
    """An ordered dictionary, from pairs, a dictionary, or nothing."""
    if not arguments or arguments == ([],):
        return {}
    (items,) = arguments
    items = list(items.items()) if isinstance(items, dict) else items
    found = {}
    for pair in items:
        key, value = pair
        found[_key(key)] = value
    return found


def _empty(*_: Any) -> dict:
    return {}


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> _Tensor:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor has no storage")
    return _Tensor(storage, offset, shape, stride)


def _first(value: Any, *_: Any) -> Any:
    """A parameter is its tensor, a Var its array, a size its tuple."""
    return value


KNOWN: dict[Name, Callable | None] = {
    Name("numpy", "ndarray"): None,
    Name("numpy", "dtype"): _dtype,
    Name("_codecs", "encode"): _encode,
    Name("builtins", "bytes"): _no_bytes,
    Name("__builtin__", "bytes"): _no_bytes,
    Name("collections", "OrderedDict"): _pairs,
    Name("collections", "Counter"): _pairs,
    Name("collections", "defaultdict"): _empty,
    Name("torch._utils", "_rebuild_tensor"): _tensor,
    Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Name("torch._utils", "_rebuild_parameter"): _first,
    Name("torch", "Size"): _first,
    Name("torch", "device"): _first,
    Name("jittor", "array"): _first,
    Name("jittor", "Var"): _first,
    Name("jittor", "jittor_core.Var"): _first,
    Name("jittor_core", "Var"): _first,
    Name("jittor_core.jittor_core", "Var"): _first,
}
for _core in ("numpy.core", "numpy._core"):
    KNOWN[Name(f"{_core}.multiarray", "_reconstruct")] = _reconstruct
    KNOWN[Name(f"{_core}.multiarray", "scalar")] = _scalar
    KNOWN[Name(f"{_core}.numeric", "_frombuffer")] = _from_buffer
for _factory in ("list", "dict", "int", "float"):  # of a defaultdict
    KNOWN[Name("builtins", _factory)] = None

STORAGES = {
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
_TORCH_DTYPES = {"float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool"}


def _known(module: Any, name: Any) -> Name:
    found = Name(str(module), str(name))
    if found in KNOWN or (module == "torch" and (name in STORAGES or name in _TORCH_DTYPES)):
        return found
    raise UserError(
        f"refused: the file asks for {plain(module)}.{plain(name)}, which no checkpoint needs and which "
        "could run code; do not trust where it came from"
    )


def plain(text: Any, most: int = 60) -> str:
    """Text out of a file, fit for a terminal: printable, on one line, not too long."""
    return "".join(c if c.isprintable() else "?" for c in str(text))[:most]


def _key(value: Any) -> Any:
    """Only simple keys: hashing nested tuples can take for ever."""
    if value is None or isinstance(value, str | int | float | bytes):
        return value
    raise ValueError(f"a dictionary has a key of kind {type(value).__name__}")


# ---- the interpreter ----------------------------------------------------------------------------


def load(raw: bytes | io.BytesIO, persistent: Callable[[Any], Any] | None = None) -> Any:
    """The value of one pickle, its arrays unresolved (see `resolve`). Raises ValueError or UserError.

    From a stream, reads up to the end of the pickle. `persistent` gives what the pickle calls by an
    identity (PyTorch's storages).
    """
    stream = io.BytesIO(raw) if isinstance(raw, bytes) else raw
    with warnings.catch_warnings():  # pickletools on odd escapes in a hostile file
        warnings.simplefilter("ignore")
        return _Machine(persistent).run(stream)


class _Machine:
    def __init__(self, persistent: Callable[[Any], Any] | None):
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, stream: io.BytesIO) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count > MOST_OPCODES:
                raise ValueError("it has far more parts than a checkpoint")
            name = opcode.name
            if name == "STOP":
                break
            if name in _VALUES:
                self.stack.append(argument)
            else:
                step = getattr(self, f"do_{name.lower()}", None)
                if step is None:
                    raise ValueError(f"it uses the pickle opcode {name}, which no checkpoint needs")
                step(argument)
        if len(self.stack) != 1 or self.marks:
            raise ValueError("it is not one complete value")
        return self.stack[0]

    def pop(self) -> Any:
        if not self.stack or (self.marks and self.marks[-1] >= len(self.stack)):
            raise ValueError("its stack is empty")
        return self.stack.pop()

    def since_mark(self) -> list[Any]:
        if not self.marks:
            raise ValueError("it lacks a mark")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def top(self, kind: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise ValueError(f"it adds to something that is not a {kind.__name__}")
        return self.stack[-1]

    def do_proto(self, version: int) -> None:
        if version > 5:
            raise ValueError(f"its pickle protocol is {version}")

    def do_frame(self, _: int) -> None:
        pass

    def do_mark(self, _: None) -> None:
        self.marks.append(len(self.stack))

    def do_pop(self, _: None) -> None:
        self.pop()

    def do_pop_mark(self, _: None) -> None:
        self.since_mark()

    def do_none(self, _: None) -> None:
        self.stack.append(None)

    def do_newtrue(self, _: None) -> None:
        self.stack.append(True)

    def do_newfalse(self, _: None) -> None:
        self.stack.append(False)

    def do_empty_list(self, _: None) -> None:
        self.stack.append([])

    def do_empty_tuple(self, _: None) -> None:
        self.stack.append(())

    def do_empty_dict(self, _: None) -> None:
        self.stack.append({})

    def do_list(self, _: None) -> None:
        self.stack.append(self.since_mark())

    def do_tuple(self, _: None) -> None:
        self.stack.append(tuple(self.since_mark()))

    def do_tuple1(self, _: None) -> None:
        self.stack.append((self.pop(),))

    def do_tuple2(self, _: None) -> None:
        second, first = self.pop(), self.pop()
        self.stack.append((first, second))

    def do_tuple3(self, _: None) -> None:
        third, second, first = self.pop(), self.pop(), self.pop()
        self.stack.append((first, second, third))

    def do_dict(self, _: None) -> None:
        items = self.since_mark()
        self.stack.append({})
        self._set(items)

    def do_append(self, _: None) -> None:
        value = self.pop()
        self.top(list).append(value)

    def do_appends(self, _: None) -> None:
        items = self.since_mark()
        self.top(list).extend(items)

    def do_setitem(self, _: None) -> None:
        value, key = self.pop(), self.pop()
        self._set([key, value])

    def do_setitems(self, _: None) -> None:
        self._set(self.since_mark())

    def _set(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise ValueError("a dictionary has a key without a value")
        found = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            found[_key(key)] = value

    def do_put(self, index: int) -> None:
        if not self.stack:
            raise ValueError("its stack is empty")
        self.memo[index] = self.stack[-1]

    do_binput = do_long_binput = do_put

    def do_memoize(self, _: None) -> None:
        self.do_put(len(self.memo))

    def do_get(self, index: int) -> None:
        if index not in self.memo:
            raise ValueError("it recalls what it never kept")
        self.stack.append(self.memo[index])

    do_binget = do_long_binget = do_get

    def do_global(self, names: str) -> None:
        self.stack.append(_known(*names.split(" ", 1)))

    def do_stack_global(self, _: None) -> None:
        name, module = self.pop(), self.pop()
        self.stack.append(_known(module, name))

    def do_reduce(self, _: None) -> None:
        arguments, function = self.pop(), self.pop()
        known = KNOWN.get(function) if isinstance(function, Name) else None
        if known is None or not isinstance(arguments, tuple):
            raise ValueError("it calls something that is not a function")
        try:
            self.stack.append(known(*arguments))
        except TypeError as error:
            raise ValueError(f"it calls {function.name} wrongly") from error

    def do_build(self, _: None) -> None:
        state = self.pop()
        target = self.stack[-1] if self.stack else None
        if isinstance(target, _Array | _Dtype):
            target.build(state)
        elif not isinstance(target, dict):  # a dictionary's is PyTorch's note of module versions
            raise ValueError("it changes something that cannot be changed")

    def do_binpersid(self, _: None) -> None:
        if self.persistent is None:
            raise ValueError("it refers to data outside itself")
        self.stack.append(self.persistent(self.pop()))


_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE"),
    *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}


# ---- from what was read to plain values ---------------------------------------------------------


def resolve(value: Any) -> Any:
    """The value with NumPy arrays in the place of everything that stood for one."""
    return _resolve(value, {}, 0)


def _resolve(value: Any, done: dict[int, Any], depth: int) -> Any:
    if depth > DEEPEST:
        raise ValueError(f"its containers are nested more than {DEEPEST} deep")
    if id(value) in done:
        return done[id(value)][1]
    if isinstance(value, _Array | _Tensor | _Dtype):
        found = value.numpy()
    elif isinstance(value, Name):
        found = f"{value.module}.{value.name}"
    elif isinstance(value, Storage):
        found = value.values
    elif isinstance(value, tuple):
        found = tuple(_resolve(v, done, depth + 1) for v in value)
    elif isinstance(value, list | dict):
        found = type(value)()
        done[id(value)] = value, found  # before its parts: it may hold itself
        if isinstance(value, list):
            found.extend(_resolve(v, done, depth + 1) for v in value)
        else:
            for key, part in value.items():
                found[key] = _resolve(part, done, depth + 1)
    else:
        return value
    done[id(value)] = value, found
    return found
