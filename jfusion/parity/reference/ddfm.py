"""DDFM: the network of guided diffusion in a small configuration, and the EM step.

The authors train nothing; the step of training is DDPM's simple loss on their network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import shared
from constants import EM_STEPS, SMALL


class Reference(shared.Reference):
    """`create_model` of guided_diffusion/unet.py, and EM_onestep.py."""

    def __init__(self, folder: str, config: dict[str, Any] = SMALL):
        # their package imports a video library and more that neither part needs
        package = shared.stub("guided_diffusion")
        package.__path__ = [str(Path(folder, "guided_diffusion"))]
        from guided_diffusion.unet import create_model

        self.networks = {"": create_model(**config)}

    def forward(self, batch: dict[str, Any]) -> Any:
        return self.networks[""](batch["x"], batch["t"].float())

    def em_step(self, fused: Any, i: Any, v: Any, state: Any) -> tuple[Any, Any]:
        """One EM step, and the state for the next; None before the first."""
        from guided_diffusion.EM_onestep import EM_Initial, EM_onestep

        state = EM_Initial(i) if state is None else state
        return EM_onestep(fused, i, v, state, 0.5, 0.001)

    def extras(self, batch: dict[str, Any]) -> dict[str, Any]:
        results, state = {}, None
        for k in range(EM_STEPS):
            out, state = self.em_step(batch[f"f{k}"], batch["i"], batch["v"], state)
            results[f"EM step {k + 1}"] = out
        return results

    def loss(self, batch: dict[str, Any], stage: str) -> Any:
        return ((self.forward(batch) - batch["noise"]) ** 2).mean()

    def optimizers(self, stage: str, rate: float) -> list[tuple[Any, list, float | None]]:
        import torch

        parameters = list(self.networks[""].parameters())
        return [(torch.optim.Adam(parameters, lr=rate), parameters, None)]
