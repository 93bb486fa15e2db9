"""LFDT-Fusion: the authors' network, without the two OpenMMLab packages.

Of these it needs nothing but a name for nn.Module and one for BatchNorm2d.
"""

from __future__ import annotations

import sys
from typing import Any

import shared

PUBLISHED = {
    "Unet": {
        "LDM": "U_LDM",
        "in_ch": 1,
        "out_ch": 1,
        "LDM_embed_dim": 8,
        "LDM_ch": 64,
        "ch_mult": [1, 2, 4],
    },
    "Fusion": {
        "model_selected": "DFT",
        "channel_emdin": 8,
        "num_blocks": [4, 4, 4, 4],
        "heads": [1, 2, 4, 8],
        "feat_channels": [32, 64, 128, 256],
        "inference_steps": 5,
        "num_train_timesteps": 1000,
        "mode": "MAX",
        "sample_selected": "ddp-solver++",
    },
    "fusion_task": "VI-IR",
}


class Reference(shared.Reference):
    """`define_Network` of model/networks.py, on the CPU."""

    def __init__(self, folder: str):
        import torch

        def build_norm_layer(kind: dict, n: int) -> tuple[str, Any]:
            return "bn", torch.nn.BatchNorm2d(n)

        shared.stub("mmengine")
        shared.stub("mmengine.model", BaseModule=torch.nn.Module)
        shared.stub("mmcv")
        shared.stub("mmcv.cnn", build_norm_layer=build_norm_layer)
        shared.stub("mmcv.cnn.bricks", build_norm_layer=build_norm_layer)
        sys.path.insert(0, folder)
        from model.networks import define_Network

        options = {"model": PUBLISHED, "phase": "test", "gpu_ids": None, "distributed": False}
        self.network = define_Network(options, 0)
        self.network.set_loss("cpu")
        self.networks = {"": self.network}
        self.randn = torch.randn

    def forward(self, batch: dict[str, Any]) -> Any:
        import torch

        torch.randn = lambda *shape: batch["noise"]  # what its sampler draws
        both = torch.cat([batch["first"], batch["second"]], 1)
        return self.network.test_Fusion(both, "cpu")

    def loss(self, batch: dict[str, Any], stage: str) -> Any:
        import torch

        torch.randn = lambda *shape: batch["noise"]
        return self.network(batch["first"], batch["second"])["loss"]

    def optimizers(self, stage: str, rate: float) -> list[tuple[Any, list, float | None]]:
        import torch

        parameters = [p for p in self.network.parameters() if p.requires_grad]
        return [(torch.optim.AdamW(parameters, lr=rate, weight_decay=1e-4), parameters, None)]

    def fuse(self, pair: dict[str, Any]) -> Any:
        import torch

        torch.randn = self.randn  # the sampler draws from PyTorch's own generator
        torch.manual_seed(0)
        both = torch.cat([pair["first"], pair["second"]], 1)
        return (self.network.test_Fusion(both, "cpu")[0].clamp(-1, 1).numpy() + 1) / 2
