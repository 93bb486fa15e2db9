"""Diff-FCCF: the published network on one input, and in a training step of three color channels."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np
from cases import common


class Case(NamedTuple):
    """One image of `size`: the network alone, or a training step."""

    training: bool
    size: tuple[int, int]


CASES = {
    "forward-256x256": Case(False, (256, 256)),
    "step-256x256": Case(True, (256, 256)),
    "forward-64x64": Case(False, (64, 64)),
}
TIME, RATE = 1203, 2e-4


def weights() -> dict[str, np.ndarray]:
    """The golden parameters by the authors' names."""
    return common.weights("fccf/manifest.json")


def noisy(case: Case) -> np.ndarray:
    """The network's input, (1, 4, H, W)."""
    return np.random.RandomState(0).standard_normal((1, 4, *case.size)).astype(np.float32)


def pair() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A PET-MRI pair in [-1, 1]: s (1, 1, 256, 256), f (1, 3, 256, 256); and by channel times and noise."""
    images, step = (np.load(common.GOLDEN / f"fccf/{x}.npz") for x in ("inputs", "gradients"))
    s, f = images["gray256"][:, None], np.moveaxis(images["ycrcb256"], 3, 1)
    s, f = (x.astype(np.float32) / np.float32(255) * 2 - 1 for x in (s, f))
    noise = step["d256_noise_q"].astype(np.float32) / 32
    return s, f, step["d256_t"], noise.reshape(3, 1, 1, 256, 256)


def ours(name: str) -> common.Run:
    """One run of ours."""
    from jfusion.runtime import jt
    from jfusion.train.optimizer import Adam

    case = CASES[name]
    system = common.create("fccf", weights(), group="pet", dropout=0.0)
    x = jt.array(noisy(case))
    if not case.training:
        system.eval()
        return common.forward(lambda: _named(system(x, np.array([TIME]))))
    s, f, t, noise = pair()
    noise = jt.array(noise)
    optimizers = [Adam.from_config(config) for config in system.optimizers(system.stages()[0])]
    return common.training_step(lambda: system.losses_of(s, f, t, noise, "pet"), optimizers, RATE)


def _named(output: Any) -> dict[str, Any]:
    """What is compared of the network's output."""
    return {"noise": output.noise, "field": output.field}


def reference(name: str, folder: str) -> common.Run:
    """One run of the authors' network and training losses on the CPU."""
    import torch

    _stub_imports()
    sys.path.insert(0, folder)
    import CherbGraph

    common.stub("Diffusion", GraformerLayer=CherbGraph.GraformerLayer)
    from Denoiser_Unet.UNet import NoisePred

    del sys.modules["Diffusion"]
    from Diffusion import GaussianDiffusion

    case = CASES[name]
    network = NoisePred(4, 1, 64, 2, 0.0, 4, [1, 2, 4, 8])
    missing = network.load_state_dict(common.torch_state(weights()), strict=False).missing_keys
    assert missing == ["positional_embedding"], missing
    x, (s, f, t, noise) = torch.from_numpy(noisy(case)), map(torch.from_numpy, pair())
    diffusion = GaussianDiffusion(2000, "cosine")
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)

    def forward() -> dict[str, np.ndarray]:
        with torch.no_grad():
            outputs = network(x, torch.tensor([TIME]))
        return {"noise": outputs[0].numpy(), "field": outputs[3].numpy()}

    def step() -> dict[str, np.ndarray]:
        optimizer.zero_grad()
        total = 0
        for c in range(3):
            torch.randn_like = lambda x, c=c: noise[c]  # what its noising draws
            channel = f[:, c : c + 1].contiguous()
            parts = diffusion.train_losses(network, s, channel, t[c].long(), 128, "pet", pick=c)
            total = total + sum(w * v for w, v in zip((10, 1, 1, 1, 10), parts[:5], strict=True))
        total.backward()
        optimizer.step()
        return {"loss": np.array([total.item()])}

    network.train() if case.training else network.eval()
    return step if case.training else forward


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
        common.stub(module)
    common.stub("matplotlib.pyplot")
    common.stub("skimage.segmentation", slic=None)
    # in the group pet they write six images per call, which is not timed
    common.stub("torchvision.utils", save_image=lambda *args, **kw: None)
    transforms = common.stub("torchvision.transforms")
    transforms.functional = common.stub("torchvision.transforms.functional", to_pil_image=None)
    for parent, child in (
        ("matplotlib", "pyplot"),
        ("torchvision", "utils"),
        ("torchvision", "transforms"),
    ):
        setattr(sys.modules[parent], child, sys.modules[f"{parent}.{child}"])
    common.stub("torch.utils.tensorboard")
    common.stub("torch.utils.tensorboard.writer", SummaryWriter=None)
    common.stub("torch_scatter", scatter_mean=scatter_mean)
    common.stub("model").loss = common.stub("model.loss", Fusion_loss=_quality_loss())


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
