"""CDDFuse: the authors' four networks; losses after the paper, because theirs need a kornia of 2020."""

from __future__ import annotations

import sys
from typing import Any

import shared


class TwoPhase(shared.Reference):
    """The two phases that CDDFuse and SFDFuse share.

    Our order is kept: a is the infrared image. halved: SFDFuse's losses. decoder_name: in a checkpoint.
    """

    halved = False
    decoder_name = "DIDF_Decoder"

    def __init__(self, encoder: Any, decoder: Any, base: Any, detail: Any):
        self.encoder, self.decoder, self.base, self.detail = encoder, decoder, base, detail
        self.networks = {
            "DIDF_Encoder.": encoder,
            f"{self.decoder_name}.": decoder,
            "BaseFuseLayer.": base,
            "DetailFuseLayer.": detail,
        }

    def encode(self, image: Any) -> tuple[Any, Any]:
        """The base and the detail features of an image."""
        return self.encoder(image)[:2]

    def decode(self, image: Any, base: Any, detail: Any) -> Any:
        """The image of its features."""
        return self.decoder(image, base, detail)[0]

    def merge(self, infrared: tuple[Any, Any], visible: tuple[Any, Any]) -> tuple[Any, Any]:
        """The fused base and detail features."""
        raise NotImplementedError

    def rebuilt_detail(self, infrared: tuple[Any, Any], visible: tuple[Any, Any]) -> Any:
        """The detail features that the infrared image is decoded from in phase I."""
        return infrared[1]

    def forward(self, batch: dict[str, Any]) -> Any:
        return self._fused(batch)[0]

    def _fused(self, batch: dict[str, Any]) -> tuple[Any, Any, Any]:
        infrared, visible = self.encode(batch["a"]), self.encode(batch["b"])
        return self.decode(batch["b"], *self.merge(infrared, visible)), infrared, visible

    def loss(self, batch: dict[str, Any], stage: str) -> Any:
        import torch

        ir, vis = batch["a"], batch["b"]
        if stage == "reconstruction":
            infrared, visible = self.encode(ir), self.encode(vis)
            of_ir = self.decode(ir, infrared[0], self.rebuilt_detail(infrared, visible))
            of_vis = self.decode(vis, *visible)
            loss = sum(
                5 * ssim_loss(x, y, self.halved) + ((x - y) ** 2).mean()
                for x, y in ((vis, of_vis), (ir, of_ir))
            )
            loss = loss + 5 * (spatial_gradient(vis) - spatial_gradient(of_vis)).abs().mean()
        else:
            out, infrared, visible = self._fused(batch)
            brightest, target = torch.maximum(vis, ir), torch.maximum(sobel(vis), sobel(ir))
            loss = (brightest - out).abs().mean() + 10 * (target - sobel(out)).abs().mean()
            loss = loss + (ssim_loss(brightest, out, True) if self.halved else 0)
        base, detail = (correlation(visible[i], infrared[i]) for i in (0, 1))
        return loss + 2 * detail**2 / (1.01 + base)

    def optimizers(self, stage: str, rate: float) -> list[tuple[Any, list, float | None]]:
        import torch

        networks = list(self.networks.values())[: 2 if stage == "reconstruction" else 4]
        parameters = [list(network.parameters()) for network in networks]
        return [(torch.optim.Adam(p, lr=rate), p, 0.01) for p in parameters]

    def fuse(self, pair: dict[str, Any]) -> Any:
        return shared.min_max(self.forward(pair)[0].numpy())


class Reference(TwoPhase):
    """The four networks of net.py."""

    def __init__(self, folder: str):
        sys.path.insert(0, folder)
        import net

        super().__init__(
            net.Restormer_Encoder(),
            net.Restormer_Decoder(),
            net.BaseFeatureExtraction(dim=64, num_heads=8),
            net.DetailFeatureExtraction(num_layers=1),
        )

    def merge(self, infrared: tuple[Any, Any], visible: tuple[Any, Any]) -> tuple[Any, Any]:
        return self.base(infrared[0] + visible[0]), self.detail(infrared[1] + visible[1])


def kernels() -> Any:
    """Sobel's kernels, (2, 1, 3, 3)."""
    import torch

    x = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    return torch.stack([x, x.T])[:, None]


def spatial_gradient(x: Any) -> Any:
    """The gradients of kornia's spatial_gradient, (N, 2, H, W)."""
    from torch.nn import functional

    padded = functional.pad(x, (1,) * 4, mode="replicate")
    return functional.conv2d(padded, kernels() / 8)


def sobel(x: Any) -> Any:
    """|gx| + |gy|, zeros outside."""
    from torch.nn import functional

    return functional.conv2d(x, kernels(), padding=1).abs().sum(1, keepdim=True)


def correlation(x: Any, y: Any) -> Any:
    """The mean correlation of the channels of two maps."""
    x, y = (v - v.mean((2, 3), keepdim=True) for v in (x, y))
    norms = (x * x).sum((2, 3)).sqrt() * (y * y).sum((2, 3)).sqrt()
    return ((x * y).sum((2, 3)) / (1.1920929e-07 + norms)).clamp(-1, 1).mean()


def ssim_loss(x: Any, y: Any, halved: bool) -> Any:
    """The SSIM loss of kornia: of its version of 2020, or (halved) of a later one."""
    import torch
    from torch.nn import functional

    g = torch.exp(-((torch.arange(11.0) - 5) ** 2) / 4.5)
    window = torch.outer(g / g.sum(), g / g.sum())[None, None]

    def mean(v: Any) -> Any:
        return functional.conv2d(functional.pad(v, (5,) * 4, mode="reflect"), window)

    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    ssim = (2 * mx * my + 1e-4) * (2 * vxy + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    return ((1 - ssim) / 2).clamp(0, 1).mean() if halved else (1 - ssim).clamp(0, 1).mean() / 2
