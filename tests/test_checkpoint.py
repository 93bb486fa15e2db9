"""Reading and writing weights; files from strangers run no code."""

from __future__ import annotations

import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from jfusion import checkpoint
from jfusion.errors import UserError
from tests.conftest import GOLDEN

MODEL = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([2.5], np.float32)}


@pytest.mark.parametrize("suffix", ["pkl", "safetensors"])
def test_what_is_written_is_read(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    checkpoint.save(path, {"model": MODEL, "epoch": 3, "config": {"size": [1, 2]}})
    content = checkpoint.load(path)
    assert list(content["model"]) == list(MODEL)
    for name, value in MODEL.items():
        np.testing.assert_array_equal(content["model"][name], value)
    if suffix == "pkl":
        assert content["epoch"] == 3 and content["config"] == {"size": [1, 2]}


def test_jittor_reads_ours_and_we_read_jittors(tmp_path):
    from jfusion.runtime import jt

    checkpoint.save(tmp_path / "ours.pkl", {"model": MODEL})
    np.testing.assert_array_equal(jt.load(str(tmp_path / "ours.pkl"))["model"]["b"], MODEL["b"])
    jt.save({k: jt.array(v) for k, v in MODEL.items()}, str(tmp_path / "theirs.pkl"))
    for name, value in checkpoint.load(tmp_path / "theirs.pkl")["model"].items():
        np.testing.assert_array_equal(value, MODEL[name])


@pytest.mark.parametrize("name", ["module_prefix.pth", "plain.pth"])
def test_pytorch_files_are_read_without_pytorch(name):
    model = checkpoint.load(GOLDEN / "torch" / name)["model"]
    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    expected = {
        "plain": base,
        "transposed": base.T,
        "row": base[1],
        "half": base,
        "bfloat16": base,
        "long": np.arange(3),
        "scalar": 2.5,
        "parameter": base + 1,
    }
    assert set(model) == set(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(model[key], value)
        assert model[key].shape == np.shape(value)


class _Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(tmp_path):
    marker = tmp_path / "executed"
    code = f"open({str(marker)!r}, 'w')"
    return marker, {
        "system": _Call(os.system, f"touch {marker}"),
        "eval": _Call(eval, code),
        "exec": _Call(exec, code),
        "getattr": _Call(getattr, "x", "upper"),
        "import": _Call(__import__, "os"),
        "nested": {"model": {"w": [_Call(os.system, f"touch {marker}")]}},
        "open": _Call(open, str(marker), "w"),
    }


def test_hostile_files_run_nothing(tmp_path):
    marker, payloads = hostile(tmp_path)
    for name, payload in payloads.items():
        body = pickle.dumps(payload)
        (tmp_path / "x.pkl").write_bytes(body)
        with pytest.raises(UserError, match=r"x\.pkl|refused"):
            checkpoint.load(tmp_path / "x.pkl")
        with zipfile.ZipFile(tmp_path / "x.pth", "w") as file:
            file.writestr("archive/data.pkl", body)
        with pytest.raises(UserError, match=r"x\.pth|refused"):
            checkpoint.load(tmp_path / "x.pth")
        assert not marker.exists(), name


def test_truncated_and_changed_files_are_refused(tmp_path):
    checkpoint.save(tmp_path / "good.pkl", {"model": MODEL})
    whole = (tmp_path / "good.pkl").read_bytes()
    torch_file = (GOLDEN / "torch/plain.pth").read_bytes()
    changed = bytearray(whole)
    changed[len(changed) // 2] ^= 1
    cases = [bytes(changed), b"", *(whole[: len(whole) * i // 20] for i in range(1, 20))]
    cases += [torch_file[: len(torch_file) * i // 20] for i in range(1, 20)]
    for case in cases:
        (tmp_path / "bad.pkl").write_bytes(case)
        with pytest.raises(UserError, match=r"bad\.pkl"):
            checkpoint.load(tmp_path / "bad.pkl")


def test_a_tensor_cannot_reach_beyond_its_storage():
    storage = np.zeros(4, np.float32)
    for offset, shape, stride in (
        (0, (5,), (1,)),
        (3, (2,), (1,)),
        (0, (10**9, 10**9), (0, 0)),
        (-1, (1,), (1,)),
    ):
        with pytest.raises(ValueError, match="tensor"):
            checkpoint._tensor(storage, offset, shape, stride)


def test_other_content_is_explained(tmp_path):
    for content in ([1, 2], "text", {"model": {"w": "text"}}, {1: np.zeros(2)}):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(UserError, match=r"x\.pkl"):
            checkpoint.load(tmp_path / "x.pkl")
    with pytest.raises(UserError, match="does not exist"):
        checkpoint.load(tmp_path / "none.pkl")


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "x.pkl"
    checkpoint.save(path, {"model": MODEL})
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(UserError, match="No space left"):
        checkpoint.save(path, {"model": {}})
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["x.pkl"]


def test_names_translate_both_ways():
    names = checkpoint.NameMap({"old{i}.{p}": "new.{i}.{p}"})
    assert names.ours("old3.weight") == "new.3.weight"
    assert names.official("new.3.weight") == "old3.weight"
    assert names.ours("old3.a.weight") == "old3.a.weight"


def test_unpickler_needs_no_file_system():
    assert checkpoint._Unpickler(io.BytesIO(pickle.dumps({"a": [1, (2.0, "x")]}))).load() == {
        "a": [1, (2.0, "x")]
    }
