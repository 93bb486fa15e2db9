"""A system of one parameter, on which the trainer can be tested in no time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import h5py
import numpy as np
import pytest

from jfusion.config import SystemConfig, setting
from jfusion.runtime import jt
from jfusion.systems import registry
from jfusion.systems.base import OptimizerConfig, Stage
from jfusion.systems.network import NetworkSystem


@dataclass(frozen=True)
class ToyConfig(SystemConfig):
    """Its settings; `task` is decided by the data, `group` by each pair."""

    task: str = setting("IVF", "the task")
    group: str = setting("auto", "the group")
    batch_size: int = setting(2, "pairs per step")
    epochs: int = setting(3, "epochs of each stage")

    @classmethod
    def for_dataset(cls, attributes):
        return {key: str(attributes[key]) for key in ("task", "group") if key in attributes}


@dataclass(frozen=True)
class ToyImageConfig(ToyConfig):
    """The same, also trained on a folder of images."""

    TRAINS_ON_IMAGES: ClassVar[bool] = True


class Toy(NetworkSystem):
    """w a + (1 - w) b, trained to be a in one stage, and b in another; `seen` records its batches."""

    Config = ToyConfig

    def __init__(self, config=None):
        super().__init__(config)
        self.weight = jt.array([0.5])
        self.buffer = jt.array([7.0]).stop_grad()
        self.seen = []

    def _fuse(self, a, b, text, seed, callback):
        return self.weight * a + (1 - self.weight) * b

    def stages(self):
        return [Stage("toward a", self.config.epochs), Stage("toward b", self.config.epochs)]

    def losses(self, batch, stage):
        self.seen.append((batch.dataset, batch.names, stage.name))
        target = batch.a if stage.name == "toward a" else batch.b
        error = self._fuse(batch.a, batch.b, None, None, None) - target
        noise = jt.rand(1)
        return {"total": (error * error).mean() + 0 * noise.sum(), "noise": noise.sum()}

    def optimizers(self, stage):
        names = ["first"] if stage.name == "toward a" else ["first", "second"]
        return [
            OptimizerConfig(name, self.trainable(), lambda epoch: 0.1 / (epoch + 1))
            for name in names
        ]


class ToyOnImages(Toy):
    """The same, also trained on a folder of images."""

    Config = ToyImageConfig


@pytest.fixture
def toy(monkeypatch):
    """The names of two toy systems, for pairs and for images; their curves are not drawn, to save time."""
    monkeypatch.setattr("jfusion.train.progress.Progress.draw", lambda *_, **__: None)
    monkeypatch.setitem(registry._registered, "toy", Toy)
    monkeypatch.setitem(registry._registered, "toy-images", ToyOnImages)
    return "toy", "toy-images"


@pytest.fixture
def training_set(tmp_path):
    """training_set("x.h5", 5, task="MIF") -> the path of an H5 file of five pairs of 6x8."""

    def write(name, count, text=None, **attributes):
        path = tmp_path / "sets" / name
        path.parent.mkdir(exist_ok=True)
        rng = np.random.default_rng(count)
        with h5py.File(path, "w") as file:
            file.attrs.update({"split": "train", **attributes})
            for i in range(count):
                for group in ("imageA", "imageB"):
                    file[f"{group}/s{i}"] = rng.random((1, 6, 8)).astype(np.float32)
                if text:
                    file[f"text/s{i}"] = np.zeros((1, 3, text), np.float32)
        return path

    return write
