"""LFDT-Fusion: fusing with five steps of its sampler, and a training step, with the published network."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

GOLDEN = Path(__file__).resolve().parents[2] / "tests/golden"
sys.path.insert(0, str(GOLDEN))

import recipe  # noqa: E402


class Case(NamedTuple):
    """Fusing, or a training step, on one pair of `size`."""

    training: bool
    size: tuple[int, int]


CASES = {
    "fuse-256x256": Case(False, (256, 256)),
    "step-256x256": Case(True, (256, 256)),
    "fuse-64x64": Case(False, (64, 64)),
}


def inputs(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first and the second image in [-1, 1], and the noise of the latent."""
    h, w = case.size
    first, second = (2 * recipe.image(f"benchmark.{x}", (1, 1, h, w)) - 1 for x in "ba")
    noise = np.random.RandomState(0).standard_normal((1, 16, h // 4, w // 4))
    return first, second, noise.astype(np.float32)


def weights() -> dict[str, np.ndarray]:
    """The golden parameters, tame (nothing saturates), by the authors' names."""
    folder = GOLDEN / "lfdt"
    state = recipe.state(json.loads((folder / "manifest.json").read_text()), salt="golden")
    for name, gain in json.loads((folder / "configs.json").read_text())["_gains"].items():
        state[name] = (state[name] * np.float32(gain)).astype(np.float32)
    return state


def ours(name: str) -> Callable[[], dict[str, np.ndarray]]:
    """One run of ours."""
    import jfusion
    from jfusion.runtime import jt
    from jfusion.train.optimizer import Adam

    case = CASES[name]
    system = jfusion.create("lfdt")
    system.load_official(weights(), take=True)
    first, second, noise = (jt.array(x) for x in inputs(case))
    (group,) = system.parameter_groups(system.stages()[0])
    optimizer = Adam(group.parameters, weight_decay=group.weight_decay, decoupled=True)

    def fuse() -> dict[str, np.ndarray]:
        jt.sync_all(True)
        with jt.no_grad():
            return {"output": system(first, second, noise=noise).numpy()}

    def step() -> dict[str, np.ndarray]:
        jt.sync_all(True)
        losses = system.losses_of(first, second, noise=noise)
        value = losses["total"].item()
        optimizer.step(losses["total"], 3e-4)
        jt.sync_all(True)
        return {"loss": np.array([value])}

    system.train() if case.training else system.eval()
    return step if case.training else fuse


def reference(name: str, folder: str) -> Callable[[], dict[str, np.ndarray]]:
    """One run of the authors' network on the CPU, without the two OpenMMLab packages: of these it needs
    nothing but a name for nn.Module and one for BatchNorm2d."""
    import torch

    stand_ins = {
        "mmengine": {},
        "mmengine.model": {"BaseModule": torch.nn.Module},
        "mmcv": {},
        "mmcv.cnn": {"build_norm_layer": lambda kind, n: ("bn", torch.nn.BatchNorm2d(n))},
        "mmcv.cnn.bricks": {"build_norm_layer": lambda kind, n: ("bn", torch.nn.BatchNorm2d(n))},
    }
    for module, content in stand_ins.items():
        sys.modules[module] = types.ModuleType(module)
        sys.modules[module].__dict__.update(content)
    sys.path.insert(0, folder)
    from model.networks import define_Network

    case = CASES[name]
    published = json.loads((GOLDEN / "lfdt/configs.json").read_text())["default"]
    fusion = {**published["Fusion"], "sample_selected": "ddp-solver++"}
    model = {"Unet": published["Unet"], "Fusion": fusion, "fusion_task": "VI-IR"}
    network = define_Network(
        {"model": model, "phase": "test", "gpu_ids": None, "distributed": False}, 0
    )
    state = {k: torch.from_numpy(np.asarray(v)) for k, v in weights().items()}
    network.load_state_dict(state)
    network.set_loss("cpu")
    first, second, noise = (torch.from_numpy(x) for x in inputs(case))
    torch.randn = lambda *shape: noise  # what its sampler draws
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=3e-4, weight_decay=1e-4)

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
