"""Checkpoints that a stranger might send: bytes by name. See tests/checkpoint/test_hostile.py.

    python -m tests.hostile DIR

reads every file of DIR with little memory, and prints for each how long it took and what was said.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import sys
import time
import zipfile
from pathlib import Path

import numpy as np

MARKER = "executed"


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def call(module: str, name: str, *arguments: str) -> bytes:
    """A pickle that calls module.name(arguments)."""
    return f"c{module}\n{name}\n(".encode() + b"".join(map(text, arguments)) + b"tR."


def array(shape: bytes, raw: bytes = b"", dtype: str = "f4") -> bytes:
    """A pickle of a NumPy array with this shape (pickled) and these bytes."""
    start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
    kind = (
        b"cnumpy\ndtype\n("
        + text(dtype)
        + b"K\x00K\x01tR(K\x03"
        + text("<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    body = b"B" + struct.pack("<I", len(raw)) + raw
    return start + b"(K\x01" + shape + kind + b"\x89" + body + b"tb."


def tensor(
    offset: bytes = b"K\x00", shape: bytes = b"K\x04\x85", stride: bytes = b"K\x01\x85"
) -> bytes:
    """The pickle of a tensor of storage "0", four float32."""
    storage = (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x04tQ"
    )
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + shape + stride + b"\x89NtR."


def zipped(body: bytes, compress: bool = False, **parts: bytes) -> bytes:
    out = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w", kind) as file:
        file.writestr("archive/data.pkl", body)
        for name, raw in parts.items():
            file.writestr(name.replace("__", "/"), raw)
    return out.getvalue()


def old(*pickles: bytes, tail: bytes = b"") -> bytes:
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    return magic + b"".join(pickles) + tail


def safe(header: bytes, length: int | None = None, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + body


def large(number: int) -> bytes:
    raw = number.to_bytes(9, "little")
    return b"\x8a" + bytes([len(raw)]) + raw


def files() -> dict[str, bytes]:
    """Every hostile file; the ending is that of its name."""
    code = f"open({MARKER!r}, 'w')"
    touch = f"touch {MARKER}"
    four = np.arange(4, dtype="<f4").tobytes()
    laughs = (
        b"\x80\x04]\x94"
        + b"".join(b"](h" + bytes([i]) * 1 + b"h" + bytes([i]) + b"e\x94" for i in range(60))
        + b"."
    )
    hash_bomb = b"\x80\x04)\x94" + b"".join(
        b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86\x94" for i in range(60)
    )
    ndarray = b"cnumpy\nndarray\n"
    found = {
        # ---- code
        "system_protocol_0": f"cos\nsystem\n(S'{touch}'\ntR.".encode(),
        "system_stack_global": b"\x80\x04"
        + text("os")
        + text("system")
        + b"\x93"
        + text(touch)
        + b"\x85R.",
        "posix_system": call("posix", "system", touch),
        "popen": call("subprocess", "Popen", touch),
        "eval": call("builtins", "eval", code),
        "exec": call("builtins", "exec", code),
        "import": call("builtins", "__import__", "os"),
        "open": call("builtins", "open", MARKER, "w"),
        "getattr": call("builtins", "getattr", "x", "upper"),
        "getattr_chain": b"cbuiltins\ngetattr\n(cos\npath\n" + text("os") + b"tR.",
        "dotted_name": b"\x80\x04"
        + text("collections")
        + text("OrderedDict.__init__.__globals__")
        + b"\x93.",
        "python_2_name": call("__builtin__", "eval", code),
        "inst": f"(S'{touch}'\nios\nsystem\n.".encode(),
        "obj": b"(cos\nsystem\n" + text(touch) + b"o.",
        "newobj": b"\x80\x02cos\nsystem\n" + text(touch) + b"\x85\x81.",
        "newobj_ex": b"\x80\x04cos\nsystem\n" + text(touch) + b"\x85}\x92.",
        "newobj_of_a_known_name": b"\x80\x02cnumpy\nndarray\n" + large(1 << 40) + b"\x85\x85\x81.",
        "extension": b"\x80\x02\x82\x01.",
        "memo": b"cos\nsystem\nq\x000h\x00" + text(touch) + b"\x85R.",
        "nested_reduce": b"ccollections\nOrderedDict\n)R" + text(touch) + b"\x85R.",
        "in_a_model": b"}"
        + text("model")
        + b"}"
        + text("w")
        + call("os", "system", touch)[:-1]
        + b"ss.",
        "build_on_a_name": b"cnumpy\ndtype\n}" + text("__call__") + text("x") + b"sb.",
        "build_setattr": b"ccollections\nOrderedDict\n(N}" + text("fromkeys") + text("x") + b"stb.",
        "torch_load": call("torch", "load", "http://example.invalid/x"),
        "torch_hub": call("torch.hub", "load", "x", "y"),
        "numpy_load": call("numpy", "load", "/etc/passwd"),
        "jittor_code": call("jittor", "code", "x"),
        "codecs_decode": call("_codecs", "decode", "x", "zlib"),
        "bytearray": b"cbuiltins\nbytearray\n" + large(1 << 40) + b"\x85R.",
        "persistent": text("storage") + b"Q.",
        "persistent_text": b"Pos.system\n.",
        # ---- memory and time
        "memo_far_away": b"Nr\xff\xff\xff\xff.",
        "bytes_of_an_exabyte": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x.",
        "bytearray_of_a_terabyte": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.",
        "text_of_an_exabyte": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"x.",
        "frame_of_an_exabyte": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.",
        "integer_of_two_gigabytes": b"\x80\x02\x8b\xff\xff\xff\x7f1.",
        "integer_of_many_digits": b"I" + b"9" * 100_000 + b"\n.",
        "array_too_large": array(large(1 << 40) + b"\x85"),
        "array_of_products": array(large(1 << 40) * 2 + b"\x86"),
        "array_negative": array(b"J\xff\xff\xff\xff\x85"),
        "array_of_100_axes": array(b"(" + b"K\x01" * 100 + b"t", four[:4]),
        "array_of_objects": array(b"K\x01\x85", b"x", "O"),
        "array_of_a_huge_item": array(b"K\x01\x85", b"x", "V2000000000"),
        "array_of_strings": array(b"K\x01\x85", b"x", "S2000000000"),
        "array_made_directly": ndarray + large(1 << 40) + b"\x85\x85R.",
        "scalar_without_bytes": b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n"
        + text("f8")
        + b"\x85RNtR.",
        "deep_lists": b"]" * 100_000 + b"a" * 99_999 + b".",
        "deep_tuples": b")" + b"\x85" * 100_000 + b".",
        "laughs": laughs,
        "hash_bomb": hash_bomb + b"0}h" + bytes([60]) + b"Ns.",
        "hash_bomb_ordered": b"\x80\x04)\x94"
        + hash_bomb[4:]
        + b"0ccollections\nOrderedDict\n]h\x3cN\x86a\x85R.",
        "endless_opcodes": b"N0" * 700_000 + b"N.",
        "holds_itself": b"]q\x00h\x00a.",
        "empty_stack": b"0000.",
        "mark_without_end": b"((((.",
        "no_stop": b"N" * 100,
        "not_a_dictionary": pickle.dumps([1, 2, 3]),
        "encoded_copies": text("x" * 50_000)
        + b"q\x00]q\x01"
        + b"("
        + (b"c_codecs\nencode\n(h\x00" + text("latin1") + b"tR") * 2000
        + b"e.",
        "copied_pairs": b"}q\x00("
        + b"".join(text(str(i)) + b"N" for i in range(5000))
        + b"u]("
        + b"ccollections\nOrderedDict\n(h\x00tR" * 2000
        + b"e.",
        "integer_of_6000_digits": b"\x80\x02}"
        + text("w")
        + b"\x8b"
        + struct.pack("<i", 2500)
        + b"\x7f" * 2500
        + b"s.",
        "views_of_one_storage.pth": zipped(
            b"}("
            + b"".join(
                text(str(i))
                + tensor(shape=large(1 << 16) + b"\x85").replace(
                    b"K\x04tQ", large(1 << 16) + b"tQ"
                )[:-1]
                for i in range(3000)
            )
            + b"u.",
            archive__data__0=bytes(1 << 18),
        ),
        "whole_module": b"\x80\x02cmodels\nNet\n)\x81}" + text("_parameters") + b"}ssb.",
        "whole_module_inside": b"\x80\x02}"
        + text("net")
        + b"cmodels\nNet\n)\x81}"
        + text("_modules")
        + b"}sbs.",
        # ---- PyTorch's zip
        "zip_code.pth": zipped(call("os", "system", touch)),
        "zip_climbing_names.pth": zipped(b"}.", **{"..__..__" + MARKER: b"x"}) + b"",
        "zip_climbing_key.pth": zipped(tensor().replace(text("0"), text("../../../etc/passwd"))),
        "zip_compressed.pth": zipped(
            b"}" + text("w") + tensor()[:-1] + b"s.", True, archive__data__0=bytes(1 << 24)
        ),
        "zip_without_data.pth": zipped(b"}.").replace(b"data.pkl", b"data.xyz"),
        "zip_two_pickles.pth": zipped(b"}.", other__data=b"", x__data_pkl=b"").replace(
            b"x/data_pkl", b"x/data.pkl"
        ),
        "zip_huge_claim.pth": zipped(tensor(), archive__data__0=four).replace(
            struct.pack("<II", 16, 16), struct.pack("<II", 1 << 31, 1 << 31)
        ),
        "zip_missing_storage.pth": zipped(tensor()),
        "zip_short_storage.pth": zipped(tensor(), archive__data__0=four[:8]),
        "tensor_beyond.pth": zipped(tensor(offset=b"K\x01"), archive__data__0=four),
        "tensor_before.pth": zipped(tensor(offset=b"J\xff\xff\xff\xff"), archive__data__0=four),
        "tensor_of_a_point.pth": zipped(
            tensor(shape=large(10**9) * 2 + b"\x86", stride=b"K\x00K\x00\x86"),
            archive__data__0=four,
        ),
        "tensor_backwards.pth": zipped(
            tensor(stride=b"J\xff\xff\xff\xff\x85"), archive__data__0=four
        ),
        "tensor_of_text.pth": zipped(tensor(shape=text("4")), archive__data__0=four),
        # ---- PyTorch's old format
        "old_code.pth": old(call("os", "system", touch), b"]."),
        "old_without_storages.pth": old(tensor(), b"]."),
        "old_huge_storage.pth": old(
            tensor(), b"]" + text("0") + b"a.", tail=struct.pack("<q", 1 << 60)
        ),
        "old_negative_storage.pth": old(
            tensor(), b"]" + text("0") + b"a.", tail=struct.pack("<q", -1)
        ),
        "old_twice.pth": old(
            tensor(), b"](" + text("0") * 2 + b"e.", tail=(struct.pack("<q", 4) + four) * 2
        ),
        # ---- safetensors
        "header_of_an_exabyte.safetensors": safe(b"{}", 1 << 60),
        "header_not_json.safetensors": safe(b"[[[["),
        "header_deep.safetensors": safe(b'{"a":' * 50_000),
        "outside.safetensors": safe(
            b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}', body=b"x" * 8
        ),
        "overlapping.safetensors": safe(
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
            body=b"x" * 4,
        ),
        "absurd_shape.safetensors": safe(
            b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}',
            body=b"x" * 4,
        ),
        # ---- neither
        "empty": b"",
        "text": b"hello, world\n",
        "html": b"<!DOCTYPE html><html>404 not found</html>",
        "lfs_pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "gzip": b"\x1f\x8b\x08" + bytes(40),
        "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(40),
        "torchscript.pth": zipped(b"}.", archive__constants_pkl=b"x").replace(
            b"constants_pkl", b"constants.pkl"
        ),
        "other_archive.pth": zipped(b"}.").replace(b"data.pkl", b"read.txt"),
        "optimizer": pickle.dumps({"state": {}, "param_groups": []}),
        "tar": b"data/" + bytes(95) + b"0000644" + bytes(400),
    }
    return {name if "." in name else f"{name}.pkl": raw for name, raw in found.items()}


def main(folder: Path) -> None:
    """One JSON line a file: name, seconds of the processor, what was said (None: it was read)."""
    import resource

    from jfusion import checkpoint
    from jfusion.errors import UserError

    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    import safetensors.numpy  # noqa: F401  before the clock runs

    for path in sorted(folder.iterdir()):
        start, said = time.process_time(), None
        try:
            checkpoint.load(path)
        except UserError as error:
            said = str(error)
        print(json.dumps([path.name, time.process_time() - start, said]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
