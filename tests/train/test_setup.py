"""Starting and resuming: what the data decide, several training sets, and what is refused in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jfusion import checkpoint
from jfusion.cli import main
from jfusion.data import image
from jfusion.errors import UserError
from jfusion.runs import Run
from jfusion.systems import registry
from jfusion.systems.base import System
from jfusion.train import setup
from jfusion.train.options import Options
from jfusion.train.setup import resume, settings_for, train, train_each


@pytest.fixture
def options(tmp_path):
    def make(data, **values):
        return Options(data=str(data), **{"exp": str(tmp_path / "exp"), "images": 0, **values})

    return make


@pytest.fixture
def created(monkeypatch):
    """The systems that a test's runs create."""
    systems, create = [], setup.create_system

    def note(*arguments):
        systems.append(create(*arguments))
        return systems[-1]

    monkeypatch.setattr(setup, "create_system", note)
    return systems


def test_the_data_decide_what_the_user_leaves_open(toy, training_set, options):
    data = training_set("x.h5", 4, task="MIF")
    run = train("toy", {}, options(data, max_steps=1))
    assert run.record["config"]["task"] == "MIF" and run.record["dataset"] == "x"
    run = train("toy", {"task": "MEF"}, options(data, max_steps=1))
    assert run.record["config"]["task"] == "MEF"
    record = json.loads((run.folder / "config.json").read_text())
    assert record == run.record
    assert "each" not in record["options"] and record["options"]["data"] == str(data)
    assert {"crop", "augment", "drop_last"} <= set(record["config"])


def test_paragraph_features_decide_their_width(training_set, options):
    small = {"hidden_dim": 16, "image2text_dim": 4, "token_size": (6, 8)}
    data = training_set("x.h5", 2, text=5)
    run = train("film", small, options(data, max_steps=1))
    assert run.record["config"]["text_dim"] == 5
    with pytest.raises(UserError, match="holds features of width 5, and film reads 6"):
        train("film", {**small, "text_dim": 6}, options(data))
    with pytest.raises(UserError, match="holds no paragraph features, which film needs"):
        train("film", small, options(training_set("y.h5", 2)))


def test_the_recipe_of_the_configuration_is_used(toy, training_set, options, created):
    data = training_set("x.h5", 5)
    train("toy", {"epochs": 1}, options(data))
    train("toy", {"epochs": 1, "drop_last": False, "crop": (4, 4)}, options(data))
    assert [len(system.seen) for system in created] == [4, 6]
    assert len(created[1].seen[2][1]) == 1


def test_several_training_sets_share_the_epochs_as_drawn(toy, training_set, options, created):
    for name, count in (("pet_train.h5", 4), ("gfp_train.h5", 2)):
        training_set(name, count, task="MIF", group=name[:3])
    folder = training_set("other_test.h5", 2, split="test").parent
    run = train("toy", {}, options(folder, seed=3))
    assert run.record["dataset"] == "sets" and run.record["config"]["group"] == "auto"
    drawn = [np.random.default_rng([3, epoch, 1]).integers(2) for epoch in range(6)]
    expected = [("gfp", "pet")[i] for i in drawn]
    datasets = [dataset for dataset, _, _ in created[0].seen]
    assert datasets == [name for name in expected for _ in range(2 if name == "pet" else 1)]
    part = train("toy", {}, options(folder, seed=3, max_steps=3))
    resume(part.folder)
    assert [d for d, _, _ in created[1].seen + created[2].seen] == datasets
    train("toy", {}, options(folder, schedule="pet"))
    assert {d for d, _, _ in created[3].seen} == {"pet"}
    with pytest.raises(UserError, match="no training set for 'ct' among gfp, pet"):
        train("toy", {}, options(folder, schedule="pet,ct"))


def test_sets_that_need_different_networks_are_refused(toy, training_set, options):
    training_set("a.h5", 2, task="MIF")
    folder = training_set("b.h5", 2, task="MEF").parent
    with pytest.raises(UserError, match=r"a\.h5 has task MIF, and .*b\.h5 has MEF; .*--each"):
        train("toy", {}, options(folder))
    assert train("toy", {"task": "MFF"}, options(folder, max_steps=1)).record["dataset"] == "sets"
    run = train("toy", {}, options(folder, max_steps=1, schedule="b"))
    assert run.record["config"]["task"] == "MEF" and run.record["dataset"] == "b"


def test_settings_that_each_pair_decides_may_differ(training_set):
    from jfusion.data.folder import training_data
    from tests.train.conftest import ToyConfig

    training_set("a.h5", 2, group="pet")
    folder = training_set("b.h5", 2).parent
    assert settings_for(ToyConfig, training_data(folder), {}) == {}
    assert settings_for(ToyConfig, training_data(folder / "a.h5"), {}) == {"group": "pet"}


def test_each_trains_one_network_per_set_and_resumes_it(toy, training_set, options, capsys):
    for task, count in (("MIF", 4), ("MEF", 2)):
        training_set(f"{task}.h5", count, task=task)
    folder = training_set("left.h5", 2, split="test").parent
    runs = train_each("toy", {"epochs": 1}, options(folder, max_steps=2, each=True))
    assert [run.record["config"]["task"] for run in runs] == ["MEF", "MIF"]
    assert [run.latest()["step"] for run in runs] == [2, 2]
    assert "left.h5 is left out" in capsys.readouterr().out
    again = train_each("toy", {"epochs": 1}, options(folder, each=True))
    assert [run.folder for run in again] == [run.folder for run in runs]
    assert [run.latest()["step"] for run in again] == [2, 4]
    other = train_each("toy", {"epochs": 2}, options(folder, max_steps=1, each=True))
    assert not {run.folder for run in other} & {run.folder for run in runs}
    with pytest.raises(UserError, match=r"--each: .* must be a folder of training sets"):
        train_each("toy", {}, options(folder / "MIF.h5", each=True))


