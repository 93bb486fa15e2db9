"""CDDFuse: forward, and a training step of either phase as published (batch 8 of 128x128, clipping)."""

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

NETWORKS = ("DIDF_Encoder", "DIDF_Decoder", "BaseFuseLayer", "DetailFuseLayer")


class Case(NamedTuple):
    """A forward pass (phase 0) or a training step of phase 1 or 2 on `batch` pairs of `size`."""

    phase: int
    batch: int
    size: tuple[int, int]


CASES = {
    "forward-288x384": Case(0, 1, (288, 384)),
    "phase1-2x128x128": Case(1, 2, (128, 128)),
    "phase2-2x128x128": Case(2, 2, (128, 128)),
    "forward-48x64": Case(0, 1, (48, 64)),
}


def inputs(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """a (infrared), b (visible), (N, 1, H, W)."""
    a, b = (recipe.image(f"benchmark.{x}", (case.batch, 1, *case.size)) for x in "ab")
    return a, b


def weights(system: str = "cddfuse") -> dict[str, np.ndarray]:
    """The golden parameters by the authors' names."""
    folder = GOLDEN / system
    state = recipe.state(json.loads((folder / "manifest.json").read_text()), salt="golden")
    for name, factor in json.loads((folder / "scales.json").read_text()).items():
        state[name] = (state[name] * np.float32(factor)).astype(np.float32)
    return state


def ours(name: str) -> Callable[[], dict[str, np.ndarray]]:
    """One run of ours."""
    return run_of_ours("cddfuse", name, weights())


def run_of_ours(
    system_name: str, name: str, state: dict[str, np.ndarray], **settings: object
) -> Callable[[], dict[str, np.ndarray]]:
    """One forward pass or training step of CDDFuse or SFDFuse."""
    import jfusion
    from jfusion.runtime import jt
    from jfusion.systems.base import Batch
    from jfusion.train.optimizer import Adam

    case = CASES[name]
    system = jfusion.create(system_name, **settings)
    system.load_official(state)
    a, b = (jt.array(x) for x in inputs(case))
    batch = Batch(a, b, None, [])
    stage = system.stages()[max(0, case.phase - 1)]
    optimizers = [Adam(g.parameters, clip_norm=g.clip_norm) for g in system.parameter_groups(stage)]

    def forward() -> dict[str, np.ndarray]:
        jt.sync_all(True)
        with jt.no_grad():
            return {"output": system(a, b).numpy()}

    def step() -> dict[str, np.ndarray]:
        jt.sync_all(True)
        losses = system.losses(batch, stage)
        parameters = [p for o in optimizers for p in o.parameters.values()]
        gradients = iter(jt.grad(losses["total"], parameters))
        value = losses["total"].item()
        for optimizer in optimizers:
            optimizer.apply([next(gradients) for _ in optimizer.parameters], 1e-4)
        jt.sync_all(True)
        return {"loss": np.array([value])}

    return step if case.phase else forward


def reference(name: str, folder: str) -> Callable[[], dict[str, np.ndarray]]:
    """One run of the authors' networks; losses written after the specification, because
    theirs need a kornia of 2020."""
    sys.path.insert(0, folder)
    import torch
    from net import (
        BaseFeatureExtraction,
        DetailFeatureExtraction,
        Restormer_Decoder,
        Restormer_Encoder,
    )

    made = (
        Restormer_Encoder(),
        Restormer_Decoder(),
        BaseFeatureExtraction(dim=64, num_heads=8),
        DetailFeatureExtraction(num_layers=1),
    )
    networks = dict(zip(NETWORKS, made, strict=True))
    for key, network in networks.items():
        own = {
            k.removeprefix(f"{key}."): v for k, v in weights().items() if k.startswith(f"{key}.")
        }
        network.load_state_dict({k: torch.from_numpy(v) for k, v in own.items()})
    encoder, decoder, base_fusion, detail_fusion = networks.values()
    ir, vis = (torch.tensor(x) for x in inputs(CASES[name]))

    def fused() -> tuple:
        (base_v, detail_v, _), (base_i, detail_i, _) = encoder(vis), encoder(ir)
        out = decoder(vis, base_fusion(base_i + base_v), detail_fusion(detail_i + detail_v))[0]
        return out, (base_v, base_i), (detail_v, detail_i)

    def rebuilt() -> tuple:
        (base_v, detail_v, _), (base_i, detail_i, _) = encoder(vis), encoder(ir)
        made = decoder(vis, base_v, detail_v)[0], decoder(ir, base_i, detail_i)[0]
        return *made, (base_v, base_i), (detail_v, detail_i)

    return losses_of_reference(CASES[name], networks, vis, ir, fused, rebuilt, halved=False)


def losses_of_reference(  # noqa: ANN201
    case: Case,
    networks: dict,
    vis,  # noqa: ANN001
    ir,  # noqa: ANN001
    fused: Callable[[], tuple],
    rebuilt: Callable[[], tuple],
    halved: bool,
):
    """A run of the reference from its two forward passes; halved: SFDFuse's losses."""
    import torch

    used = list(networks.values())[: 2 if case.phase == 1 else 4]
    optimizers = [torch.optim.Adam(n.parameters(), lr=1e-4) for n in used]

    def forward() -> dict[str, np.ndarray]:
        with torch.no_grad():
            return {"output": fused()[0].cpu().numpy()}

    def step() -> dict[str, np.ndarray]:
        for o in optimizers:
            o.zero_grad()
        if case.phase == 1:
            made_v, made_i, bases, details = rebuilt()
            loss = sum(
                5 * _ssim_loss(x, y, halved) + ((x - y) ** 2).mean()
                for x, y in ((vis, made_v), (ir, made_i))
            )
            loss = loss + 5 * (_gradient(vis) - _gradient(made_v)).abs().mean()
        else:
            out, bases, details = fused()
            brightest = torch.maximum(vis, ir)
            goal = torch.maximum(_sobel(vis), _sobel(ir))
            loss = (brightest - out).abs().mean() + 10 * (goal - _sobel(out)).abs().mean()
            loss = loss + (_ssim_loss(brightest, out, halved) if halved else 0)
        loss = loss + 2 * _cc(*details) ** 2 / (1.01 + _cc(*bases))
        loss.backward()
        for o, network in zip(optimizers, used, strict=True):
            torch.nn.utils.clip_grad_norm_(network.parameters(), max_norm=0.01)
            o.step()
        return {"loss": np.array([loss.item()])}

    return step if case.phase else forward


def _kernels() -> "torch.Tensor":  # noqa: F821, UP037
    import torch

    x = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    return torch.stack([x, x.T])[:, None]


def _gradient(x):  # noqa: ANN001
    from torch.nn import functional as F

    return F.conv2d(F.pad(x, (1,) * 4, mode="replicate"), _kernels() / 8)


def _sobel(x):  # noqa: ANN001
    from torch.nn import functional as F

    return F.conv2d(x, _kernels(), padding=1).abs().sum(1, keepdim=True)


def _cc(x, y):  # noqa: ANN001
    x, y = (v - v.mean((2, 3), keepdim=True) for v in (x, y))
    norms = (x * x).sum((2, 3)).sqrt() * (y * y).sum((2, 3)).sqrt()
    return ((x * y).sum((2, 3)) / (1.1920929e-07 + norms)).clamp(-1, 1).mean()


def _ssim_loss(x, y, halved):  # noqa: ANN001
    import torch
    from torch.nn import functional as F

    g = torch.exp(-((torch.arange(11.0) - 5) ** 2) / 4.5)
    window = torch.outer(g / g.sum(), g / g.sum())[None, None]

    def mean(v):  # noqa: ANN001
        return F.conv2d(F.pad(v, (5,) * 4, mode="reflect"), window)

    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    ssim = (2 * mx * my + 1e-4) * (2 * vxy + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    return ((1 - ssim) / 2).clamp(0, 1).mean() if halved else (1 - ssim).clamp(0, 1).mean() / 2
