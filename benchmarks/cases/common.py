"""What the cases share: inputs and weights that both sides rebuild from names, and runs of ours.

Nothing here imports Jittor or PyTorch before a function that needs it is called: each side has one.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jfusion.runtime import jt
    from jfusion.systems.network import NetworkSystem
    from jfusion.train.optimizer import Adam

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden"
REFERENCE = ROOT / "jfusion/parity/reference"  # the authors' side
Run = Callable[[], dict[str, np.ndarray]]  # one run, and what it computed

_spec = importlib.util.spec_from_file_location("recipe", GOLDEN / "recipe.py")
recipe = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(recipe)


def images(names: str, shape: tuple[int, ...]) -> list[np.ndarray]:
    """A random smooth image of `shape` (..., H, W), float32 in [0, 1], for each letter of `names`."""
    return [recipe.image(f"benchmark.{name}", shape) for name in names]


def golden_json(name: str) -> dict[str, Any]:
    """The content of a JSON file of the golden fixtures, such as "film/manifest.json"."""
    return json.loads((GOLDEN / name).read_text())


def weights(manifest: str, factors: Mapping[str, float] | None = None) -> dict[str, np.ndarray]:
    """The golden parameters by the authors' names; those in `factors` are multiplied."""
    state = recipe.state(golden_json(manifest))
    for name, factor in (factors or {}).items():
        state[name] = (state[name] * np.float32(factor)).astype(np.float32)
    return state


# ---- ours


def create(system: str, state: dict[str, np.ndarray], **settings: Any) -> NetworkSystem:
    """A system with weights by the authors' names; `state` is emptied."""
    import jfusion
    from jfusion.checkpoint.weights import load_official

    made = jfusion.create(system, **settings)
    load_official(made, state, "the golden weights", consume=True)
    return made


def forward(compute: Callable[[], Mapping[str, jt.Var]]) -> Run:
    """A run that computes named arrays without gradients."""
    from jfusion.runtime import jt

    def run() -> dict[str, np.ndarray]:
        jt.sync_all(True)
        with jt.no_grad():
            return {name: value.numpy() for name, value in compute().items()}

    return run


def training_step(
    losses: Callable[[], Mapping[str, jt.Var]], optimizers: list[Adam], rate: float
) -> Run:
    """A run that does one step of training, all losses read as the trainer reads them."""
    from jfusion.runtime import jt

    def run() -> dict[str, np.ndarray]:
        jt.sync_all(True)
        found = losses()
        parameters = [p for o in optimizers for p in o.parameters.values()]
        gradients = iter(jt.grad(found["total"], parameters))
        values = {name: value.item() for name, value in found.items()}
        for optimizer in optimizers:
            optimizer.apply([next(gradients) for _ in optimizer.parameters], rate)
        jt.sync_all(True)
        return {"loss": np.array([values["total"]])}

    return run


# ---- the authors' code


def authors(system: str, folder: str, state: dict[str, np.ndarray], **options: Any) -> Any:
    """The authors' networks with these weights, as jfusion/parity/reference runs them."""
    sys.path.insert(0, str(REFERENCE))
    side = importlib.import_module(system).Reference(folder, **options)
    side.load(state)
    return side


def run_of_authors(
    side: Any, arrays: Mapping[str, np.ndarray], stage: str | None, rate: float = 0.0
) -> Run:
    """A forward pass of the authors' code, or a training step of a stage."""
    import torch

    batch = {name: torch.tensor(value) for name, value in arrays.items()}
    side.train(stage is not None)

    def forward() -> dict[str, np.ndarray]:
        with torch.no_grad():
            return {"output": side.forward(batch).float().cpu().numpy()}

    optimizers = side.optimizers(stage, rate) if stage else []

    def step() -> dict[str, np.ndarray]:
        return {"loss": np.array([side.step(batch, stage, optimizers)])}

    return step if stage else forward
