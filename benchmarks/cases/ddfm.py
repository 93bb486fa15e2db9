"""DDFM: one pass of the UNet (official and small), and one EM step."""

from __future__ import annotations

import numpy as np
from cases import common

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
        (x,) = common.images("x", (1, 3, *size))
        return [2 * x - 1]
    return [2 * x - 1 for x in common.images("fiv", (1, 1, *size))]


def ours(name: str) -> common.Run:
    """One run of ours."""
    from jfusion.diffusion.config import UNetConfig
    from jfusion.runtime import jt
    from jfusion.systems.ddfm.em import Likelihood

    config = CASES[name][0]
    first, *sources = (jt.array(x) for x in inputs(name))
    if not config:
        step = Likelihood(*sources, 0.5, 0.001)
        return common.forward(lambda: {"output": step(first)})
    published = common.golden_json(f"ddfm/config_{config}.json")
    settings = {k: v for k, v in published.items() if k in UNetConfig.__dataclass_fields__}
    system = common.create("ddfm", common.weights(f"ddfm/manifest_{config}.json"), **settings)
    return common.forward(lambda: {"output": system.unet(first, np.array([500.0]))})


def reference(name: str, folder: str) -> common.Run:
    """One run of the authors' code."""
    import torch

    config = CASES[name][0]
    first, *sources = inputs(name)
    if config:
        published = common.golden_json(f"ddfm/config_{config}.json")
        state = common.weights(f"ddfm/manifest_{config}.json")
        side = common.authors("ddfm", folder, state, config=published)
        return common.run_of_authors(side, {"x": first, "t": np.array([500])}, None)
    side = common.authors("ddfm", folder, {})
    first, *sources = (torch.tensor(x) for x in (first, *sources))
    state = [None]

    def run() -> dict[str, np.ndarray]:
        out, state[0] = side.em_step(first, *sources, state[0])
        return {"output": out.cpu().numpy()}

    return run
