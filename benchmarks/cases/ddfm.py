"""DDFM: one pass of the UNet (official and small), and one EM step."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).resolve().parents[2] / "tests/golden"
sys.path.insert(0, str(GOLDEN))

import recipe  # noqa: E402

# the configuration ("" for the EM step) and the size of the image
CASES = {
    "unet-official-256x256": ("256_uncond", (256, 256)),
    "unet-small-128x128": ("small", (128, 128)),
    "em-480x640": ("", (480, 640)),
    "unet-small-32x32": ("small", (32, 32)),
}


def inputs(name: str) -> list[np.ndarray]:
    """The image with noise; for the EM step the luminance and the two sources."""
    config, size = CASES[name]
    if config:
        return [2 * recipe.image("benchmark.x", (1, 3, *size)) - 1]
    return [2 * recipe.image(f"benchmark.{k}", (1, 1, *size)) - 1 for k in ("f", "i", "v")]


def settings(config: str) -> dict:
    """The network's configuration by the authors' names."""
    return json.loads((GOLDEN / f"ddfm/config_{config}.json").read_text())


def weights(config: str) -> dict[str, np.ndarray]:
    """The golden parameters by the authors' names."""
    manifest = json.loads((GOLDEN / f"ddfm/manifest_{config}.json").read_text())
    return recipe.state(manifest, salt="golden")


def ours(name: str) -> Callable[[], dict[str, np.ndarray]]:
    """One run of ours."""
    import jfusion
    from jfusion.checkpoint.weights import load_weights
    from jfusion.diffusion.config import UNetConfig
    from jfusion.runtime import jt
    from jfusion.systems.ddfm.em import Likelihood

    config = CASES[name][0]
    first, *sources = (jt.array(x) for x in inputs(name))
    if not config:
        step = Likelihood(*sources, 0.5, 0.001)

        def run() -> dict[str, np.ndarray]:
            jt.sync_all(True)
            return {"output": step(first).numpy()}

        return run
    chosen = {k: v for k, v in settings(config).items() if k in UNetConfig.__dataclass_fields__}
    system = jfusion.create("ddfm", **chosen)
    load_weights(system, weights(config), "the golden weights", consume=True)

    def forward() -> dict[str, np.ndarray]:
        jt.sync_all(True)
        with jt.no_grad():
            return {"output": system.unet(first, np.array([500.0])).numpy()}

    return forward


def reference(name: str, folder: str) -> Callable[[], dict[str, np.ndarray]]:
    """One run of the authors' code."""
    import types

    import torch

    # their package imports a video library and more that neither part needs
    package = types.ModuleType("guided_diffusion")
    package.__path__ = [str(Path(folder, "guided_diffusion"))]
    sys.modules["guided_diffusion"] = package
    config = CASES[name][0]
    first, *sources = (torch.tensor(x) for x in inputs(name))
    if not config:
        from guided_diffusion.EM_onestep import EM_Initial, EM_onestep

        state = [EM_Initial(sources[0])]

        def run() -> dict[str, np.ndarray]:
            out, state[0] = EM_onestep(first, *sources, state[0], 0.5, 0.001)
            return {"output": out.cpu().numpy()}

        return run
    from guided_diffusion.unet import create_model

    network = create_model(**settings(config))
    network.load_state_dict({k: torch.from_numpy(v) for k, v in weights(config).items()})
    network.eval()

    def forward() -> dict[str, np.ndarray]:
        with torch.no_grad():
            return {"output": network(first, torch.tensor([500.0])).cpu().numpy()}

    return forward
