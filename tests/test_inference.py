"""From a checkpoint to a system, and from a pair to its fused images."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

import numpy as np
import pytest

import jfusion
from jfusion import checkpoint, inference
from jfusion.config import SystemConfig, setting
from jfusion.data.h5 import Pair
from jfusion.errors import UserError
from jfusion.runtime import jt
from jfusion.systems import registry
from jfusion.systems.base import System
from jfusion.systems.network import NetworkSystem, SamplingSystem


@dataclass(frozen=True)
class Config(SystemConfig):
    """Settings that different sources decide."""

    RENAMED = {"speed": "steps"}

    steps: int = setting(1, "decided by the checkpoint")
    group: str = setting("none", "decided by the data set")
    width: int = setting(2, "decided by the tensors")


class Scaled(SamplingSystem):
    """The mean of a and b, times a parameter, in `steps` steps."""

    Config = Config

    def __init__(self, config=None):
        super().__init__(config or Config())
        self.scale = jt.ones(self.config.width)

    @classmethod
    def infer_settings(cls, state):
        return {"width": len(state["scale"])} if "scale" in state else {}

    def _fuse(self, a, b, text, seed, callback):
        fused = (a + b) / 2 * self.scale[0]
        for i in reversed(range(self.config.steps)):
            if callback:
                callback(i, fused, fused)
        return fused

    def preview_step(self, x, size):
        return np.round(x.numpy()[:, 0] * 255).astype(np.uint8)


class Mean(NetworkSystem):
    """The mean of a and b: a network without parameters."""

    def _fuse(self, a, b, text, seed, callback):
        return (a + b) / 2


@pytest.fixture(autouse=True)
def systems(monkeypatch):
    class DatasetConfig(Config):
        @classmethod
        def for_dataset(cls, attributes):
            return {k: attributes[k] for k in ("group", "steps") if k in attributes}

    monkeypatch.setattr(Scaled, "Config", DatasetConfig)
    monkeypatch.setitem(registry._registered, "scaled", Scaled)
    monkeypatch.setitem(registry._registered, "mean", Mean)


@pytest.fixture
def weights(tmp_path):
    """A checkpoint of `scaled`."""
    content = {"model": {"scale": np.full(3, 0.5, np.float32)}, "system": "scaled"}
    checkpoint.save(tmp_path / "w.pkl", {**content, "config": {"speed": 4, "width": 9}})
    return tmp_path / "w.pkl"


def pair():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 1, 5, 6)).astype(np.float32)
    return Pair("x", a, b)


def run_folder(root, stamp, system, *checkpoints):
    folder = root / stamp
    (folder / "model").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"system": system}))
    for name in checkpoints:
        checkpoint.save(folder / "model" / name, {"model": {"x": np.ones(1, np.float32)}})
    return folder


# ---- which checkpoint, which system --------------------------------------------------------------


def test_a_folder_of_runs_means_the_newest_of_the_system_that_is_named(tmp_path):
    for stamp, system in (("1", "scaled"), ("2", "scaled"), ("3", "film")):
        run_folder(tmp_path, stamp, system, "ckpt_1.pkl", "ckpt_10.pkl")
    assert inference.find_checkpoint(tmp_path) == tmp_path / "3/model/ckpt_10.pkl"
    assert inference.find_checkpoint(tmp_path, "scaled") == tmp_path / "2/model/ckpt_10.pkl"
    assert (
        inference.system_of(tmp_path) == "film" and inference.system_of(tmp_path / "1") == "scaled"
    )
    with pytest.raises(UserError, match="holds no run of mean; name a checkpoint or a run"):
        inference.find_checkpoint(tmp_path, "mean")


def test_the_newest_run_is_the_one_whose_checkpoint_is_newest(tmp_path, capsys):
    for age, stamp in enumerate(("3", "1", "2")):
        run_folder(tmp_path, stamp, "scaled", "ckpt_1.pkl")
        os.utime(tmp_path / stamp / "model/ckpt_1.pkl", (1000 - age, 1000 - age))
    run_folder(tmp_path, "4", "scaled")
    (tmp_path / "5").mkdir()
    (tmp_path / "5/config.json").write_text("{")
    assert inference.find_checkpoint(tmp_path) == tmp_path / "3/model/ckpt_1.pkl"
    assert "5/config.json is not valid JSON" in capsys.readouterr().out


def test_what_is_not_there_is_said_with_where_to_get_it(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist; name a checkpoint or a run"):
        inference.find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"does not exist; .*IF-FILM on GitHub"):
        inference.find_checkpoint(tmp_path / "nowhere", "film")
    folder = run_folder(tmp_path, "1", "scaled")
    with pytest.raises(UserError, match="1 holds no checkpoint yet"):
        inference.find_checkpoint(folder)
    assert inference.system_of(tmp_path / "nowhere") == registry.DEFAULT


def test_a_method_without_networks_has_no_weights_to_look_for(tmp_path):
    with pytest.raises(UserError, match=r"^laplacian has no weights; leave out --weights$"):
        inference.find_checkpoint(tmp_path, "laplacian")


def test_a_record_of_an_older_version_is_of_the_system_that_it_is_called_today(monkeypatch):
    monkeypatch.setattr(registry, "RENAMED_SYSTEMS", {"old": "scaled"})
    assert inference.resolve_system({"system": "old"}) == "scaled"
    assert inference.resolve_system({}) == registry.DEFAULT
    assert inference.resolve_system({"system": "old"}, "mean") == "mean"


# ---- settings and weights ------------------------------------------------------------------------


def test_settings_come_from_the_checkpoint_the_data_the_tensors_and_the_caller(weights):
    system = inference.load_system(weights, attributes={"group": "pet", "steps": 7})
    assert (system.config.steps, system.config.group, system.config.width) == (7, "pet", 3)
    assert inference.load_system(weights).config.steps == 4
    np.testing.assert_array_equal(system.scale.numpy(), np.float32([0.5] * 3))
    own = inference.load_system(
        weights, None, {"steps": 2, "group": "ct"}, attributes={"group": "pet"}
    )
    assert (own.config.steps, own.config.group) == (2, "ct")
    assert jfusion.load(weights, speed=5).config.steps == 5


def test_a_checkpoint_of_another_system_is_refused(weights):
    with pytest.raises(UserError, match=r"w\.pkl is of scaled, not of film"):
        inference.load_system(weights, "film")


def test_a_system_without_parameters_needs_no_weights(monkeypatch, tmp_path, weights):
    monkeypatch.chdir(tmp_path)
    run_folder(tmp_path / "exp", "1", "film")
    (fused,) = inference.fuse_pair(inference.load_system(name="mean"), pair())
    expected = np.round((pair().a + pair().b)[0] / 2 * 255)
    np.testing.assert_array_equal(fused.gray, expected)
    with pytest.raises(
        UserError, match=r"no weights of scaled come with jfusion; .*--weights \(exp"
    ):
        inference.load_system(name="scaled")
    checkpoint.save("plain.pkl", {"model": {"scale": np.ones(3, np.float32)}})
    with pytest.raises(
        UserError, match=r"mean has no parameters to load from .*leave out --weights"
    ):
        inference.load_system("plain.pkl", "mean")


# ---- fusing --------------------------------------------------------------------------------------


def test_several_samples_and_their_steps(weights, tmp_path):
    from contextlib import ExitStack

    system = inference.load_system(weights)
    with ExitStack() as stack:
        callback = inference.step_callback(system, pair(), stack, "png", tmp_path)
        fused = inference.fuse_pair(system, pair(), samples=2, callback=callback)
    assert len(fused) == 2 and fused[0].gray.shape == (5, 6)
    for folder in ("x", "x_1"):
        assert len(list((tmp_path / folder).glob("*.png"))) == 4
    assert inference.step_callback(Mean(), pair(), ExitStack(), None, tmp_path) is None


@pytest.mark.parametrize(
    ("system", "samples", "record", "text"),
    [
        (Scaled, 0, None, "--samples must be 1 or more, not 0"),
        (Mean, 2, None, "for systems that sample, and mean does not"),
        (Mean, 1, "gif", "for systems that sample, and mean does not"),
        (Scaled, 1, "avi", "--record must be one of gif, webp, png"),
        (System, 1, "gif", "for systems that sample"),
    ],
)
def test_sampling_is_for_systems_that_sample(system, samples, record, text):
    inference.check_sampling_options(Scaled(), 3, "webp")
    with pytest.raises(UserError, match=text):
        inference.check_sampling_options(system(), samples, record)


def test_a_shifted_pair_is_named(capsys):
    rng = np.random.default_rng(0)
    scene = np.kron(rng.random((16, 16)), np.ones((5, 5))).astype(np.float32)[None]
    inference.warn_if_misaligned(Pair("moved", scene, np.roll(scene, 4, 2)))
    assert "note: moved looks misaligned" in capsys.readouterr().out
    inference.warn_if_misaligned(Pair("still", scene, scene))
    assert capsys.readouterr().out == ""
