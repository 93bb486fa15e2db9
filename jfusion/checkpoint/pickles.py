"""Reads pickles without Python's pickle machine: nothing in the file can run.

A small interpreter of the opcodes that checkpoints are made of. Names are never imported. A few stand
for functions here that build arrays and containers. Those that reach the system or run code are refused.
Every other class (a Namespace, a user's own) becomes an inert `Object`, which holds what was written and does
nothing. Memory is bounded by a small multiple of the file's size (`Budget`), time by `MOST_OPCODES`.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jfusion.errors import UserError

MOST_OPCODES = 600_000  # a network of 5000 tensors with Adam's state has about 450 000
DEEPEST = 100  # levels of containers
LARGEST_INTEGER = 1 << 128
COPIES = 8  # how many times its own size a file may make us hold
_DTYPE = re.compile(r"[<>=|]?(b1|\?|[iu][1248]|f[248]|c8|c16)")


class Budget:
    """The bytes and the parts that reading a file of `size` bytes may still make."""

    def __init__(self, size: int):
        self.bytes, self.parts = COPIES * size + (1 << 16), MOST_OPCODES

    def spend(self, size: int = 0, parts: int = 0) -> None:
        """Raises ValueError when the file makes more than any checkpoint of its size."""
        self.bytes, self.parts = self.bytes - size, self.parts - parts
        if self.bytes < 0 or self.parts < 0:
            raise ValueError("it unfolds to far more than its own size")


# ---- what a pickle can hold, before it is resolved ----------------------------------------------


@dataclass(frozen=True)
class Name:
    """A global name of the pickle; it is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return plain(f"{self.module}.{self.name}", 120)


@dataclass
class Object:
    """An instance of a class that is not ours: its name, what it was called with, and its state. Inert."""

    name: Name
    arguments: tuple = ()
    items: list | dict = field(default_factory=dict)

    def build(self, state: Any) -> None:
        """Keeps the state: attributes by name, or whatever the class would have read."""
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict | None):
            state = {**(state[0] or {}), **(state[1] or {})} if _are_dicts(*state) else state
        self.items = state if isinstance(state, dict) else {"state": state}


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
        dtype = np.dtype(self.text)
        return dtype.newbyteorder(self.order) if self.order in "<>" else dtype


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
    """PyTorch's storage: `size` values that are stored outside the pickle and are filled in later."""

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


def _list(items: Any = (), *_: Any) -> list:
    """A set, a deque or a range as the list of what it holds."""
    if not isinstance(items, list | tuple):
        raise ValueError("a collection is written in an unknown way")
    return list(items)


def _path(*parts: Any) -> str:
    return "/".join(map(str, parts)).replace("//", "/")


def _new(cls: Any, *arguments: Any) -> Any:
    """Copyreg's function: an empty instance of a class."""
    return Object(cls) if isinstance(cls, Name) else {}


def _are_dicts(*values: Any) -> bool:
    return all(v is None or isinstance(v, dict) for v in values)


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
    pairs = {}
    for pair in items:
        key, value = pair
        pairs[_key(key)] = value
    return pairs


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
    Name("collections", "deque"): _list,
    Name("copyreg", "_reconstructor"): _new,
    Name("copy_reg", "_reconstructor"): _new,
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
for _builtins in ("builtins", "__builtin__"):
    for _kind in ("set", "frozenset"):
        KNOWN[Name(_builtins, _kind)] = _list
    # the factory of a defaultdict, the base class of an object
    for _kind in ("list", "dict", "int", "float", "str", "bool", "tuple", "object"):
        KNOWN[Name(_builtins, _kind)] = None
for _kind in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"):
    KNOWN[Name("pathlib", _kind)] = _path
    KNOWN[Name("pathlib._local", _kind)] = _path

