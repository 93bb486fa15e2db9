"""Testing a checkpoint: what is written, what the table says, what is refused."""

from __future__ import annotations

import csv
import pickle
import shutil

import h5py
import numpy as np
import pytest

import jfusion
from jfusion import checkpoint, metrics
from jfusion.cli import main
from jfusion.commands.preprocess import Options as PreprocessOptions
from jfusion.commands.preprocess import preprocess
from jfusion.commands.test import Options
from jfusion.commands.test import _of_run as of_run
from jfusion.commands.test import _published as published_weights
from jfusion.commands.test import test as evaluate
from jfusion.data import color, image
from jfusion.errors import UserError
from jfusion.inference import load_system
from jfusion.metrics.table import Table, means
from jfusion.papers.compare import add_published, published
from jfusion.runs import Run
from jfusion.systems import registry
from jfusion.systems.base import System
from tests.commands.test_preprocess import make_dataset, random_pair

SMALL = {"text_dim": 8, "hidden_dim": 16, "image2text_dim": 4, "token_size": (6, 8)}


@pytest.fixture(scope="module")
def film():
    return jfusion.create("film", **SMALL)


@pytest.fixture(scope="module")
def weights(film, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "ours.pkl"
    config = {**SMALL, "token_size": [6, 8]}
    checkpoint.save(path, {"model": film.state(), "system": "film", "config": config})
    return path


@pytest.fixture
def dataset(tmp_path):
    pairs = {"color": random_pair(1, (45, 50)), "tall": random_pair(2, (61, 43))}
    make_dataset(tmp_path, pairs, dataset="RoadScene")
    chosen = PreprocessOptions(
        root=str(tmp_path), dataset="RoadScene", split="test", out=str(tmp_path / "x.h5")
    )
    return preprocess(chosen).path


def run(dataset, weights, tmp_path, **values):
    return evaluate(Options(str(weights), str(dataset), out=str(tmp_path / "out"), **values))


def test_images_and_tables_are_written(dataset, weights, film, tmp_path):
    result = run(dataset, weights, tmp_path)
    folder = tmp_path / "out/RoadScene"
    assert result.folder == folder
    names = {"color", "tall"}
    assert {p.stem for p in (folder / "Gray").iterdir()} == names
    assert {p.stem for p in (folder / "Color").iterdir()} == names
    gray = image.read_rgb(folder / "Gray/tall.png")[..., 0]
    assert gray.shape == (61, 43) and gray.min() == 0 and gray.max() == 255
    restored = image.read_rgb(folder / "Color/tall.png")
    assert color.is_color(restored)
    rows = list(csv.reader((folder / "per_image.csv").open()))
    assert rows[0] == ["", *metrics.PAPER, "CC", "SCD"] and [r[0] for r in rows[1:]] == [
        "color",
        "tall",
    ]
    assert (folder / "table.md").read_text() == result.table.markdown()
    assert (folder / "grid.png").is_file()


def test_metrics_are_those_of_the_saved_images(dataset, weights, tmp_path):
    result = run(dataset, weights, tmp_path, metrics="all")
    a, b = random_pair(1, (45, 50))
    fused = color.gray(image.read_rgb(result.folder / "Gray/color.png"))
    expected = metrics.evaluate(fused, a, color.gray(b), names="all")
    assert result.per_image["color"] == pytest.approx(expected, nan_ok=True)


def test_the_papers_row_stands_beside_ours(dataset, weights, tmp_path):
    result = run(dataset, weights, tmp_path)
    ours, paper, difference = result.table.rows
    assert paper.label == "published (IF-FILM README.md)"
    assert paper.values["EN"] == 7.43 and paper.values["Qabf"] == 0.62
    assert difference.values["EN"] == pytest.approx(ours.values["EN"] - 7.43)
    assert "published" in result.table.text() and "| difference |" in result.table.markdown()


def test_the_authors_checkpoint_gives_the_same_images(dataset, weights, film, tmp_path):
    ours = run(dataset, weights, tmp_path / "ours")
    state = {f"module.{film.WEIGHTS.official(k)}": v for k, v in film.state().items()}
    (tmp_path / "theirs.pkl").write_bytes(pickle.dumps({"model": state, "epoch": 149}))
    theirs = evaluate(
        Options(str(tmp_path / "theirs.pkl"), str(dataset), out=str(tmp_path / "t"), system="film"),
        SMALL,
    )
    for path in (ours.folder / "Gray").iterdir():
        assert (theirs.folder / "Gray" / path.name).read_bytes() == path.read_bytes()


def test_a_checkpoint_that_does_not_fit_is_refused_with_all_names(dataset, film, tmp_path, capsys):
    state = film.state()
    state["surplus"] = state.pop("decoder.reduce.bias")
    state["decoder.to_image.bias"] = np.zeros(4, np.float32)
    checkpoint.save(tmp_path / "bad.pkl", {"model": state, "system": "film", "config": {**SMALL}})
    assert main(["test", "--weights", str(tmp_path / "bad.pkl"), "--data", str(dataset)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    for text in (
        "bad.pkl",
        "1 missing: decoder.reduce.bias",
        "1 unexpected: surplus",
        "is [4], must be [1]",
    ):
        assert text in line


def test_a_folder_of_runs_means_the_newest(film, tmp_path):
    for stamp in ("2026-01-01", "2026-01-02"):
        run = Run.new(tmp_path, "film", "Set", {"system": "film"})
        run.folder = run.folder.rename(tmp_path / stamp)
    with pytest.raises(UserError, match="2026-01-02 holds no checkpoint yet"):
        load_system(tmp_path, None, {})
    content = {"model": film.state(), "system": "film", "config": {**SMALL}, "epoch": 1, "batch": 0}
    Run.open(tmp_path / "2026-01-02").save(content)
    assert load_system(tmp_path, None, {}).config.hidden_dim == 16


def test_other_mistakes_are_one_line(dataset, weights, tmp_path):
    with pytest.raises(UserError, match="is of film, not of ddfm"):
        load_system(weights, "ddfm", {})
    with pytest.raises(UserError, match="not a run folder"):
        load_system(dataset.parent / "Image", None, {})
    with pytest.raises(UserError, match="unknown metric 'Qbaf'"):
        run(dataset, weights, tmp_path, metrics="EN,Qbaf")
    cut = tmp_path / "cut.h5"
    cut.write_bytes(dataset.read_bytes()[:3000])
    with pytest.raises(UserError, match="not a complete H5 file"):
        run(cut, weights, tmp_path)


def test_a_sample_name_never_leaves_the_folder(dataset, weights, tmp_path):
    with h5py.File(dataset, "r+") as file:
        for group in file:
            file[group].move("tall", ".hidden")
    with pytest.raises(UserError, match="cannot be a file name"):
        run(dataset, weights, tmp_path)


def test_a_folder_layout_is_tested_directly(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "VLFDataset", {"one": random_pair(1, (45, 50))}, dataset="Mine")
    assert main(["test", "--weights", str(weights), "--dataset", "Mine"]) == 0
    assert (tmp_path / "test_output/Mine/Gray/one.png").is_file()


def test_no_published_row_gives_no_row():
    table = Table(["EN"])
    table.add("ours", {"EN": 1.0})
    assert len(add_published(table, "film", "Nowhere").rows) == 1
    assert published("film", "msrs")["IF-FILM README.md"]["SD"] == 43.64


def test_means_leave_out_what_is_not_defined():
    mean, left_out = means([{"CC": 1.0, "EN": 2.0}, {"CC": float("nan"), "EN": 4.0}])
    assert mean == {"CC": 1.0, "EN": 3.0} and left_out == {"CC": 1}


def test_medical_pairs_without_paragraphs_and_the_row_of_the_setting(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path, {"one": random_pair(3, (20, 25))}, task="MIF", dataset="Harvard_CT")
    shutil.rmtree(tmp_path / "TextFeature")
    system = jfusion.create("cddfuse")
    official = {system.WEIGHTS.official(k): v for k, v in system.state().items()}
    checkpoint.save(tmp_path / "theirs.pth", {"model": official})

    def run(**settings):
        options = Options(
            "theirs.pth",
            task="MIF",
            dataset="Harvard_CT",
            root=str(tmp_path),
            out="out",
            system="cddfuse",
        )
        result = evaluate(options, settings)
        return result.table.rows, "\n".join(result.notes)

    expected = {"sum": 88.59, "none": 79.17}
    for skip, value in expected.items():
        (ours, paper, _), notes = run(skip=skip)
        assert list(ours.values) == ["EN", "SD", "SF", "MI", "SCD", "VIF", "Qabf", "SSIM", "CC"]
        assert paper.label == "published (MMIF-CDDFuse README.md)"
        assert paper.values["SD"] == value
        assert "--skip" not in notes
    assert "--skip sum" in run()[1]


def test_a_released_image_may_be_smaller_than_its_sources(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path, {"one": random_pair(3, (21, 25))})
    checkpoint.save(tmp_path / "x.pkl", {"model": jfusion.create("sfdfuse").state()})
    options = Options(
        "x.pkl", task="IVF", dataset="Set", root=str(tmp_path), out="out", system="sfdfuse"
    )
    result = evaluate(options, {"odd_size": "released"})
    for folder in ("Gray", "Color"):
        assert image.read_rgb(tmp_path / f"out/Set/{folder}/one.png").shape[:2] == (20, 24)
    assert set(result.per_image) == {"one"}


def test_a_negative_is_warned_of(tmp_path, monkeypatch, capsys):
    class Negative(System):
        def _fuse(self, a, b, text, seed, callback):
            return 1 - (a + b) / 2

    monkeypatch.setitem(registry._registered, "negative", Negative)
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "VLFDataset", {"one": random_pair(1, (30, 40))}, dataset="Mine")
    assert main(["test", "negative", "--dataset", "Mine"]) == 0
    printed = capsys.readouterr().out
    assert "warning: 1 of 1 fused images is anti-correlated with a source: one (-" in printed
    assert "CC" in printed and "SCD" in printed
    assert main(["test", "average", "--dataset", "Mine"]) == 0
    assert "warning" not in capsys.readouterr().out


def test_each_run_has_a_folder_of_its_own(tmp_path):
    run = Run.new(tmp_path / "exp", "toy", "Set", {"system": "toy"})
    assert of_run(run.folder / "model/ckpt_3.pkl") == run.folder.name
    assert of_run(tmp_path / "model/IVF.pth") == of_run(tmp_path / "IVF.pth") == of_run(None) == ""


def test_published_weights_are_found_by_the_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/MEF.pth").touch()
    assert published_weights(None, "IVF") is None
    (tmp_path / "models/IVF.pkl").touch()
    assert published_weights(None, "IVF") == "models/IVF.pkl"
    (tmp_path / "models/IVF.pth").touch()
    assert published_weights("film", "IVF") == "models/IVF.pth"
    assert published_weights("cddfuse", "IVF") is None


def test_without_weights_the_default_of_the_task_is_tested(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jfusion.weights.default_for", {"MEF": "average"}.get)
    make_dataset(tmp_path, {"one": random_pair(1, (30, 40))}, task="MEF", dataset="Mine")
    options = PreprocessOptions(task="MEF", root=".", dataset="Mine", split="test", text="zeros")
    assert main(["test", "--data", str(preprocess(options).path)]) == 0
    assert "average is used for MEF" in capsys.readouterr().out
