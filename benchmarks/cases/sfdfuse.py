"""SFDFuse: forward, and a training step of either phase (drop-path off, clipping)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
from cases import cddfuse
from cases.cddfuse import CASES as CASES  # the same sizes
from cases.cddfuse import GOLDEN, inputs, losses_of_reference

sys.path.insert(0, str(GOLDEN))


NETWORKS = ("DIDF_Encoder", "DIDF_Decoder_Phase", "BaseFuseLayer", "DetailFuseLayer")


def weights() -> dict[str, np.ndarray]:
    """The golden parameters by the authors' names, with the wavelet's constants."""
    state = cddfuse.weights("sfdfuse")
    for name in ("wt_filter", "iwt_filter"):
        state[f"DIDF_Encoder.FreFeature.{name}"] = np.load(GOLDEN / "sfdfuse/modules.npz")[name]
    return state


def ours(name: str) -> Callable[[], dict[str, np.ndarray]]:
    """One run of ours."""
    return cddfuse.run_of_ours("sfdfuse", name, weights(), drop_path=0.0)


def reference(name: str, folder: str) -> Callable[[], dict[str, np.ndarray]]:
    """One run of the authors' networks, on the CPU.

    Their file cannot run as published: a class is missing, and some tensors are made on a GPU. Both
    are put right in memory. Losses are written after the specification.
    """
    import torch

    net = _module(Path(folder, "net.py"), folder)
    made = (
        net.Restormer_Encoder(),
        net.Restormer_Decoder_Phase(),
        net.FeatureInteractionBlock(dim=64, num_heads=8, init_fusion=True),
        net.FeatureInteractionBlock(dim=64, num_heads=8, init_fusion=False),
    )
    networks = dict(zip(NETWORKS, made, strict=True))
    for key, network in networks.items():
        own = {
            k.removeprefix(f"{key}."): v for k, v in weights().items() if k.startswith(f"{key}.")
        }
        network.load_state_dict({k: torch.from_numpy(v) for k, v in own.items()}, strict=False)
        network.eval()
    encoder, decoder, base_fusion, detail_fusion = networks.values()
    ir, vis = (torch.from_numpy(x) for x in inputs(CASES[name]))

    def fused() -> tuple:
        (base_v, detail_v), (base_i, detail_i) = encoder(vis), encoder(ir)
        out = decoder(vis, base_fusion(base_v, base_i), detail_fusion(detail_v, detail_i))[0]
        return out, (base_v, base_i), (detail_v, detail_i)

    def rebuilt() -> tuple:
        (base_v, detail_v), (base_i, detail_i) = encoder(vis), encoder(ir)
        made = decoder(vis, base_v, detail_v)[0], decoder(ir, base_i, detail_v)[0]
        return *made, (base_v, base_i), (detail_v, detail_i)

    return losses_of_reference(CASES[name], networks, vis, ir, fused, rebuilt, halved=True)


def _module(path: Path, folder: str) -> ModuleType:
    sys.path.insert(0, folder)
    source = path.read_text(encoding="utf-8").replace(
        "torch.cuda.FloatTensor(", "torch.FloatTensor("
    )
    module = ModuleType("sfdfuse_net")
    module.__dict__["GLFusion"] = lambda **_: None
    exec(compile(source, str(path), "exec"), module.__dict__)
    return module
