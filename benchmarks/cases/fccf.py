"""Diff-FCCF: the published network on one input, and in a training step of three color channels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from cases import common


class Case(NamedTuple):
    """One image of `size`: the network alone, or a training step."""

    training: bool
    size: tuple[int, int]


CASES = {
    "forward-256x256": Case(False, (256, 256)),
    "step-256x256": Case(True, (256, 256)),
    "forward-64x64": Case(False, (64, 64)),
}
TIME, RATE = 1203, 2e-4


def weights() -> dict[str, np.ndarray]:
    """The golden parameters by the authors' names."""
    return common.weights("fccf/manifest.json")


def noisy(case: Case) -> np.ndarray:
    """The network's input, (1, 4, H, W)."""
    return np.random.RandomState(0).standard_normal((1, 4, *case.size)).astype(np.float32)


def pair() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A PET-MRI pair in [-1, 1]: s (1, 1, 256, 256), f (1, 3, 256, 256); and by channel times and noise."""
    images, step = (np.load(common.GOLDEN / f"fccf/{x}.npz") for x in ("inputs", "gradients"))
    s, f = images["gray256"][:, None], np.moveaxis(images["ycrcb256"], 3, 1)
    s, f = (x.astype(np.float32) / np.float32(255) * 2 - 1 for x in (s, f))
    noise = step["d256_noise_q"].astype(np.float32) / 32
    return s, f, step["d256_t"], noise.reshape(3, 1, 1, 256, 256)


def ours(name: str) -> common.Run:
    """One run of ours."""
    from jfusion.runtime import jt
    from jfusion.train.optimizer import Adam

    case = CASES[name]
    system = common.create("fccf", weights(), group="pet", dropout=0.0)
    x = jt.array(noisy(case))
    if not case.training:
        system.eval()
        return common.forward(lambda: _named(system(x, np.array([TIME]))))
    s, f, t, noise = pair()
    noise = jt.array(noise)
    optimizers = [Adam.from_config(config) for config in system.optimizers(system.stages()[0])]
    return common.training_step(lambda: system.losses_of(s, f, t, noise, "pet"), optimizers, RATE)


def _named(output: Any) -> dict[str, Any]:
    """What is compared of the network's output."""
    return {"noise": output.noise, "field": output.field}


def reference(name: str, folder: str) -> common.Run:
    """One run of the authors' network and training losses on the CPU."""
    import torch

    case, side = CASES[name], common.authors("fccf", folder, weights())
    if case.training:
        batch = dict(zip(("s", "f", "t", "noise"), pair(), strict=True))
        return common.run_of_authors(side, batch, "training", RATE)
    side.train(False)
    batch = {"x": torch.from_numpy(noisy(case)), "time": torch.tensor([TIME])}

    def forward() -> dict[str, np.ndarray]:
        with torch.no_grad():
            outputs = side.run(batch)
        return {"noise": outputs[0].numpy(), "field": outputs[3].numpy()}

    return forward
