"""Reading and writing weights; files from strangers run no code."""

from __future__ import annotations

import hashlib
import pickle
import zipfile

import numpy as np
import pytest

import jfusion
from jfusion import checkpoint
from jfusion.checkpoint import torch_file
from jfusion.checkpoint.weights import load_weights
from jfusion.cli import main
from jfusion.config import to_dict
from jfusion.errors import UserError
from jfusion.runs import Run
from jfusion.systems.film.config import TINY
from tests.conftest import GOLDEN

MODEL = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([2.5], np.float32)}


@pytest.mark.parametrize("suffix", ["pkl", "safetensors", "pth"])
def test_what_is_written_is_read(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    checkpoint.save(path, {"model": MODEL, "epoch": 3, "config": {"size": [1, 2]}})
    content = checkpoint.load(path)
    assert list(content["model"]) == list(MODEL)
    for name, value in MODEL.items():
        np.testing.assert_array_equal(content["model"][name], value)
    assert content["epoch"] == 3 and content["config"] == {"size": [1, 2]}


def test_the_record_of_a_pth_does_not_change_what_pytorch_reads(tmp_path):
    for name, record in (("with", {"system": "film"}), ("without", {})):
        torch_file.write_zip(tmp_path / f"{name}.pth", MODEL, record)
    with (
        zipfile.ZipFile(tmp_path / "with.pth") as a,
        zipfile.ZipFile(tmp_path / "without.pth") as b,
    ):
        assert set(a.namelist()) - set(b.namelist()) == {"archive/jfusion.json"}
        assert all(a.read(name) == b.read(name) for name in b.namelist())


def test_settings_that_no_tensor_shows_survive_an_export_to_pth(tmp_path):
    """The token grid of FILM changes the result, and no weight has its size."""
    film = jfusion.create("film", **TINY)
    content = {"system": "film", "config": to_dict(film.config), "model": film.state()}
    checkpoint.save(tmp_path / "ours.pkl", content)
    main(["convert", str(tmp_path / "ours.pkl"), str(tmp_path / "theirs.pth"), "--system", "film"])
    exported = jfusion.load(tmp_path / "theirs.pth")
    assert exported.config == film.config


def test_jittor_reads_ours_and_we_read_jittors(tmp_path):
    from jfusion.runtime import jt

    checkpoint.save(tmp_path / "ours.pkl", {"model": MODEL})
    np.testing.assert_array_equal(jt.load(str(tmp_path / "ours.pkl"))["model"]["b"], MODEL["b"])
    jt.save({k: jt.array(v) for k, v in MODEL.items()}, str(tmp_path / "theirs.pkl"))
    for name, value in checkpoint.load(tmp_path / "theirs.pkl")["model"].items():
        np.testing.assert_array_equal(value, MODEL[name])


@pytest.mark.parametrize("name", ["module_prefix.pth", "plain.pth", "old_format.pth"])
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
    names = checkpoint.WeightMap({"old{i}.{p}": "new.{i}.{p}"})
    assert names.ours("old3.weight") == "new.3.weight"
    assert names.official("new.3.weight") == "old3.weight"
    assert names.ours("old3.a.weight") == "old3.a.weight"


@pytest.mark.parametrize("name", ["networks.pth", "networks_old_format.pth"])
def test_several_networks_in_one_file_become_one_model(name):
    content = checkpoint.load(GOLDEN / "torch" / name)
    weight, bias = np.arange(6.0).reshape(3, 2), np.array([7.0, 8.0, 9.0])
    assert content["epoch"] == 119 and "optimizer1" in content
    assert set(content["model"]) == {
        f"{network}.{p}"
        for network in ("DIDF_Encoder", "BaseFuseLayer")
        for p in ("weight", "bias")
    }
    for network in ("DIDF_Encoder", "BaseFuseLayer"):
        np.testing.assert_array_equal(content["model"][f"{network}.weight"], weight)
        np.testing.assert_array_equal(content["model"][f"{network}.bias"], bias)


@pytest.mark.parametrize("protocol", range(6))
def test_numpy_arrays_of_every_pickle_protocol_are_read(tmp_path, protocol):
    model = {
        "f4": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"),
        "half": np.float16([[1.5]]),
        "flags": np.array([True, False]),
        "scalar": np.float64(2.5),
        "number": 3,
        "empty": np.zeros((0, 4), np.float32),
    }
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(model, protocol))
    found = checkpoint.load(tmp_path / "x.pkl")["model"]
    assert list(found) == list(model)
    for name, value in model.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda raw: raw.replace(np.float32(5).tobytes(), np.float32(6).tobytes()), "is damaged"),
        (lambda raw: raw[:-60], "is truncated"),
        (lambda raw: raw[:-5], "is truncated"),
    ],
)
def test_a_file_is_called_truncated_only_where_it_is(tmp_path, damage, said):
    path = tmp_path / "x.pkl"
    checkpoint.save(path, {"model": MODEL})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=f"{said}: get it again"):
        checkpoint.load(path)


