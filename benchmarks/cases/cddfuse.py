"""CDDFuse: forward, and a training step of either phase as published (batch 8 of 128x128, clipping)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from cases import common

RATE = 1e-4


class Case(NamedTuple):
    """A forward pass (phase 0) or a training step of phase 1 or 2 on `batch` pairs of `size`."""

    phase: int
    batch: int
    size: tuple[int, int]


CASES = {
    "forward-480x640": Case(0, 1, (480, 640)),
    "forward-288x384": Case(0, 1, (288, 384)),
    "phase1-2x128x128": Case(1, 2, (128, 128)),
    "phase2-2x128x128": Case(2, 2, (128, 128)),
    "forward-48x64": Case(0, 1, (48, 64)),
}


def inputs(case: Case) -> list[np.ndarray]:
    """Images a (infrared) and b (visible), (N, 1, H, W)."""
    return common.images("ab", (case.batch, 1, *case.size))


def weights(system: str = "cddfuse") -> dict[str, np.ndarray]:
    """The golden parameters by the authors' names."""
    factors = common.golden_json(f"{system}/scales.json")
    return common.weights(f"{system}/manifest.json", factors)


def ours(name: str) -> common.Run:
    """One run of ours."""
    return run_of_ours(name, common.create("cddfuse", weights()))


def run_of_ours(name: str, system: Any) -> common.Run:
    """One forward pass or training step of CDDFuse or SFDFuse."""
    from jfusion.runtime import jt
    from jfusion.systems.base import Batch
    from jfusion.train.optimizer import Adam

    case = CASES[name]
    a, b = (jt.array(x) for x in inputs(case))
    if not case.phase:
        return common.forward(lambda: {"output": system(a, b)})
    batch, stage = Batch(a, b, None, []), system.stages()[case.phase - 1]
    optimizers = [Adam.from_config(config) for config in system.optimizers(stage)]
    return common.training_step(lambda: system.losses(batch, stage), optimizers, RATE)


def reference(name: str, folder: str) -> common.Run:
    """One run of the authors' networks; losses written after the specification, because
    theirs need a kornia of 2020."""
    return run_of_reference(name, common.authors("cddfuse", folder, weights()))


def run_of_reference(name: str, side: Any) -> common.Run:
    """One forward pass or training step of the authors' networks of CDDFuse or SFDFuse."""
    case = CASES[name]
    stage = (None, "reconstruction", "fusion")[case.phase]
    batch = dict(zip("ab", inputs(case), strict=True))
    return common.run_of_authors(side, batch, stage, RATE)