# Modules whose functions run code or reach the system. Nothing is imported, so they could do no harm
# here; but a file that names one was made to do harm elsewhere, and says so about its origin.
_ATTACKS = {
    *(
        "os",
        "posix",
        "nt",
        "sys",
        "subprocess",
        "builtins",
        "__builtin__",
        "shutil",
        "socket",
        "ctypes",
    ),
    *("importlib", "runpy", "code", "codeop", "pty", "commands", "webbrowser", "pickle", "_pickle"),
    *(
        "operator",
        "_operator",
        "functools",
        "types",
        "inspect",
        "multiprocessing",
        "threading",
        "asyncio",
    ),
    *(
        "timeit",
        "pdb",
        "bdb",
        "cProfile",
        "profile",
        "trace",
        "tempfile",
        "io",
        "_io",
        "urllib",
        "http",
    ),
    *(
        "marshal",
        "imp",
        "platform",
        "pip",
        "pkgutil",
        "zipimport",
        "signal",
        "atexit",
        "gc",
        "linecache",
    ),
}
_HARMLESS = {Name("types", "SimpleNamespace")}

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


def _named(module: Any, name: Any) -> Name:
    """A global name of the file. Raises UserError for one that exists to run code."""
    placeholder = Name(str(module), str(name))
    if placeholder in KNOWN or placeholder in _HARMLESS:
        return placeholder
    if placeholder.module.split(".")[0] in _ATTACKS or "__" in placeholder.name:
        raise UserError(
            f"refused: the file asks for {plain(module)}.{plain(name)}, which no checkpoint needs and "
            "which could run code; do not trust where it came from"
        )
    return placeholder


def plain(text: Any, most: int = 60) -> str:
    """Text out of a file, fit for a terminal: printable, on one line, not too long."""
    return "".join(c if c.isprintable() else "?" for c in str(text)[:most])


def _key(value: Any) -> Any:
    """Only simple keys: hashing nested tuples can take very long."""
    if value is None or isinstance(value, str | int | float | bytes):
        return value
    if isinstance(value, tuple) and all(isinstance(v, str | int | float | None) for v in value):
        return value
    raise ValueError(f"a dictionary has a key of kind {type(value).__name__}")


# ---- the interpreter ----------------------------------------------------------------------------


def load(raw: bytes | io.BytesIO, persistent: Callable[[Any], Any] | None = None) -> Any:
    """The value of one pickle, its arrays unresolved (see `resolve`). Raises ValueError or UserError.

    From a stream, reads up to the end of the pickle. `persistent` gives what the pickle calls by an
    identity (PyTorch's storages).
    """
    stream = io.BytesIO(raw) if isinstance(raw, bytes) else raw
    size = stream.getbuffer().nbytes - stream.tell()
    with warnings.catch_warnings():  # pickletools on odd escapes in a hostile file
        warnings.simplefilter("ignore")
        return _Machine(persistent, Budget(size)).run(stream)


_TOO_LARGE = "it holds an integer of more than 128 bits, which no checkpoint needs"


def _opcodes(stream: io.BytesIO) -> Iterator[tuple]:
    """The opcodes of a pickle with their arguments, as pickletools has them."""
    try:
        yield from pickletools.genops(stream)
    except ValueError as error:
        # Python's limit for integers that are written in digits
        raise ValueError(_TOO_LARGE if "digits" in str(error) else str(error)) from error


