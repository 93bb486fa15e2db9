"""Training: runs, interruptions, resuming, and what it refuses. Tiny network, tiny images."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jfusion.cli import main
from jfusion.commands.preprocess import Options as PreprocessOptions
from jfusion.commands.preprocess import preprocess
from jfusion.errors import UserError
from jfusion.runs import Run
from jfusion.systems.film.system import FILM
from jfusion.train.options import Options
from jfusion.train.setup import resume, train
from tests.commands.test_preprocess import make_dataset, random_pair

TINY = {
    "text_dim": 8,
    "hidden_dim": 16,
    "image2text_dim": 4,
    "token_size": (6, 8),
    "learning_rate": 1e-3,
}
STEPS = 8  # 3 batches per epoch: ends within the third epoch


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    make_dataset(root, {f"s{i}": random_pair(i) for i in range(7)})
    options = PreprocessOptions(
        root=str(root), dataset="Set", split="test", out=str(root / "set.h5")
    )
    return preprocess(options).path


def options(data, exp, **values):
    return Options(data=str(data), exp=str(exp), **{"max_steps": STEPS, "seed": 5, **values})


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """An uninterrupted run."""
    return train("film", TINY, options(data, tmp_path_factory.mktemp("whole")))


def weights(run):
    content = run.latest()
    assert content["step"] == STEPS
    return content["model"]


def assert_same_weights(run, other):
    ours, theirs = weights(run), weights(other)
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def test_a_run_keeps_everything(whole):
    assert (whole.folder / "code/jfusion/systems/film/system.py").is_file()
    record = json.loads((whole.folder / "config.json").read_text())
    assert record["system"] == "film" and record["config"]["token_size"] == [6, 8]
    assert [p.name for p in whole.checkpoints()] == ["ckpt_1.pkl", "ckpt_2.pkl", "ckpt_2_2.pkl"]
    rows = (whole.folder / "metrics.csv").read_text().splitlines()
    assert rows[0].startswith("step,total,fusion") and len(rows) == STEPS + 1
    assert (
        "Epoch 3/150 Batch 1/3 total: " in (whole.folder / "log.txt").read_text().splitlines()[-1]
    )
    assert list(whole.folder.glob("events.out.tfevents*"))
    images = list((whole.folder / "pic_fusion").glob("ckpt_*/*.png"))
    assert len(images) == 3 * 4 and Image.open(images[0]).size == (30, 12)
    content = whole.latest()
    assert {"model", "optimizer", "scheduler", "epoch", "batch", "step", "random"} <= set(content)


def test_the_same_seed_gives_the_same_weights(data, whole, tmp_path):
    assert_same_weights(train("film", TINY, options(data, tmp_path)), whole)
    other = train("film", TINY, options(data, tmp_path, seed=6)).latest()["model"]
    assert any((other[k] != v).any() for k, v in weights(whole).items())


INTERRUPTED = """
import json, os, sys
from jfusion.cli import main
from jfusion import runs
original = runs.Run.log
def log(self, step, *rest):
    original(self, step, *rest)
    if step == {step}:
        os.kill(os.getpid(), {signal})
