"""`jfusion train`: what is started with which options, and what does not go with --resume."""

from __future__ import annotations

import json

import pytest

from jfusion.cli import main
from jfusion.commands import train
from jfusion.systems import registry


@pytest.fixture
def calls(monkeypatch):
    """The calls of the functions that train, by their names, instead of any training."""
    calls = []
    for name in ("train", "train_each", "resume"):
        note = lambda *arguments, name=name: calls.append((name, *arguments))  # noqa: E731
        monkeypatch.setattr(f"jfusion.train.setup.{name}", note)
    return calls


def test_a_run_is_started_with_its_options_and_the_settings(calls):
    assert main(["train", "film", "--max-steps", "3", "--epochs", "2", "--no-normalize"]) == 0
    ((name, system, settings, options),) = calls
    assert (name, system) == ("train", "film")
    assert settings == {"epochs": 2, "normalize": False}
    data = "VLFDataset_h5/MSRS_train.h5"
    assert options == train.Options(max_steps=3, system="film", data=data)


def test_the_options_of_the_published_script_are_understood(calls, capsys):
    words = "--numepochs 3 --lr 1e-4 --gamma 0.5 --step_size 7 --batch_size=1 --loss_grad_weight 9"
    words += " --loss_ssim 1 --i2t_dim 16 --hidden_dim 128 --dataset_path x.h5 --seed 2"
    assert main(["train", *words.split()]) == 0
    _, system, settings, options = calls[0]
    assert (system, options.data, options.seed) == ("film", "x.h5", 2)
    assert settings == {
        "epochs": 3,
        "learning_rate": 1e-4,
        "decay": 0.5,
        "decay_every": 7,
        "batch_size": 1,
        "gradient_weight": 9.0,
        "ssim_weight": 1.0,
        "image2text_dim": 16,
        "hidden_dim": 128,
    }
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert lines[0] == "note: --numepochs of FILM's published code is --epochs here"


def test_early_stopping_needs_a_validation(calls, capsys):
    assert main(["train", "--early-stop", "2"]) == 2
    assert "--early-stop needs a validation: --val FILE" in capsys.readouterr().err
    assert main(["train", "--early-stop", "2", "--val-split", "0.1"]) == 0
    assert calls[0][3].best == "VIF"


def test_without_a_name_it_is_the_default_system(calls):
    assert main(["train", "--data", "x.h5"]) == 0
    assert calls[0][:2] == ("train", registry.DEFAULT) and calls[0][3].data == "x.h5"


def test_one_run_for_each_training_set(calls):
    assert main(["train", "lfdt", "--each", "--data", "folder"]) == 0
    assert calls[0][:2] == ("train_each", "lfdt")


def test_a_run_is_resumed_from_its_folder_alone(calls):
    assert main(["train", "--resume", "exp/run"]) == 0
    assert calls.pop() == ("resume", "exp/run", None, None)
    for data in ("moved.h5", "VLFDataset_h5/MSRS_train.h5"):
        assert main(["train", "--resume", "exp/run", "--data", data, "--max-steps", "9"]) == 0
        assert calls.pop() == ("resume", "exp/run", data, 9)


@pytest.mark.parametrize("words", ["--seed 3", "--epochs 4", "--keep-last 2"])
def test_other_options_do_not_go_with_resume(calls, capsys, words):
    assert main(["train", "--resume", "exp/run", *words.split()]) == 2
    assert "only --data and --max-steps" in capsys.readouterr().err and not calls


def test_the_name_of_the_system_may_be_repeated_with_resume(calls, tmp_path, capsys):
    record = {"system": "diffusion", "config": {}, "options": {}}
    (tmp_path / "config.json").write_text(json.dumps(record))
    for name in ("ddfm", "diffusion"):
        assert main(["train", name, "--resume", str(tmp_path)]) == 0
        assert calls.pop() == ("resume", str(tmp_path), None, None)
    assert main(["train", "film", "--resume", str(tmp_path)]) == 2
    line = "--resume continues the run's own system ddfm; leave out film"
    assert line in capsys.readouterr().err and not calls


@pytest.mark.parametrize("option", ["--resume", "--weights", "--data", "--exp"])
def test_an_empty_path_is_refused(calls, capsys, option):
    assert main(["train", "film", option, ""]) == 2
    assert f"{option} must not be empty" in capsys.readouterr().err and not calls


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("average", "average is not trained: it has no losses"),
        ("flim", "unknown system 'flim'; did you mean 'film'?"),
        ("film --keep-last 0", "--keep-last must be 1 or more, not 0"),
    ],
)
def test_a_mistake_is_one_line(calls, capsys, words, text):
    assert main(["train", *words.split()]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert text in line and not calls
