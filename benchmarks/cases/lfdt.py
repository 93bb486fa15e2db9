"""LFDT-Fusion: fusing with five steps of its sampler, and a training step, with the published network."""

from __future__ import annotations

import sys
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
    """One run of the authors' network on the CPU, without the two OpenMMLab packages.

    Of these it needs nothing but a name for nn.Module and one for BatchNorm2d.
    """
    import torch

    def build_norm_layer(kind: dict, n: int) -> tuple[str, torch.nn.Module]:
        return "bn", torch.nn.BatchNorm2d(n)

    common.stub("mmengine")
    common.stub("mmengine.model", BaseModule=torch.nn.Module)
    common.stub("mmcv")
    common.stub("mmcv.cnn", build_norm_layer=build_norm_layer)
    common.stub("mmcv.cnn.bricks", build_norm_layer=build_norm_layer)
    sys.path.insert(0, folder)
    from model.networks import define_Network

    case = CASES[name]
    published = common.golden_json("lfdt/configs.json")["default"]
    fusion = {**published["Fusion"], "sample_selected": "ddp-solver++"}
    model = {"Unet": published["Unet"], "Fusion": fusion, "fusion_task": "VI-IR"}
    network = define_Network(
        {"model": model, "phase": "test", "gpu_ids": None, "distributed": False}, 0
    )
    network.load_state_dict(common.torch_state(weights()))
    network.set_loss("cpu")
    first, second, noise = (torch.from_numpy(x) for x in inputs(case))
    torch.randn = lambda *shape: noise  # what its sampler draws
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=1e-4)

    def fuse() -> dict[str, np.ndarray]:
        return {"output": network.test_Fusion(torch.cat([first, second], 1), "cpu").numpy()}

    def step() -> dict[str, np.ndarray]:
        optimizer.zero_grad()
        loss = network(first, second)["loss"]
        loss.backward()
        optimizer.step()
        return {"loss": np.array([loss.item()])}

    network.train() if case.training else network.eval()
    return step if case.training else fuse
