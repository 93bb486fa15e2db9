"""`jfusion preprocess --from`: from a download to an H5 file with paragraphs, in one command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jfusion.cli import main
from jfusion.commands import describe as describing
from jfusion.commands.preprocess import Options, preprocess
from jfusion.data.h5 import PairFile
from jfusion.text.chat import Chat
from tests.text.chat_server import PARAGRAPH, chat_server
from tests.text.test_features import encoder_folder


@pytest.fixture
def download(tmp_path, monkeypatch):
    """MSRS as downloaded, three training pairs and two test pairs, in the working folder."""
    rng = np.random.default_rng(0)
    for split, names in (("train", ("1D", "2D", "3N")), ("test", ("4D", "5N"))):
        for side, shape in (("ir", (24, 32)), ("vi", (24, 32, 3))):
            place = tmp_path / "MSRS-main" / split / side
            place.mkdir(parents=True)
            for name in names:
                Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(
                    place / f"{name}.png"
                )
    encoder_folder(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(describing, "token_counter", lambda name: (len, 10_000))
    monkeypatch.setattr(Chat, "_pause", lambda self, seconds: None)
    connection = describing.connection
    monkeypatch.setattr(  # one request at a time, so that a script's order is that of the pairs
        describing, "connection", lambda *options: replace(connection(*options), workers=1)
    )
    return tmp_path / "MSRS-main"


def run(*words):
    return main(["preprocess", "--from", "MSRS-main", *words])


def test_one_command_makes_paragraphs_features_and_a_file_for_each_split(download, capsys):
    refusal = "I'm sorry, I can't."
    with chat_server() as server:
        server.script = [PARAGRAPH, refusal, refusal, PARAGRAPH]
        words = ["--describe", "--text", "tiny", "--base-url", server.url]
        assert run(*words) == 0
        printed = capsys.readouterr().out
        assert "MSRS-main has the layout of MSRS ({split}/ir/* and {split}/vi/*)" in printed
        assert "VLFDataset_h5/MSRS_train.h5 written: 2 pairs" in printed
        assert "skipped 2D: no paragraph" in printed
        assert "VLFDataset_h5/MSRS_test.h5 written: 2 pairs" in printed
        train = PairFile("VLFDataset_h5/MSRS_train.h5")
        assert train.names == ["1D", "3N"] and train.attributes["encoder"] == "tiny"
        paragraphs = json.loads(train.attributes["paragraphs"])
        assert paragraphs["described"] == 2 and paragraphs["models"] == {"tiny-vision": 2}
        assert main(["check", "VLFDataset_h5/MSRS_train.h5"]) == 0
        assert "paragraphs: 2 by tiny-vision" in capsys.readouterr().out
        assert run(*words) == 0  # the pair that was refused is tried again
        printed = capsys.readouterr().out
        assert "MSRS_train.h5 written: 3 pairs" in printed and "MSRS_test.h5 is up to" in printed
        asked = len(server.requests)
        assert run(*words) == 0 and len(server.requests) == asked
        assert capsys.readouterr().out.count("is up to date") == 2


def test_the_same_sentence_serves_every_pair(download, capsys):
    words = ["--text", "a red car", "--encoder", "tiny", "--split", "test", "--out", "o.h5"]
    assert run(*words) == 0
    file = PairFile("o.h5")
    first, second = (file.read(name).text for name in ("4D", "5N"))
    np.testing.assert_array_equal(first, second)
    assert first.shape == (5, 24) and first.any()
    assert file.attributes["sentence"] == "a red car" and file.attributes["encoder"] == "tiny"
    assert run(*words) == 0 and "is up to date" in capsys.readouterr().out
    words[1] = "a red tree"
    assert run(*words) == 0 and "written" in capsys.readouterr().out


def test_a_sentence_may_be_longer_than_a_file_name(download, capsys):
    words = ["--encoder", "tiny", "--split", "test", "--out", "o.h5"]
    assert run("--text", "red car " * 1000, *words) == 2
    assert "the sentence of --text has" in capsys.readouterr().err
    assert run("--text", "x" * 1000, *words) == 2
    assert "unknown encoder" in capsys.readouterr().err


def test_a_paragraph_of_white_space_is_none(download, capsys):
    refusal, folder = "I'm sorry, I can't.", Path("VLFDataset/Text/IVF/MSRS")
    folder.mkdir(parents=True)
    for name in ("1D", "2D"):
        (folder / f"{name}.txt").write_text(" \n")
    with chat_server() as server:
        server.script = [PARAGRAPH, refusal, refusal]
        assert run("--describe", "--text", "tiny", "--base-url", server.url) == 0
    printed = capsys.readouterr().out
    assert "skipped 2D: no paragraph" in printed and "MSRS_train.h5 written: 2 pairs" in printed
    assert (folder / "1D.txt").read_text() == PARAGRAPH + "\n"
    assert main(["embed", "--dataset", "MSRS", "--encoder", "tiny"]) == 2  # asked for by itself
    assert "2D.txt is empty" in capsys.readouterr().err


def test_copies_of_files_are_reported_and_kept_in_the_file(download, capsys):
    (download / "test/vi/4D.png").write_bytes((download / "train/vi/1D.png").read_bytes())
    ir = (download / "train/ir/2D.png").read_bytes()
    (download / "train/vi/2D.png").write_bytes(ir)
    for state in ("written", "is up to date"):
        assert run("--text", "zeros") == 0
        printed = capsys.readouterr().out
        assert state in printed and "2D: both images are the same file" in printed
        assert "1D: 1D.png is also in test (4D)" in printed
        assert "4D: 4D.png is also in train (1D)" in printed


def test_copies_are_found_in_our_own_layout_too(download, tmp_path, capsys):
    base = tmp_path / "VLFDataset/Image/IVF/Mine"
    base.mkdir(parents=True)
    (download / "train/ir").rename(base / "IR")
    (download / "train/vi").rename(base / "VI")
    (base / "VI/3N.png").write_bytes((base / "VI/1D.png").read_bytes())
    (base / "train.txt").write_text("1D.png\n2D.png\n")
    (base / "test.txt").write_text("3N.png\n")
    assert main(["preprocess", "--dataset", "Mine", "--text", "zeros"]) == 0
    assert "1D: 1D.png is also in test (3N)" in capsys.readouterr().out


def test_two_folders_become_one_file(download, capsys):
    sides = ["--a", "MSRS-main/train/ir", "--b", "MSRS-main/train/vi", "--task", "NIR"]
    assert main(["preprocess", *sides, "--name", "mine", "--text", "zeros"]) == 0
    file = PairFile("VLFDataset_h5/mine_all.h5")
    assert file.attributes["task"] == "NIR" and len(file) == 3


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["--text", "zeros", "--out", "x.h5"],
            "has the splits train, test; choose one with --split",
        ),
        (["--describe"], "--describe needs an encoder"),
        (["--describe", "--text", "zeros"], "--describe needs an encoder"),
        (["--describe", "--text", "a car", "--encoder", "tiny"], "leave --describe out"),
        (["--describe", "--text", "tiny", "--patches", "8"], "leave --describe out"),
        (["--text", "tiny"], "jfusion describe"),
        (["--text", "a car", "--encoder", "tinny"], "unknown encoder 'tinny'"),
        (["--text", "car " * 30, "--encoder", "tiny"], "has 32 tokens, and tiny takes 20"),
        (["--dataset", "MSRS"], "--name says what to call"),
        (["--split", "tran"], "did you mean 'train'"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(download, capsys, words, text):
    assert run(*words) == 2
    (line,) = [s for s in capsys.readouterr().err.splitlines() if s.startswith("jfusion: ")]
    assert text in line and not list(download.parent.rglob("*.h5"))


def test_from_python_one_split_is_made(download):
    made = preprocess(Options(from_="MSRS-main", split="test", text="zeros", out="o.h5"))
    assert (made.samples, made.written, made.remarks) == (2, True, [])