@pytest.mark.parametrize("suffix", ["pkl", "safetensors"])
def test_damage_inside_a_file_is_found_by_its_hash(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    checkpoint.save(path, {"model": MODEL, "system": "film"})
    assert checkpoint.load(path)["hash"] == checkpoint.digest(MODEL)
    raw = path.read_bytes().replace(np.float32(5).tobytes(), np.float32(6).tobytes())
    if suffix == "pkl":  # whose checksum would find it first
        raw = raw[:-28] + hashlib.sha1(raw[:-28]).digest() + raw[-8:]
    path.write_bytes(raw)
    with pytest.raises(UserError, match="do not fit its hash"):
        checkpoint.load(path)


def test_formats_are_converted_into_each_other(tmp_path, capsys):
    checkpoint.save(tmp_path / "a.pkl", {"model": MODEL, "epoch": 2, "optimizer": {"x": 1}})
    for source, target in (
        ("a.pkl", "b.safetensors"),
        ("b.safetensors", "c.pth"),
        ("c.pth", "d.pkl"),
    ):
        assert main(["convert", str(tmp_path / source), str(tmp_path / target)]) == 0
        found = checkpoint.load(tmp_path / target)["model"]
        for name, value in MODEL.items():
            np.testing.assert_array_equal(found[name], value)
    assert checkpoint.load(tmp_path / "b.safetensors")["epoch"] == 2
    assert main(["convert", str(tmp_path / "a.pkl"), str(tmp_path / "e.bin")]) == 2
    assert "must end in .pkl, .safetensors, .pth" in capsys.readouterr().err


def test_converting_for_a_system_translates_the_names(tmp_path):
    film = jfusion.create("film", text_dim=8, hidden_dim=16, image2text_dim=4, token_size=(6, 8))
    content = {"model": film.state(), "system": "film", "config": to_dict(film.config)}
    checkpoint.save(tmp_path / "ours.pkl", content)
    assert (
        main(["convert", "--system", "film", *(str(tmp_path / n) for n in ("ours.pkl", "o.pth"))])
        == 0
    )
    theirs = checkpoint.load(tmp_path / "o.pth")["model"]
    assert set(theirs) == {film.WEIGHTS.official(name) for name in film.state()}
    given = [str(tmp_path / "ours.pkl"), str(tmp_path / "n.safetensors"), "--names", "official"]
    assert main(["convert", *given]) == 2
    assert main(["convert", *given, "--system", "film"]) == 0
    assert set(checkpoint.load(tmp_path / "n.safetensors")["model"]) == set(theirs)


def test_a_jittor_network_with_the_authors_names_loads_what_is_converted(tmp_path):
    from jfusion.runtime import jt, nn

    film = jfusion.create("film", text_dim=8, hidden_dim=16, image2text_dim=4, token_size=(6, 8))
    content = {"model": film.state(), "system": "film", "config": to_dict(film.config)}
    checkpoint.save(tmp_path / "ours.pkl", content)
    files = [str(tmp_path / name) for name in ("ours.pkl", "IVF.pkl")]
    assert main(["convert", *files, "--system", "film", "--names", "official"]) == 0
    official = {film.WEIGHTS.official(name): value for name, value in film.state().items()}
    network = nn.Module()
    for name, value in official.items():
        module, (*path, leaf) = network, name.split(".")
        for part in path:
            module.__dict__.setdefault(part, nn.Module())
            module = module.__dict__[part]
        setattr(module, leaf, jt.zeros(value.shape))
    network.load_state_dict(jt.load(files[1])["model"])
    for name, value in network.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), official[name])


def test_inspect_shows_names_shapes_record_and_hash(tmp_path, capsys):
    checkpoint.save(tmp_path / "a.pkl", {"model": MODEL, "system": "film", "step": 7})
    assert main(["inspect", str(tmp_path / "a.pkl")]) == 0
    out = capsys.readouterr().out
    assert "2 tensors, 7 values" in out and checkpoint.digest(MODEL) in out
    assert "system: film" in out and "step: 7" in out and "a.weight  2x3" in out
    assert main(["inspect", str(tmp_path / "none.pkl")]) == 2


def test_inspect_and_convert_take_the_newest_checkpoint_of_a_run(tmp_path, capsys):
    run = Run.new(tmp_path, "film", "Set", {"system": "film", "dataset": "Set"})
    for step in (1, 2):
        run.save({"model": MODEL, "system": "film", "epoch": step, "batch": 0, "step": step})
    for folder in (run.folder, tmp_path):
        assert main(["inspect", str(folder)]) == 0
        assert "step: 2" in capsys.readouterr().out
    assert main(["convert", str(run.folder), str(tmp_path / "a.pkl")]) == 0
    assert checkpoint.load(tmp_path / "a.pkl")["step"] == 2
    (tmp_path / "empty").mkdir()
    assert main(["inspect", str(tmp_path / "empty")]) == 2
    assert "is not a run folder" in capsys.readouterr().err


def test_partial_loading_is_asked_for_and_says_what_it_skipped(capsys):
    settings = {"hidden_dim": 16, "image2text_dim": 4, "token_size": (6, 8)}
    film = jfusion.create("film", text_dim=8, **settings)
    wide = jfusion.create("film", text_dim=9, **settings)
    state = {**wide.state(), "extra.weight": np.ones(2, np.float32)}
    before = film.state()["text_projection.weight"]
    with pytest.raises(UserError, match=r"extra\.weight"):
        load_weights(film, state, "the checkpoint")
    load_weights(film, state, "the checkpoint", partial=True)
    out = capsys.readouterr().out
    assert "2 skipped from the file: " in out and "extra.weight [2]" in out
    assert "1 left as they were: text_projection.weight" in out
    after = film.state()
    np.testing.assert_array_equal(after["text_projection.weight"], before)
    np.testing.assert_array_equal(after["text_projection.bias"], state["text_projection.bias"])
    with pytest.raises(UserError, match="none of its 1 tensors fits film"):
        load_weights(film, {"x": np.ones(1)}, "the checkpoint", partial=True)
