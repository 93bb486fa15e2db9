"""Checkpoints of honest training programs, as people send them: prefixes, wrappers, objects next to the weights."""

from __future__ import annotations

import argparse
import collections
import datetime
import gzip
import pathlib
import pickle
import types
from dataclasses import dataclass

import numpy as np
import pytest

import jfusion
from jfusion import checkpoint
from jfusion.checkpoint.weights import load_weights
from jfusion.errors import UserError
from jfusion.systems.film.config import TINY

MODEL = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([2.5], np.float32)}


def read(tmp_path, content):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(content, 4))
    return checkpoint.load(path)


def same(model):
    assert list(model) == list(MODEL)
    for name, value in MODEL.items():
        np.testing.assert_array_equal(model[name], value)


@pytest.mark.parametrize("key", checkpoint.WRAPPERS)
def test_weights_are_found_under_the_usual_keys(tmp_path, key):
    found = read(tmp_path, {"epoch": 3, key: MODEL, "optimizer": {"state": {}, "param_groups": []}})
    same(found["model"])
    assert found["epoch"] == 3


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "module.module."])
def test_prefixes_of_pytorchs_wrappers_are_removed(tmp_path, prefix):
    same(read(tmp_path, {prefix + k: v for k, v in MODEL.items()})["model"])


@pytest.mark.parametrize("prefix", ["model.", "net.", "module.net.", "model.module.model."])
@pytest.mark.parametrize("official", [False, True])
def test_prefixes_of_programs_are_removed_where_the_names_then_fit(prefix, official):
    film = jfusion.create("film", **TINY)
    state = {k: np.full(v.shape, 0.5, np.float32) for k, v in film.state().items()}
    named = {film.WEIGHTS.official(k) if official else k: v for k, v in state.items()}
    load_weights(film, {prefix + k: v for k, v in named.items()}, "the file")
    assert all((v == 0.5).all() for v in film.state().values())
    with pytest.raises(UserError, match="does not fit film"):
        load_weights(film, {f"other.{k}": v for k, v in named.items()}, "the file")


@dataclass
class Settings:
    """A class of the program that wrote the file; it is not known to who reads it."""

    width: int = 3


def objects():
    counts = collections.defaultdict(list)
    counts["x"].append(1)
    return {
        "args": argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("/a/b")),
        "plain": types.SimpleNamespace(width=3),
        "settings": Settings(),
        "when": datetime.datetime(2026, 1, 2),
        "names": {"one"},
        "frozen": frozenset({1}),
        "queue": collections.deque([1, 2]),
        "counts": counts,
        "complex": np.float64(0.5),
    }


@pytest.mark.parametrize("protocol", range(2, 6))
def test_objects_next_to_the_weights_do_not_hinder(tmp_path, protocol):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"model": MODEL, **objects()}, protocol))
    found = checkpoint.load(path)
    same(found["model"])
    assert found["args"]["lr"] == 0.1 and found["args"]["out"].endswith("a/b")
    assert found["plain"] == found["settings"] == {"width": 3}
    assert found["names"] == ["one"] and found["frozen"] == [1] and found["queue"] == [1, 2]
    assert found["counts"] == {"x": [1]}
    assert "x" in checkpoint.summary(path)


class Net:
    """Looks like a pickled PyTorch module."""

    def __init__(self):
        self._parameters, self._modules = {"weight": MODEL["b"]}, {}


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "is empty, that is truncated; get it again"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer.*git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        ("# Überschrift\n\tx = 1\n".encode(), "is a text file, not a checkpoint"),
        (gzip.compress(b"x" * 99, mtime=0), "a gzip archive; unpack it"),
        (pickle.dumps(Net()), r"an object of the class .*Net, not weights; .*state_dict"),
        (pickle.dumps({"net": Net(), "epoch": 1}), r"under 'net' it holds a whole network"),
        (pickle.dumps({"state": {0: {}}, "param_groups": [{}]}), "an optimizer's state"),
        (pickle.dumps({"model": MODEL})[:-40], "truncated: get it again"),
        (pickle.dumps([1, 2]), "holds a list, not a dictionary of weights"),
    ],
)
def test_what_is_no_checkpoint_is_named_as_what_it_is(tmp_path, raw, said):
    path = tmp_path / "x.pth"
    path.write_bytes(raw)
    with pytest.raises(UserError, match=said) as refused:
        checkpoint.load(path)
    assert "do not trust" not in str(refused.value) and "\n" not in str(refused.value)


def test_text_out_of_a_file_reaches_the_terminal_clean(tmp_path):
    path = tmp_path / "x.pkl"
    strange = "\x1b[31mred\udc80\n"
    checkpoint.save(path, {"model": {f"w{strange}": MODEL["b"]}, "note": strange})
    text = checkpoint.summary(path)
    text.encode()
    assert "\x1b" not in text and len(text.splitlines()) == 4
