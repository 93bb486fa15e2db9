"""Safetensors: the types that NumPy has, bfloat16, and the others in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from jfusion import checkpoint
from jfusion.checkpoint import bfloat16
from jfusion.checkpoint.safetensors_file import Tensors, read_tensors
from jfusion.cli import main
from jfusion.errors import UserError

VALUES = np.array([[1.5, -2.25, 0.125], [3.0, -0.0, 1e30]], np.float32)


def as_bfloat16(value):
    """The upper halves of float32 numbers, as bytes."""
    return (value.view("<u4") >> 16).astype("<u2").tobytes()


def write(path, *tensors):
    """A file of (name, type, shape, bytes), by hand: safetensors' NumPy side cannot write bfloat16."""
    entries, data = {}, b""
    for name, dtype, shape, raw in tensors:
        offsets = [len(data), len(data) + len(raw)]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        data += raw
    head = json.dumps(entries).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + data)
    return path


@pytest.fixture
def mixed(tmp_path):
    """A file with a bfloat16 and a float32 tensor, and the values of the first that bfloat16 holds."""
    raw = as_bfloat16(VALUES)
    plain = np.arange(4, dtype=np.float32)
    path = write(
        tmp_path / "model.safetensors",
        ("narrow", "BF16", VALUES.shape, raw),
        ("plain", "F32", (4,), plain.tobytes()),
    )
    return path, bfloat16.to_float32(raw).reshape(VALUES.shape), plain


def test_every_bfloat16_number_is_the_upper_half_of_its_float32():
    raw = np.arange(1 << 16, dtype="<u2")
    values = bfloat16.to_float32(raw.tobytes())
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values.view("<u4"), raw.astype("<u4") << 16)
    assert np.isinf(values[0x7F80]) and np.isnan(values[0x7FC0]) and values[0x3F80] == 1


def test_a_checkpoint_in_bfloat16_is_read_as_float32(mixed, capsys):
    path, narrow, plain = mixed
    model = checkpoint.load(path)["model"]
    assert {v.dtype for v in model.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(model["narrow"], narrow)
    np.testing.assert_array_equal(model["plain"], plain)
    np.testing.assert_array_equal(narrow[:, :2], VALUES[:, :2])
    assert main(["inspect", str(path)]) == 0
    assert "narrow  2x3" in capsys.readouterr().out
    assert main(["convert", str(path), str(path.with_name("x.pkl"))]) == 0
    np.testing.assert_array_equal(
        checkpoint.load(path.with_name("x.pkl"))["model"]["narrow"], narrow
    )


def test_an_encoders_tensors_are_read_by_the_same_reader(mixed):
    path, narrow, _ = mixed
    np.testing.assert_array_equal(Tensors(path.parent).read("narrow"), narrow)
    assert list(read_tensors(path, ["plain"])) == ["plain"]


def test_numpys_types_stay_as_they_are(tmp_path):
    tensors = {
        str(np.dtype(t)): np.array([0, 1, 1], t)
        for t in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?")
    }
    save_file(tensors, tmp_path / "x.safetensors")
    model = checkpoint.load(tmp_path / "x.safetensors")["model"]
    for name, value in tensors.items():
        assert model[name].dtype == value.dtype
        np.testing.assert_array_equal(model[name], value)


def test_another_type_is_named_with_its_tensor(tmp_path):
    path = write(tmp_path / "model.safetensors", ("w", "F8_E4M3", (2,), b"ab"))
    message = r"model\.safetensors: tensor 'w' is of type F8_E4M3, which is not read"
    with pytest.raises(UserError, match=message):
        checkpoint.load(path)
    with pytest.raises(UserError, match=message):
        Tensors(tmp_path).read("w")


def test_a_truncated_file_is_one_line(mixed):
    path = mixed[0]
    raw = path.read_bytes()
    for length in (7, 40, len(raw) - 1):
        path.write_bytes(raw[:length])
        with pytest.raises(UserError, match=r"model\.safetensors .*truncated"):
            checkpoint.load(path)