runs.Run.log = log
sys.exit(main({arguments!r}))
"""


def interrupted_run(data, exp, number, step):
    """A training process that gets a signal after `step` steps; returns (exit code, output, run)."""
    arguments = ["train", "film", "--data", str(data), "--exp", str(exp), "--max-steps", str(STEPS)]
    arguments += ["--seed", "5", "--text-dim", "8", "--hidden-dim", "16", "--image2text-dim", "4"]
    arguments += ["--token-size", "6", "8", "--learning-rate", "1e-3"]
    code = INTERRUPTED.format(step=step, signal=int(number), arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    (folder,) = exp.iterdir()
    return done.returncode, done.stdout + done.stderr, Run.open(folder)


def test_after_kill_9_a_run_continues_exactly(data, whole, tmp_path):
    code, _, run = interrupted_run(data, tmp_path, signal.SIGKILL, 5)
    assert code == -signal.SIGKILL
    assert [p.name for p in run.checkpoints()] == ["ckpt_1.pkl"]
    moved = run.folder.rename(tmp_path / "moved")
    assert_same_weights(resume(moved, max_steps=STEPS), whole)
    steps = [row.split(",")[0] for row in (moved / "metrics.csv").read_text().splitlines()[1:]]
    assert steps == [str(i + 1) for i in range(STEPS)]


def test_ctrl_c_saves_and_says_how_to_resume(data, whole, tmp_path):
    code, output, run = interrupted_run(data, tmp_path, signal.SIGINT, 5)
    assert code == 130 and f"jfusion train --resume {run.folder}" in output
    assert "finishing step 5, then saving" in output
    assert [p.name for p in run.checkpoints()] == ["ckpt_1.pkl", "ckpt_1_2.pkl"]
    assert main(["train", "--resume", str(run.folder), "--max-steps", str(STEPS)]) == 0
    assert_same_weights(Run.open(run.folder), whole)


def test_a_run_killed_before_its_first_checkpoint_starts_again(data, whole, tmp_path):
    _, _, run = interrupted_run(data, tmp_path, signal.SIGKILL, 2)
    assert run.checkpoints() == []
    assert_same_weights(resume(run.folder, max_steps=STEPS), whole)


def test_what_does_not_fit_is_refused_before_the_first_step(data, tmp_path):
    for settings, values, text in (
        ({"text_dim": 9}, {}, "width 8"),
        ({"batch_size": 8}, {}, "fewer than one batch"),
        ({"crop": (50, 50)}, {}, "smaller than the crop"),
        ({}, {"weights": str(data)}, "is an HDF5 file"),
    ):
        with pytest.raises(UserError, match=text):
            train("film", {**TINY, **settings}, options(data, tmp_path, **values))
        if settings.get("crop") is None:  # the size of each sample is known when it is read
            assert not list(tmp_path.glob("*/config.json"))
            continue
        shutil.rmtree(next(tmp_path.iterdir()))


def test_samples_of_different_sizes_need_a_crop(tmp_path):
    make_dataset(tmp_path, {f"s{i}": random_pair(i, (12 + i, 10)) for i in range(2)})
    chosen = PreprocessOptions(
        root=str(tmp_path), dataset="Set", split="test", out=str(tmp_path / "x.h5")
    )
    path = preprocess(chosen).path
    with pytest.raises(UserError, match=r"different shapes .*--crop"):
        train("film", TINY, options(path, tmp_path))
    train("film", {**TINY, "crop": (8, 8)}, options(path, tmp_path, max_steps=1))


def test_resume_explains_what_is_missing(data, whole, tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        resume(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        resume(whole.folder, data=str(tmp_path / "gone.h5"))
    assert main(["train", "--resume", str(whole.folder), "--seed", "3"]) == 2


def test_weights_of_another_run_are_a_start(data, whole, tmp_path):
    run = train(
        "film", TINY, options(data, tmp_path, weights=str(whole.checkpoints()[-1]), max_steps=1)
    )
    assert run.latest()["step"] == 1


def test_a_loss_that_is_not_finite_stops_with_the_samples(data, tmp_path, capsys, monkeypatch):
    losses = FILM.losses
    monkeypatch.setattr(
        FILM, "losses", lambda *of: {k: v * float("nan") for k, v in losses(*of).items()}
    )
    arguments = ["train", "film", "--data", str(data), "--exp", str(tmp_path / "exp")]
    for name, value in TINY.items():
        arguments += [f"--{name.replace('_', '-')}", *map(str, np.atleast_1d(value))]
    assert main(arguments) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "not finite" in message and "samples s" in message and "ckpt_0.pkl" in message


def test_weights_that_are_not_finite_are_never_saved(data, tmp_path, monkeypatch):
    def poisoned(self, gradients, learning_rate):
        parameter = next(iter(self.parameters.values()))
        parameter.update(parameter * float("nan"))

    monkeypatch.setattr("jfusion.train.optimizer.Adam.apply", poisoned)
    with pytest.raises(UserError, match="not finite"):
        train("film", TINY, options(data, tmp_path, max_steps=1))
    assert not list(tmp_path.rglob("*.pkl"))
