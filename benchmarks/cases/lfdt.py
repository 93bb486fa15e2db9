"""LFDT-Fusion: fusing with five steps of its sampler, and a training step, with the published network."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from cases import common


class Case(NamedTuple):
    """Fusing, or a training step, on one pair of `size`."""

    training: bool
    size: tuple[int, int]


CASES = {
    "fuse-256x256": Case(False, (256, 256)),
    "step-256x256": Case(True, (256, 256)),
    "fuse-64x64": Case(False, (64, 64)),
}
RATE = 3e-4


def inputs(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first and the second image in [-1, 1], and the noise of the latent."""
    h, w = case.size
    first, second = (2 * x - 1 for x in common.images("ba", (1, 1, h, w)))
    noise = np.random.RandomState(0).standard_normal((1, 16, h // 4, w // 4))
    return first, second, noise.astype(np.float32)


def weights() -> dict[str, np.ndarray]:
    """The golden parameters, so small that nothing saturates, by the authors' names."""
    return common.weights("lfdt/manifest.json", common.golden_json("lfdt/configs.json")["_gains"])


def ours(name: str) -> common.Run:
    """One run of ours."""
    from jfusion.runtime import jt
    from jfusion.train.optimizer import Adam

    case = CASES[name]
    system = common.create("lfdt", weights())
    first, second, noise = (jt.array(x) for x in inputs(case))
    if not case.training:
        system.eval()
        return common.forward(lambda: {"output": system(first, second, noise).fused})
    system.train()
    optimizers = [Adam.from_config(config) for config in system.optimizers(system.stages()[0])]
    return common.training_step(lambda: system.losses_of(first, second, noise), optimizers, RATE)


def reference(name: str, folder: str) -> common.Run:
    """One run of the authors' network on the CPU, without the two OpenMMLab packages."""
    case = CASES[name]
    batch = dict(zip(("first", "second", "noise"), inputs(case), strict=True))
    side = common.authors("lfdt", folder, weights())
    return common.run_of_authors(side, batch, "training" if case.training else None, RATE)
