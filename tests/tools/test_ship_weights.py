"""Shipping a training: the file in float16, the card, the paragraph; what is refused."""

from __future__ import annotations

import importlib

import h5py
import numpy as np
import pytest

import jfusion
from jfusion import checkpoint, weights
from jfusion.config import to_dict
from jfusion.systems.film.config import TINY
from tests.tools.test_results import TOOLS


class FakeEncoder:
    """An encoder of features of one width."""

    hash = "abc"

    def __init__(self, name):
        assert name == "minilm"

    def tokens(self, text):
        return [1, 2, 3]

    def encode(self, batch, length):
        return np.ones((1, length, TINY["text_dim"]), np.float32)


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    monkeypatch.setattr("jfusion.text.features.Encoder", FakeEncoder)
    return importlib.import_module("ship_weights")


@pytest.fixture
def trained(tmp_path):
    """A checkpoint of a tiny FILM as a training leaves it, and its training set."""
    with h5py.File(tmp_path / "x_train.h5", "w") as file:
        for sample in ("road_1", "road_2", "video_1"):
            for group in ("imageA", "imageB"):
                file[f"{group}/{sample}"] = np.zeros((1, 4, 4), np.float32)
    film = jfusion.create("film", **TINY)
    content = {"system": "film", "config": to_dict(film.config), "model": film.state()}
    content |= {"encoder": "minilm", "encoder_hash": "abc", "step": 7, "epoch": 1}
    content["options"] = {"data": str(tmp_path / "x_train.h5"), "seed": 3}
    checkpoint.save(tmp_path / "c.pkl", content)
    return tmp_path / "c.pkl"


def arguments(trained, out, *more):
    sources = [("road_", "Roads", "none stated"), ("video_", "Videos", "MIT")]
    listed = [word for source in sources for word in ("--source", *source)]
    common = ["--task", "IVF", "--command", "jfusion train film", "--hours", "0.1"]
    return [str(trained), "--name", "film-tiny", *common, *listed, "--out", str(out), *more]


def test_a_training_becomes_weights_with_a_card(tool, trained, tmp_path, monkeypatch, capsys):
    out = tmp_path / "weights"
    out.mkdir()
    options = ("--not-good-for", "medical pairs", "--commit", "abc1234", "--machine", "a computer")
    assert tool.main(arguments(trained, out, *options)) == 0
    assert "float16 changes a fused image by at most" in capsys.readouterr().out
    monkeypatch.setattr(weights, "FOLDER", out)
    weights.verify("film-tiny")
    card = weights.card("film-tiny")
    assert [(d["name"], d["count"], d["terms"]) for d in card["data"]] == [
        ("Roads", 2, "none stated"),
        ("Videos", 1, "MIT"),
    ]
    assert card["recipe"]["steps"] == 7 and card["recipe"]["seed"] == 3
    assert card["not_good_for"] == ["medical pairs"] and card["data_list"]["count"] == 3
    assert str(tmp_path) not in (out / "film-tiny.json").read_text()
    model = checkpoint.load(out / "film-tiny.safetensors")["model"]
    assert {v.dtype for v in model.values()} == {np.dtype(np.float16)}
    assert jfusion.load("film-tiny").neutral_text.shape == (3, TINY["text_dim"])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--name", "film"), "is the name of a system"),
        (("--source", "road_1", "More", "MIT"), "sample road_1 is of 2 of the sources"),
    ],
)
def test_what_cannot_be_shipped_leaves_nothing(tool, trained, tmp_path, capsys, more, words):
    out = tmp_path / "weights"
    out.mkdir()
    assert tool.main(arguments(trained, out, *more)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert words in line and not list(out.iterdir())


def test_what_float16_cannot_hold_is_refused(tool, trained, tmp_path, capsys):
    content = checkpoint.load(trained)
    name = next(iter(content["model"]))
    content["model"][name] = np.full_like(content["model"][name], 1e6)
    checkpoint.save(trained, {k: v for k, v in content.items() if k != "hash"})
    assert tool.main(arguments(trained, tmp_path / "out")) == 2
    assert f"{name} has values that float16 cannot hold" in capsys.readouterr().err