class _Machine:
    def __init__(self, persistent: Callable[[Any], Any] | None, budget: Budget):
        self.persistent, self.budget = persistent, budget
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, stream: io.BytesIO) -> Any:
        for count, (opcode, argument, _) in enumerate(_opcodes(stream)):
            if count > MOST_OPCODES:
                raise ValueError("it has far more parts than a checkpoint")
            name = opcode.name
            if name == "STOP":
                break
            if name in _VALUES:
                if isinstance(argument, int) and abs(argument) > LARGEST_INTEGER:
                    raise ValueError(_TOO_LARGE)
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

    do_empty_set = do_empty_list

    def do_frozenset(self, _: None) -> None:
        self.stack.append(self.since_mark())

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
        self._extend([value])

    def do_appends(self, _: None) -> None:
        self._extend(self.since_mark())

    do_additems = do_appends

    def _extend(self, values: list[Any]) -> None:
        if self.stack and isinstance(self.stack[-1], Object):  # a class that is a list
            target = self.stack[-1]
            target.items = target.items if isinstance(target.items, list) else []
            target.items.extend(values)
        else:
            self.top(list).extend(values)

    def do_setitem(self, _: None) -> None:
        value, key = self.pop(), self.pop()
        self._set([key, value])

    def do_setitems(self, _: None) -> None:
        self._set(self.since_mark())

    def _set(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise ValueError("a dictionary has a key without a value")
        target = self.stack[-1] if self.stack else None
        if isinstance(target, Object) and isinstance(target.items, dict):
            target = target.items  # a class that is a dictionary
        else:
            target = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

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
        self.stack.append(_named(*names.split(" ", 1)))

    def do_stack_global(self, _: None) -> None:
        name, module = self.pop(), self.pop()
        self.stack.append(_named(module, name))

    def do_reduce(self, _: None) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise ValueError("it calls something that is not a function")
        if function not in KNOWN:
            self.stack.append(Object(function, arguments))
            return
        if KNOWN[function] is None:
            raise ValueError(f"it calls {function}, which no checkpoint does")
        self.budget.spend(*map(sum, zip(*map(_cost, arguments), (0, 0), strict=False)))
        try:
            self.stack.append(KNOWN[function](*arguments))
        except TypeError as error:
            raise ValueError(f"it calls {function.name} wrongly") from error

    def do_newobj(self, _: None) -> None:
        arguments, cls = self.pop(), self.pop()
        if not isinstance(cls, Name) or not isinstance(arguments, tuple) or cls in KNOWN:
            raise ValueError("it makes an instance of something that is not a class")
        self.stack.append(Object(cls, arguments))

    def do_newobj_ex(self, _: None) -> None:
        named = self.pop()
        self.do_newobj(_)
        self.stack[-1].items = named if isinstance(named, dict) else {}

    def do_build(self, _: None) -> None:
        state = self.pop()
        target = self.stack[-1] if self.stack else None
        if isinstance(target, _Array | _Dtype | Object):
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


def _cost(value: Any) -> tuple[int, int]:
    """The bytes and the parts that a function may copy of an argument."""
    if isinstance(value, str | bytes | bytearray):
        return len(value), 0
    return (0, len(value)) if isinstance(value, list | tuple | dict) else (0, 1)


# ---- from what was read to plain values ---------------------------------------------------------


def resolve(value: Any, size: int) -> Any:
    """The value with NumPy arrays, lists and dictionaries in the place of what stood for one.

    An object of a class that is not known becomes the dictionary of its attributes, or the text of its
    name where it has none. size: the bytes of the file. Raises ValueError when it unfolds to far more.
    """
    return _resolve(value, {}, 0, Budget(size))


def _resolve(value: Any, done: dict[int, Any], depth: int, budget: Budget) -> Any:
    if depth > DEEPEST:
        raise ValueError(f"its containers are nested more than {DEEPEST} deep")
    if id(value) in done:
        return done[id(value)][1]
    if isinstance(value, Object):
        value.items = value.items or (list(value.arguments) if value.arguments else {})
        result = _resolve(value.items, done, depth + 1, budget) if value.items else str(value.name)
    elif isinstance(value, _Array | _Tensor | _Dtype):
        result = value.numpy()
        budget.spend(getattr(result, "nbytes", 0), 1)
    elif isinstance(value, Name):
        result = str(value)
    elif isinstance(value, Storage):
        result = value.values
    elif isinstance(value, tuple):
        result = tuple(_resolve(v, done, depth + 1, budget) for v in value)
    elif isinstance(value, list | dict):
        result = type(value)()
        done[id(value)] = value, result  # before its parts: it may hold itself
        if isinstance(value, list):
            result.extend(_resolve(v, done, depth + 1, budget) for v in value)
        else:
            for key, part in value.items():
                result[key] = _resolve(part, done, depth + 1, budget)
    else:
        return value
    done[id(value)] = value, result
    return result
