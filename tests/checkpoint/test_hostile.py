"""Checkpoints from strangers: one clear error, quickly, with little memory, and nothing happens."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jfusion import checkpoint
from jfusion.errors import UserError
from tests.conftest import GOLDEN
from tests.hostile import MARKER, files

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """[name, seconds, message] of every hostile file, read by a process with 1 GiB of memory."""
    folder, work = tmp_path_factory.mktemp("hostile"), tmp_path_factory.mktemp("work")
    for name, raw in files().items():
        (folder / name).write_bytes(raw)
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import runpy; runpy.run_module('tests.hostile', run_name='__main__')"
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert list(work.iterdir()) == [], "a file was made"
    assert sorted(p.name for p in folder.iterdir()) == sorted(files()), "a file was made"
    assert not Path(MARKER).exists()
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_hostile_file_is_refused_in_one_line_within_a_second(said):
    assert len(said) == len(files()) >= 30
    for name, seconds, message in said:
        assert message is not None, f"{name} was read"
        assert name in message and "\n" not in message and len(message) < 600, name
        assert seconds < 1, (name, seconds)


def test_code_is_refused_by_name(said):
    messages = {name: message for name, _, message in said}
    for name in (
        "system_protocol_0.pkl",
        "memo.pkl",
        "in_a_model.pkl",
        "zip_code.pth",
        "old_code.pth",
    ):
        assert "refused: the file asks for os.system" in messages[name]


def good_files(tmp_path) -> dict[str, bytes]:
    model = {"a": np.arange(60, dtype=np.float32).reshape(6, 10), "b": np.float32([1])}
    found = {p.name: p.read_bytes() for p in sorted((GOLDEN / "torch").glob("*.pth"))}
    for suffix in ("pkl", "safetensors", "pth"):
        checkpoint.save(tmp_path / f"ours.{suffix}", {"model": model, "epoch": 1})
        found[f"ours.{suffix}"] = (tmp_path / f"ours.{suffix}").read_bytes()
    return found


def test_files_cut_at_every_twentieth_are_refused(tmp_path):
    for name, raw in good_files(tmp_path).items():
        path = tmp_path / f"cut_{name}"
        path.write_bytes(raw)
        checkpoint.load(path)
        for part in range(20):
            path.write_bytes(raw[: len(raw) * part // 20])
            with pytest.raises(UserError, match=path.name):
                checkpoint.load(path)


@given(st.data())
@settings(max_examples=300)
def test_damaged_files_give_weights_or_one_error(tmp_path_factory, data):
    """Bytes changed, dropped and inserted anywhere; whatever comes of it is arrays or a UserError."""
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    good = good_files(folder)
    name = data.draw(st.sampled_from(sorted(good)))
    raw = bytearray(good[name])
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(raw) - 1))
        kind = data.draw(st.sampled_from(["change", "drop", "insert"]))
        if kind == "change":
            raw[place] = data.draw(st.integers(0, 255))
        elif kind == "drop":
            del raw[place : place + data.draw(st.integers(1, 9))]
        else:
            raw[place:place] = data.draw(st.binary(min_size=1, max_size=9))
        if not raw:
            break
    read_or_refused(folder / f"x.{name.split('.')[-1]}", bytes(raw))


opcodes = st.sampled_from(
    [bytes([b]) for b in b"()]}.0NKJXUCRbtsuaelqrhjcQ\x80\x81\x85\x86\x87\x88\x89\x8c\x93\x94\x95"]
)


@given(st.lists(st.one_of(opcodes, st.binary(max_size=4)), max_size=60).map(b"".join))
@settings(max_examples=300)
def test_random_opcodes_give_weights_or_one_error(tmp_path_factory, body):
    read_or_refused(tmp_path_factory.getbasetemp() / "random.pkl", body + b".")


def read_or_refused(path, raw):
    path.write_bytes(raw)
    try:
        model = checkpoint.load(path)["model"]
    except UserError as error:
        assert path.name in str(error) and "\n" not in str(error)
    else:
        assert all(isinstance(v, np.ndarray) and v.dtype != object for v in model.values())


def test_python_would_have_run_what_is_refused(tmp_path, monkeypatch):
    """The files are real attacks: Python's own machine falls for them."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(files()["system_protocol_0.pkl"])
    assert Path(MARKER).exists()
