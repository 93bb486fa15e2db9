"""FILM: forward and a training step as published (batch 2, Adam, the logged SSIM terms included)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from cases import common


class Case(NamedTuple):
    """A forward pass or a training step on `batch` pairs of `size`."""

    train: bool
    batch: int
    size: tuple[int, int]


CASES = {
    "forward-288x384": Case(False, 1, (288, 384)),
    "forward-480x640": Case(False, 1, (480, 640)),
    "train-2x288x384": Case(True, 2, (288, 384)),
    "forward-48x64": Case(False, 1, (48, 64)),
}
RATE = 1e-5


def inputs(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """a, b (N, 1, H, W) and text (N, 149, 768)."""
    a, b = common.images("ab", (case.batch, 1, *case.size))
    text = np.random.default_rng(0).standard_normal((case.batch, 149, 768)).astype(np.float32)
    return a, b, text


def weights() -> dict[str, np.ndarray]:
    """The golden parameters by the authors' names."""
    return common.weights("film/manifest.json")


def ours(name: str) -> common.Run:
    """One run of ours."""
    from jfusion.runtime import jt
    from jfusion.systems.base import Batch
    from jfusion.train.optimizer import Adam

    case = CASES[name]
    film = common.create("film", weights())
    a, b, text = (jt.array(x) for x in inputs(case))
    if not case.train:
        return common.forward(lambda: {"output": film(a, b, text)})
    batch, stage = Batch(a, b, text, []), film.stages()[0]
    optimizers = [Adam.from_config(config) for config in film.optimizers(stage)]
    return common.training_step(lambda: film.losses(batch, stage), optimizers, RATE)


def reference(name: str, folder: str) -> common.Run:
    """One run of the authors' code."""
    case = CASES[name]
    batch = dict(zip(("a", "b", "text"), inputs(case), strict=True))
    side = common.authors("film", folder, weights())
    return common.run_of_authors(side, batch, "fusion" if case.train else None, RATE)
