"""Validation while a system is trained: which pairs, what is logged and kept, and early stopping."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from jfusion.data.h5 import PairFile
from jfusion.errors import UserError
from jfusion.runs import Run
from jfusion.systems import registry
from jfusion.train.options import Options
from jfusion.train.setup import check_validation, resume, train
from jfusion.train.validation import Validation, chosen


def test_the_pairs_of_a_scene_stay_together():
    names = [f"{scene:05d}_{i}" for scene in range(20) for i in range(5)]
    part = chosen(names, 0.1, 3)
    scenes = {name.split("_")[0] for name in part}
    assert len(part) == 10 and len(scenes) == 2
    assert part == chosen(names, 0.1, 3) != chosen(names, 0.1, 4)


def test_names_that_say_no_scene_are_drawn_one_by_one():
    part = chosen([f"FLIR_{i:05d}" for i in range(50)], 0.1, 0)
    assert len(part) == 5


@pytest.fixture
def validating(toy, training_set, tmp_path, monkeypatch):
    """validating([0.1, 0.3], epochs=1) trains the toy, whose validations give these values of VIF."""

    def start(vif, settings=None, **options):
        values = iter(vif)
        monkeypatch.setattr(Validation, "evaluate", lambda *_: {"EN": 7.0, "VIF": next(values)})
        data = str(training_set("x.h5", 12))
        defaults = {"exp": str(tmp_path / "exp"), "images": 0, "val_split": 0.25}
        return train("toy", settings or {}, Options(data=data, **{**defaults, **options}))

    return start


def test_metrics_are_logged_and_the_best_epoch_is_kept(validating, capsys):
    run = validating([0.1, 0.9, 0.2, 0.3, 0.4, 0.5], keep_last=1)
    table = run.scalars()
    at = np.isfinite(table["val/VIF"])
    assert table["step"][at].tolist() == [4, 8, 12, 16, 20, 24]  # nine of twelve pairs are left
    assert table["val/VIF"][at].tolist() == [0.1, 0.9, 0.2, 0.3, 0.4, 0.5]
    assert [path.stem for path in run.checkpoints()] == ["ckpt_2", "ckpt_6"]
    assert "the newest 1 and the best by VIF are kept" in capsys.readouterr().out


def test_every_so_many_epochs_and_early_stopping(validating, capsys):
    run = validating([0.3, 0.2, 0.1], val_every=2, early_stop=1)
    assert run.latest()["epoch"] == 4
    assert "stopped early: VIF was best after epoch 2" in capsys.readouterr().out


def test_a_resumed_run_validates_with_the_same_pairs(validating, capsys):
    run = validating([0.1, 0.2], max_steps=4)
    resume(run.folder, max_steps=5)
    assert "have changed" not in capsys.readouterr().out


def test_the_metrics_are_those_of_the_fused_images(toy, training_set, tmp_path):
    data = training_set("val.h5", 2)
    options = {"exp": str(tmp_path / "exp"), "images": 0, "max_steps": 1, "keep_best": "PSNR"}
    train_file = str(training_set("train.h5", 4))
    run = train("toy", {}, Options(data=train_file, val=str(data), **options))
    names = [name for name in Run.open(run.folder).scalars() if name.startswith("val/")]
    assert "val/VIF" in names and "val/PSNR" in names
    system = registry.create("toy")
    shown = {}
    validation = Validation([PairFile(data)], "film", ["EN", "SD"])
    values = validation.evaluate(system, shown.__setitem__)
    assert set(shown) == {"s0", "s1"} and shown["s0"].shape == (6, 24, 3)
    assert sorted(p.name for p in run.folder.glob("pic_fusion/ckpt_1/val_*")) == [
        "val_s0.png",
        "val_s1.png",
    ]
    assert set(values) == {"EN", "SD"} and system.is_training()


def test_what_cannot_be_validated_is_refused(validating, training_set, tmp_path):
    for options, text in (
        ({"val": "nowhere.h5", "val_split": 0.0}, "nowhere.h5 does not exist"),
        ({"val": "x.h5"}, "--val and --val-split exclude each other"),
        ({"val_split": 0.99}, "too few scenes"),
        ({"keep_best": "vibes"}, "--keep-best vibes: the metrics and losses are EN"),
    ):
        with pytest.raises(UserError, match=text):
            validating([], **options)


def test_the_paragraph_features_must_be_those_of_the_training(training_set):
    system = SimpleNamespace(name="film", reads_text=True, config=SimpleNamespace(text_dim=5))
    train_file = PairFile(training_set("train.h5", 2, text=5, encoder="minilm"))
    same = PairFile(training_set("same.h5", 2, text=5, encoder="minilm"))
    check_validation(system, [same], train_file)
    for name, width, text in (
        ("wide", 6, "holds features of width 6"),
        ("b", 5, "features of bert"),
    ):
        other = PairFile(training_set(f"{name}.h5", 2, text=width, encoder="bert"))
        with pytest.raises(UserError, match=text):
            check_validation(system, [other], train_file)
