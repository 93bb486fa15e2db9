"""Weights that come with jfusion: found by name, described by a card, refused when damaged."""

from __future__ import annotations

import hashlib
import json
import re

import numpy as np
import pytest

import jfusion
from jfusion import checkpoint, inference, weights
from jfusion.cli import main
from jfusion.data.layout import TASKS
from jfusion.errors import UserError
from jfusion.systems import registry
from jfusion.weights import cards


def entry(path):
    data = path.read_bytes()
    return {"name": path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def ship(folder, name="tiny-ivf", task="IVF", model=None, features=None, **record):
    """Writes weights called `name` with their card into a folder; returns the card."""
    content = {"system": "film", "config": {}, **record}
    model = {"w": np.ones((2, 3), np.float16)} if model is None else model
    checkpoint.save(folder / f"{name}.safetensors", {"model": model, **content})
    text = None
    if features is not None:
        np.save(folder / f"{name}.npy", features)
        text = {"encoder": "minilm", "encoder_hash": "", "paragraph": "Two images of one scene."}
        text["file"] = entry(folder / f"{name}.npy")
    card = {
        "name": name,
        "file": entry(folder / f"{name}.safetensors"),
        "system": content["system"],
        "tasks": task.split(),
        "settings": content["config"],
        "text": text,
        "data": [{"name": "Pairs", "count": 2, "terms": "none stated"}],
        "data_list": {"count": 2, "sha256": "0" * 64},
        "recipe": {"commands": ["jfusion train film"], "commit": "0", "seed": 0, "steps": 1},
        "measured": [],
        "not_good_for": ["anything"],
        "license": "Apache-2.0",
    }
    cards.write(folder / f"{name}.json", card)
    return card


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder of weights, with defaults, in the place of jfusion's."""
    place = tmp_path / "weights"
    place.mkdir()
    (place / "defaults.json").write_text(json.dumps({"IVF": "guided", "MFF": "tiny-mff"}))
    monkeypatch.setattr(weights, "FOLDER", place)
    return place


# ---- what is really there ------------------------------------------------------------------------


def test_what_comes_with_jfusion_is_complete_and_undamaged():
    sizes = []
    for name in weights.names():
        weights.verify(name)
        card = weights.card(name)
        assert card["name"] == name and name not in registry.names()
        assert set(card["tasks"]) <= set(TASKS) and card["system"] in registry.SYSTEMS
        assert {"commands", "commit", "seed", "steps", "hours", "machine"} <= set(card["recipe"])
        assert card["data"] and card["not_good_for"] and card["license"]
        sizes.append(card["file"]["bytes"])
    assert all(size <= 8 << 20 for size in sizes) and sum(sizes) <= 40 << 20
    described = {f["name"] for name in weights.names() for f in cards.files(weights.card(name))}
    there = {p.name for s in ("safetensors", "npy") for p in weights.FOLDER.glob(f"*.{s}")}
    assert there == described


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_a_default_that_works_as_it_is(task):
    name = weights.default_for(task)
    if name in weights.names():
        assert task in weights.card(name)["tasks"]
    else:
        assert not registry.create(name).needs_weights


# ---- names and cards -----------------------------------------------------------------------------


def test_without_any_weights_everything_says_so(folder, capsys):
    assert weights.names() == []
    assert main(["weights"]) == 0 and main(["weights", "verify"]) == 0
    assert "no weights come with this version" in capsys.readouterr().out
    with pytest.raises(UserError, match="unknown weights 'film-ivf'; this version brings none"):
        weights.card("film-ivf")


def test_one_and_several_are_listed_by_task_and_system(folder, capsys):
    ship(folder)
    assert weights.names() == ["tiny-ivf"]
    ship(folder, "tiny-mff", "MFF", system="cddfuse")
    assert weights.names() == ["tiny-ivf", "tiny-mff"]
    assert weights.names("MFF") == weights.names(system="cddfuse") == ["tiny-mff"]
    assert weights.names("IVF", "cddfuse") == []
    ship(folder, "tiny-two", "IVF MEF")
    assert weights.names("IVF") == ["tiny-ivf", "tiny-two"] and weights.names("MEF") == ["tiny-two"]
    assert main(["weights", "list"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"tiny-ivf +film, IVF, 0\.0 MiB", printed)
    assert re.search(r"MFF +tiny-mff", printed) and re.search(r"PIF +nothing", printed)
    with pytest.raises(UserError, match="unknown weights 'tiny-ifv'; did you mean 'tiny-ivf'"):
        weights.card("tiny-ifv")


def test_a_card_is_shown_as_it_is(folder, capsys):
    card = ship(folder)
    assert main(["weights", "show", "tiny-ivf"]) == 0
    assert json.loads(capsys.readouterr().out) == card
    assert main(["weights", "show"]) == 2
    assert "needs a name" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["missing", "type", "unknown", "path", "json"])
def test_a_card_that_is_not_complete_is_refused_by_what_is_wrong(folder, kind):
    card = ship(folder)
    if kind == "missing":
        del card["license"]
    changed = {"type": {"data": {}}, "unknown": {"licence": "MIT"}}.get(kind, {})
    text = json.dumps({**card, **changed})
    text = text.replace('"tiny-ivf.safetensors"', '"../tiny"') if kind == "path" else text
    (folder / "tiny-ivf.json").write_text("{" if kind == "json" else text)
    words = {"missing": "license", "type": "data", "unknown": "licence"}
    words |= {"path": "no name of a file", "json": "not valid JSON"}
    with pytest.raises(UserError, match=rf"card .*tiny-ivf\.json.*{words[kind]}"):
        weights.card("tiny-ivf")


# ---- hashes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["safetensors", "npy"])
@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_a_damaged_file_is_refused_in_one_line_everywhere(folder, capsys, suffix, damage):
    ship(folder, features=np.zeros((2, 4), np.float16))
    ship(folder, "whole-ivf")
    path = folder / f"tiny-ivf.{suffix}"
    data = path.read_bytes()
    changed = data[:-1] + bytes([data[-1] ^ 1])
    path.write_bytes(data[:-5] if damage == "cut" else changed)
    if damage == "gone":
        path.unlink()
    word = "lack their file" if damage == "gone" else "its SHA-256 is not the one on the card"
    for use in (weights.find, inference.find_checkpoint, jfusion.load):
        with pytest.raises(UserError, match=word):
            use("tiny-ivf")
    assert main(["inspect", "tiny-ivf"]) == 2
    assert main(["weights", "verify"]) == 2
    output = capsys.readouterr()
    assert len(output.err.strip().splitlines()) == 2
    assert "whole-ivf: 1 file, hashes right" in output.out


# ---- which weights are used ----------------------------------------------------------------------


def test_a_name_is_a_checkpoint_and_a_path_stays_one(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ship(folder)
    file = folder / "tiny-ivf.safetensors"
    assert weights.resolve("tiny-ivf") == inference.find_checkpoint("tiny-ivf") == file
    checkpoint.save("mine.pkl", {"model": {"w": np.zeros(1, np.float32)}})
    assert inference.find_checkpoint("mine.pkl").name == "mine.pkl"
    with pytest.raises(UserError, match=r"tiny-ifv does not exist.*did you mean 'tiny-ivf'"):
        inference.find_checkpoint("tiny-ifv")
    with pytest.raises(UserError, match=r"\./tiny-ivf|tiny-ivf does not exist"):
        inference.find_checkpoint("./tiny-ivf")
    assert main(["inspect", "tiny-ivf"]) == 0
    assert main(["convert", "tiny-ivf", "copy.pkl"]) == 0


def test_what_is_not_named_is_the_default_of_the_task(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert inference.chosen(None, None, "IVF") == (None, "guided")
    assert inference.system_of() == "guided"
    ship(folder, "tiny-mff", "MFF", system="cddfuse")
    assert inference.chosen(None, None, "MFF") == ("tiny-mff", None)
    assert inference.system_of(task="MFF") == inference.system_of("tiny-mff") == "cddfuse"
    assert inference.chosen("exp", None, "MFF") == ("exp", None)
    assert inference.chosen(None, "laplacian", "MFF") == (None, "laplacian")
    assert inference.chosen(None, "cddfuse", "IVF") == ("tiny-mff", "cddfuse")
    with pytest.raises(UserError, match="unknown task 'IVV'"):
        inference.chosen(None, None, "IVV")


def test_a_fresh_run_is_used_only_when_it_is_asked_for(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "exp/1"
    (run / "model").mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"system": "film"}))
    checkpoint.save(run / "model/ckpt_1.pkl", {"model": {"x": np.ones(1, np.float32)}})
    assert inference.chosen(None, None, "IVF") == (None, "guided")
    with pytest.raises(UserError, match=r"no weights of film come with jfusion.*\(exp: the newest"):
        inference.find_checkpoint(None, "film")
    assert inference.find_checkpoint("exp").name == "ckpt_1.pkl"


# ---- with a network ------------------------------------------------------------------------------


@pytest.fixture
def film(folder):
    """A tiny FILM among the weights, whose general paragraph has features of its own."""
    from jfusion.config import to_dict
    from jfusion.systems.film.config import TINY

    system = jfusion.create("film", **TINY)
    half = {k: v.astype(np.float16) for k, v in system.state().items()}
    rng = np.random.default_rng(0)
    features = rng.standard_normal((5, system.config.text_dim)).astype(np.float16)
    ship(folder, model=half, features=features, config=to_dict(system.config), encoder="minilm")
    return system, features.astype(np.float32)


def test_weights_are_loaded_by_name_and_bring_a_paragraph(film, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    trained, features = film
    a, b = np.random.default_rng(1).random((2, 20, 24)).astype(np.float32)
    loaded = jfusion.load("tiny-ivf")
    for name, value in loaded.state().items():
        np.testing.assert_array_equal(value, trained.state()[name].astype(np.float16))
    np.testing.assert_array_equal(loaded.neutral_text, features)
    expected = loaded.fuse(a, b, features)
    np.testing.assert_array_equal(loaded.fuse(a, b), expected)
    batch = np.stack([a, b])[:, None]
    assert loaded.fuse(batch, batch[::-1].copy()).shape == (2, 1, 20, 24)
    assert not np.array_equal(loaded.fuse(a, b, features[::-1].copy()), expected)


def test_fuse_and_test_need_no_paragraphs_then(film, tmp_path, monkeypatch, capsys):
    from PIL import Image

    from tests.commands.test_preprocess import make_dataset, random_pair

    monkeypatch.chdir(tmp_path)
    pair = random_pair(0, (20, 24))
    for name, pixels in zip("ab", pair, strict=True):
        Image.fromarray(pixels).save(f"{name}.png")
    arguments = ["fuse", "--weights", "tiny-ivf", "--a", "a.png", "--b", "b.png"]
    assert main(arguments) == 0
    assert "bring a paragraph that fits every pair" in capsys.readouterr().out
    make_dataset(tmp_path / "VLFDataset", {"one": pair}, dataset="Mine")
    for path in (tmp_path / "VLFDataset/TextFeature").rglob("*.npy"):
        path.unlink()
    assert main(["test", "--weights", "tiny-ivf", "--dataset", "Mine"]) == 0
    fused = np.asarray(Image.open("test_output/Mine/Color/one.png"))
    np.testing.assert_array_equal(fused, np.asarray(Image.open("fused/a.png")))


def test_weights_of_another_task_are_used_with_a_note(folder, tmp_path, capsys):
    ship(folder, "tiny-mff", "MFF MEF")
    ship(folder, "tiny-ivf")
    used = folder / "tiny-mff.safetensors"
    for path, task in ((used, "MFF"), (used, "MEF"), (tmp_path / "mine.pkl", "IVF"), (None, "IVF")):
        inference.note_other_task(path, task)
    assert not capsys.readouterr().out
    inference.note_other_task(used, "IVF")
    (line,) = capsys.readouterr().out.splitlines()
    assert "tiny-mff was trained for MFF, MEF, not for IVF; weights for IVF: tiny-ivf" in line