def test_a_folder_of_images_is_for_systems_that_are_trained_on_images(toy, tmp_path, options):
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (6, 8, 3), np.uint8)
        image.write(tmp_path / f"photographs/{i}.png", pixels)
    folder = tmp_path / "photographs"
    assert train("toy-images", {"epochs": 1}, options(folder)).latest()["step"] == 2
    with pytest.raises(UserError, match="photographs is a folder, and toy is trained on pairs"):
        train("toy", {}, options(folder))
    with pytest.raises(UserError, match=r"--each: .* must be a folder of training sets"):
        train_each("toy-images", {}, options(folder, each=True))


def test_what_has_no_losses_is_not_trained(toy, training_set, options, monkeypatch):
    from jfusion.systems.network import NetworkSystem

    class Average(System):
        pass

    class Untrained(NetworkSystem):
        pass

    data = training_set("x.h5", 2)
    for name, cls in (("average-of-two", Average), ("untrained", Untrained)):
        monkeypatch.setitem(registry._registered, name, cls)
        for start in (train, train_each):
            with pytest.raises(UserError, match=f"^{name} is not trained: it has no losses$"):
                start(name, {}, options(data))


def test_a_run_starts_from_weights_and_starts_from_them_again(toy, training_set, options):
    data = training_set("x.h5", 4)
    first = train("toy", {"epochs": 1}, options(data))
    weights = str(first.checkpoints()[-1])
    value = first.latest()["model"]["weight"]
    run = train("toy", {"epochs": 1}, options(data, weights=weights, max_steps=1))
    expected = run.latest()["model"]["weight"]
    assert abs(expected - value).max() < 0.2  # one step from there, not from 0.5
    for path in run.checkpoints():
        path.unlink()  # as if it had been killed before its first checkpoint
    np.testing.assert_array_equal(
        resume(run.folder, max_steps=1).latest()["model"]["weight"], expected
    )


def test_options_of_a_run_are_checked():
    with pytest.raises(UserError, match="--keep-last must be 1 or more, not 0"):
        Options(keep_last=0)


# ---- from the command line


@pytest.fixture
def command(tmp_path, monkeypatch):
    """command("toy --epochs 1") runs `jfusion train toy --epochs 1` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda line: main(["train", *line.split()])


def runs(root):
    return [Run.open(path.parent) for path in sorted(root.glob("exp/*/config.json"))]


def test_settings_and_options_reach_the_run(command, toy, training_set, tmp_path):
    data = training_set("x.h5", 4, task="MIF")
    options = f"--data {data} --images 1 --seed 3 --max-steps 3"
    assert command(f"toy {options} --crop 4 6 --epochs 1 --no-drop-last") == 0
    (run,) = runs(tmp_path)
    record = run.record
    assert record["system"] == "toy" and record["options"]["seed"] == 3
    assert record["config"]["crop"] == [4, 6] and record["config"]["task"] == "MIF"
    assert "system" not in record["options"] and "resume" not in record["options"]
    assert len(list((run.folder / "pic_fusion").glob("*/*.png"))) == 4
    assert command(f"--resume {run.folder}") == 0
    assert [r.folder for r in runs(tmp_path)] == [run.folder]
    assert run.latest()["step"] == 4


def test_each_and_schedule(command, toy, training_set, tmp_path):
    for task, count in (("MIF", 4), ("MEF", 2)):
        folder = training_set(f"{task}.h5", count, task=task).parent
    assert command(f"toy --data {folder} --epochs 1 --each --images 0") == 0
    found = [json.loads((run.folder / "config.json").read_text()) for run in runs(tmp_path)]
    assert {record["config"]["task"] for record in found} == {"MIF", "MEF"}
    one = f"toy --data {folder} --epochs 1 --images 0 --schedule mif"
    assert command(one) == 0
    assert runs(tmp_path)[-1].record["options"]["schedule"] == "mif"


# ---- resuming what is not as it was


def test_data_that_have_changed_are_named(toy, training_set, options, capsys):
    run = train("toy", {}, options(training_set("x.h5", 4), max_steps=2))
    resume(run.folder, max_steps=3)
    assert "have changed" not in capsys.readouterr().out
    training_set("x.h5", 6)
    resume(run.folder, max_steps=4)
    assert "x.h5 is not as it was when the run began" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ({"step": "two"}, "step is not a count: 'two'"),
        ({"step": True}, "step is not a count: True"),
        ({"epoch": -1}, "epoch is not a count: -1"),
        ({"epoch": 999}, "999 complete epochs of 6"),
        ({"step": 10**9}, "counts 1000000000 steps, and 1 epoch and 0 batches are 2"),
    ],
)
def test_counts_that_cannot_be_right_are_refused(toy, training_set, options, counts, text):
    run = train("toy", {}, options(training_set("x.h5", 4), max_steps=2))
    path = run.checkpoints()[-1]
    checkpoint.save(path, {**checkpoint.load(path), **counts})
    with pytest.raises(UserError, match=text):
        resume(run.folder, max_steps=4)


@pytest.mark.parametrize("value", [0, -3])
def test_a_run_has_at_least_one_step(training_set, options, value):
    with pytest.raises(UserError, match=f"--max-steps must be 1 or more, not {value}"):
        options(training_set("x.h5", 2), max_steps=value)
