"""Diff-FCCF: the authors' network and training losses.

Stubs stand in the place of what their files import and a step does not use. Next to PyTorch it uses two
things: the mean by label, which one line of PyTorch replaces, and the file of the quality loss, which is
missing in the published code and is written here after the paper.
"""

from __future__ import annotations

import sys
from typing import Any

import shared

WEIGHTS = (10, 1, 1, 1, 10)  # of the five losses


class Reference(shared.Reference):
    """`NoisePred` of Denoiser_Unet/UNet.py, and `GaussianDiffusion` of Diffusion.py."""

    def __init__(self, folder: str):
        _stub_imports()
        sys.path.insert(0, folder)
        import CherbGraph

        shared.stub("Diffusion", GraformerLayer=CherbGraph.GraformerLayer)
        from Denoiser_Unet.UNet import NoisePred

        del sys.modules["Diffusion"]
        from Diffusion import GaussianDiffusion

        self.networks = {"": NoisePred(4, 1, 64, 2, 0.0, 4, [1, 2, 4, 8])}
        self.diffusion = GaussianDiffusion(2000, "cosine")

    def forward(self, batch: dict[str, Any]) -> Any:
        return self.run(batch)[0]

    def extras(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"masks": self.run(batch)[3]}

    def run(self, batch: dict[str, Any]) -> Any:
        """All outputs of the network."""
        return self.networks[""](batch["x"], batch["time"])

    def loss(self, batch: dict[str, Any], stage: str) -> Any:
        import torch

        network, total = self.networks[""], 0
        for c in range(3):
            torch.randn_like = lambda x, c=c: batch["noise"][c]  # what its noising draws
            channel = batch["f"][:, c : c + 1].contiguous()
            t = batch["t"][c].long()
            parts = self.diffusion.train_losses(network, batch["s"], channel, t, 128, "pet", pick=c)
            total = total + sum(w * v for w, v in zip(WEIGHTS, parts[:5], strict=True))
        return total

    def optimizers(self, stage: str, rate: float) -> list[tuple[Any, list, float | None]]:
        import torch

        parameters = list(self.networks[""].parameters())
        return [(torch.optim.AdamW(parameters, lr=rate), parameters, None)]


def _stub_imports() -> None:
    """Puts stubs in the place of what their files import and a step does not use.

    Next to PyTorch it uses two things: the mean by label, which one line of PyTorch replaces, and the
    file of the quality loss, which is missing.
    """
    import torch

    def scatter_mean(src: Any, index: Any, dim: int, dim_size: int) -> Any:
        shape = [dim_size, *src.shape[1:]]
        return torch.zeros(shape).index_reduce_(dim, index, src, "mean", include_self=False)

    for module in ("cv2", "skimage", "matplotlib", "torchvision"):
        shared.stub(module)
    shared.stub("matplotlib.pyplot")
    shared.stub("skimage.segmentation", slic=None)
    # in the group pet they write six images per call, which is not timed
    shared.stub("torchvision.utils", save_image=lambda *args, **kw: None)
    transforms = shared.stub("torchvision.transforms")
    transforms.functional = shared.stub("torchvision.transforms.functional", to_pil_image=None)
    for parent, child in (
        ("matplotlib", "pyplot"),
        ("torchvision", "utils"),
        ("torchvision", "transforms"),
    ):
        setattr(sys.modules[parent], child, sys.modules[f"{parent}.{child}"])
    shared.stub("torch.utils.tensorboard")
    shared.stub("torch.utils.tensorboard.writer", SummaryWriter=None)
    shared.stub("torch_scatter", scatter_mean=scatter_mean)
    shared.stub("model").loss = shared.stub("model.loss", Fusion_loss=_quality_loss())


def _quality_loss() -> type:
    """The quality loss, whose file is missing in the published code, as losses.quality reads it."""
    import torch
    from torch.nn import functional

    kernels = torch.tensor(
        [[[[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]], [[[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]]]]
    )
    ramp = torch.exp(-((torch.arange(11.0) - 5) ** 2) / 4.5)
    window = torch.outer(ramp, ramp)[None, None] / ramp.sum() ** 2

    def edges(x: Any) -> Any:
        return functional.conv2d(x, kernels, padding=1).abs().sum(1, keepdim=True)

    def ssim(x: Any, y: Any) -> Any:
        mx, my, xx, yy, xy = (
            functional.conv2d(v, window, padding=5) for v in (x, y, x * x, y * y, x * y)
        )
        top = (2 * mx * my + 1e-4) * (2 * (xy - mx * my) + 9e-4)
        return (top / ((mx * mx + my * my + 1e-4) * (xx - mx * mx + yy - my * my + 9e-4))).mean()

    class Quality(torch.nn.Module):
        def __init__(self, lambda1: float, lambda2: float, lambda3: float):
            super().__init__()
            self.weights = lambda1, lambda2, lambda3

        def forward(self, a: Any, b: Any, fused: Any) -> Any:
            of_a, of_b = edges(a), edges(b)
            weight = of_a.mean() / (of_a.mean() + of_b.mean())
            structure = 1 - weight * ssim(a, fused) - (1 - weight) * ssim(b, fused)
            gradient = (torch.maximum(of_a, of_b) - edges(fused)).abs().mean()
            intensity = (fused - torch.maximum(a, b)).abs().mean()
            return sum(
                w * v for w, v in zip(self.weights, (structure, gradient, intensity), strict=True)
            )

    return Quality
