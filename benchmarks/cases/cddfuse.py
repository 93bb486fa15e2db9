"""CDDFuse: forward, and a training step of either phase as published (batch 8 of 128x128, clipping)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from cases import common

NETWORKS = ("DIDF_Encoder", "DIDF_Decoder", "BaseFuseLayer", "DetailFuseLayer")
RATE = 1e-4


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
    sys.path.insert(0, folder)
    import torch
    from net import (
        BaseFeatureExtraction,
        DetailFeatureExtraction,
        Restormer_Decoder,
        Restormer_Encoder,
    )

    networks = (
        Restormer_Encoder(),
        Restormer_Decoder(),
        BaseFeatureExtraction(dim=64, num_heads=8),
        DetailFeatureExtraction(num_layers=1),
    )
    for key, network in zip(NETWORKS, networks, strict=True):
        network.load_state_dict(common.torch_state(weights(), f"{key}."))
    encoder, decoder, base_fusion, detail_fusion = networks
    ir, vis = (torch.tensor(x) for x in inputs(CASES[name]))

    def fused() -> tuple:
        (base_v, detail_v, _), (base_i, detail_i, _) = encoder(vis), encoder(ir)
        out = decoder(vis, base_fusion(base_i + base_v), detail_fusion(detail_i + detail_v))[0]
        return out, (base_v, base_i), (detail_v, detail_i)

    def rebuilt() -> tuple:
        (base_v, detail_v, _), (base_i, detail_i, _) = encoder(vis), encoder(ir)
        images = decoder(vis, base_v, detail_v)[0], decoder(ir, base_i, detail_i)[0]
        return *images, (base_v, base_i), (detail_v, detail_i)

    return run_of_reference(CASES[name], networks, (vis, ir), fused, rebuilt, halved=False)


def run_of_reference(
    case: Case,
    networks: tuple[Any, ...],
    pair: tuple[Any, Any],
    fused: Callable[[], tuple],
    rebuilt: Callable[[], tuple],
    halved: bool,
) -> common.Run:
    """A run of the reference, from its two ways forward.

    pair: the visible and the infrared images. fused() gives the fused image, rebuilt() the visible and
    the infrared one; each then the base and the detail features of both. halved: SFDFuse's losses.
    """
    import torch

    vis, ir = pair
    used = networks[: 2 if case.phase == 1 else 4]
    optimizers = [torch.optim.Adam(n.parameters(), lr=RATE) for n in used]

    def forward() -> dict[str, np.ndarray]:
        with torch.no_grad():
            return {"output": fused()[0].cpu().numpy()}

    def step() -> dict[str, np.ndarray]:
        for o in optimizers:
            o.zero_grad()
        if case.phase == 1:
            of_vis, of_ir, bases, details = rebuilt()
            loss = sum(
                5 * _ssim_loss(x, y, halved) + ((x - y) ** 2).mean()
                for x, y in ((vis, of_vis), (ir, of_ir))
            )
            loss = loss + 5 * (_gradient(vis) - _gradient(of_vis)).abs().mean()
        else:
            out, bases, details = fused()
            brightest, target = torch.maximum(vis, ir), torch.maximum(_sobel(vis), _sobel(ir))
            loss = (brightest - out).abs().mean() + 10 * (target - _sobel(out)).abs().mean()
            loss = loss + (_ssim_loss(brightest, out, halved) if halved else 0)
        loss = loss + 2 * _cc(*details) ** 2 / (1.01 + _cc(*bases))
        loss.backward()
        for o, network in zip(optimizers, used, strict=True):
            torch.nn.utils.clip_grad_norm_(network.parameters(), max_norm=0.01)
            o.step()
        return {"loss": np.array([loss.item()])}

    return step if case.phase else forward


def _kernels() -> Any:
    import torch

    x = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    return torch.stack([x, x.T])[:, None]


def _gradient(x: Any) -> Any:
    from torch.nn import functional as F

    return F.conv2d(F.pad(x, (1,) * 4, mode="replicate"), _kernels() / 8)


def _sobel(x: Any) -> Any:
    from torch.nn import functional as F

    return F.conv2d(x, _kernels(), padding=1).abs().sum(1, keepdim=True)


def _cc(x: Any, y: Any) -> Any:
    x, y = (v - v.mean((2, 3), keepdim=True) for v in (x, y))
    norms = (x * x).sum((2, 3)).sqrt() * (y * y).sum((2, 3)).sqrt()
    return ((x * y).sum((2, 3)) / (1.1920929e-07 + norms)).clamp(-1, 1).mean()


def _ssim_loss(x: Any, y: Any, halved: bool) -> Any:
    import torch
    from torch.nn import functional as F

    g = torch.exp(-((torch.arange(11.0) - 5) ** 2) / 4.5)
    window = torch.outer(g / g.sum(), g / g.sum())[None, None]

    def mean(v: Any) -> Any:
        return F.conv2d(F.pad(v, (5,) * 4, mode="reflect"), window)

    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    ssim = (2 * mx * my + 1e-4) * (2 * vxy + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    return ((1 - ssim) / 2).clamp(0, 1).mean() if halved else (1 - ssim).clamp(0, 1).mean() / 2
