"""FILM: the authors' network, losses and optimizer."""

from __future__ import annotations

import sys
from typing import Any

import shared


class Reference(shared.Reference):
    """`Net` of net/Film.py, with the losses of utils/lossfun.py as train.py weights them."""

    def __init__(self, folder: str):
        sys.path.insert(0, folder)
        import torch
        from net.Film import Net
        from utils.lossfun import Fusionloss, LpLssimLossweight

        self.networks = {"": Net()}
        self.fusion = Fusionloss(coeff_grad=20, device=torch.get_default_device())
        self.ssim = LpLssimLossweight()

    def forward(self, batch: dict[str, Any]) -> Any:
        return self.networks[""](batch["a"], batch["b"], batch["text"])

    def loss(self, batch: dict[str, Any], stage: str) -> Any:
        a, b, fused = batch["a"], batch["b"], self.forward(batch)
        weight = int((a.shape[2] * a.shape[3]) ** 0.5)
        structure = self.ssim(a, fused, weight)[0] + self.ssim(b, fused, weight)[0]
        return self.fusion(a, b, fused)[0] + 0 * structure

    def optimizers(self, stage: str, rate: float) -> list[tuple[Any, list, float | None]]:
        import torch

        parameters = list(self.networks[""].parameters())
        return [(torch.optim.Adam(parameters, lr=rate), parameters, None)]

    def fuse(self, pair: dict[str, Any]) -> Any:
        return shared.min_max(self.forward(pair)[0].numpy())
