"""FILM: forward and a training step as published (batch 2, Adam, the logged SSIM terms included)."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

GOLDEN = Path(__file__).resolve().parents[2] / "tests/golden"
sys.path.insert(0, str(GOLDEN))

import recipe  # noqa: E402


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


def inputs(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """a, b (N, 1, H, W) and text (N, 149, 768)."""
    a, b = (recipe.image(f"benchmark.{x}", (case.batch, 1, *case.size)) for x in "ab")
    text = np.random.default_rng(0).standard_normal((case.batch, 149, 768)).astype(np.float32)
    return a, b, text


def weights() -> dict[str, np.ndarray]:
    """The golden parameters by the authors' names."""
    return recipe.state(json.loads((GOLDEN / "film/manifest.json").read_text()))


def ours(name: str) -> Callable[[], dict[str, np.ndarray]]:
    """One run of ours."""
    import jfusion
    from jfusion.runtime import jt
    from jfusion.systems.base import Batch
    from jfusion.train.optimizer import Adam

    case = CASES[name]
    film = jfusion.create("film")
    film.load_official(weights())
    a, b, text = (jt.array(x) for x in inputs(case))
    optimizer = Adam(film.state_dict())
    batch, stage = Batch(a, b, text, []), film.stages()[0]

    def forward() -> dict[str, np.ndarray]:
        jt.sync_all(True)
        with jt.no_grad():
            return {"output": film(a, b, text).numpy()}

    def step() -> dict[str, np.ndarray]:
        jt.sync_all(True)
        losses = film.losses(batch, stage)
        gradients = jt.grad(losses["total"], list(optimizer.parameters.values()))
        values = {k: v.item() for k, v in losses.items()}
        optimizer.apply(gradients, 1e-5)
        jt.sync_all(True)
        return {"loss": np.array([values["total"]])}

    return step if case.train else forward


def reference(name: str, folder: str) -> Callable[[], dict[str, np.ndarray]]:
    """One run of the authors' code."""
    sys.path.insert(0, folder)
    import torch
    from net.Film import Net
    from utils.lossfun import Fusionloss, LpLssimLossweight

    case = CASES[name]
    net = Net()
    net.load_state_dict({k: torch.from_numpy(v) for k, v in weights().items()})
    a, b, text = (torch.tensor(x) for x in inputs(case))
    fusion, ssim = Fusionloss(coeff_grad=20, device=torch.get_default_device()), LpLssimLossweight()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-5)
    weight = int((case.size[0] * case.size[1]) ** 0.5)

    def forward() -> dict[str, np.ndarray]:
        with torch.no_grad():
            return {"output": net(a, b, text).cpu().numpy()}

    def step() -> dict[str, np.ndarray]:
        fused = net(a, b, text)
        loss = fusion(a, b, fused)[0] + 0 * (ssim(a, fused, weight)[0] + ssim(b, fused, weight)[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": np.array([loss.item()])}

    return step if case.train else forward
