"""SFDFuse: forward, and a training step of either phase (drop-path off, clipping)."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
from cases import cddfuse, common
from cases.cddfuse import CASES as CASES  # the same sizes
from cases.cddfuse import inputs, run_of_reference

NETWORKS = ("DIDF_Encoder", "DIDF_Decoder_Phase", "BaseFuseLayer", "DetailFuseLayer")


def weights() -> dict[str, np.ndarray]:
    """The golden parameters by the authors' names, with the wavelet's constants."""
    state, constants = cddfuse.weights("sfdfuse"), np.load(common.GOLDEN / "sfdfuse/modules.npz")
    for name in ("wt_filter", "iwt_filter"):
        state[f"DIDF_Encoder.FreFeature.{name}"] = constants[name]
    return state


def ours(name: str) -> common.Run:
    """One run of ours."""
    return cddfuse.run_of_ours(name, common.create("sfdfuse", weights(), drop_path=0.0))


def reference(name: str, folder: str) -> common.Run:
    """One run of the authors' networks, on the CPU.

    Their file cannot run as published: a class is missing, and some tensors are made on a GPU. Both
    are put right in memory. Losses are written after the specification.
    """
    import torch

    net = _module(Path(folder, "net.py"), folder)
    networks = (
        net.Restormer_Encoder(),
        net.Restormer_Decoder_Phase(),
        net.FeatureInteractionBlock(dim=64, num_heads=8, init_fusion=True),
        net.FeatureInteractionBlock(dim=64, num_heads=8, init_fusion=False),
    )
    for key, network in zip(NETWORKS, networks, strict=True):
        network.load_state_dict(common.torch_state(weights(), f"{key}."), strict=False)
        network.eval()
    encoder, decoder, base_fusion, detail_fusion = networks
    ir, vis = (torch.from_numpy(x) for x in inputs(CASES[name]))

    def fused() -> tuple:
        (base_v, detail_v), (base_i, detail_i) = encoder(vis), encoder(ir)
        out = decoder(vis, base_fusion(base_v, base_i), detail_fusion(detail_v, detail_i))[0]
        return out, (base_v, base_i), (detail_v, detail_i)

    def rebuilt() -> tuple:
        (base_v, detail_v), (base_i, detail_i) = encoder(vis), encoder(ir)
        images = decoder(vis, base_v, detail_v)[0], decoder(ir, base_i, detail_v)[0]
        return *images, (base_v, base_i), (detail_v, detail_i)

    return run_of_reference(CASES[name], networks, (vis, ir), fused, rebuilt, halved=True)


def _module(path: Path, folder: str) -> ModuleType:
    sys.path.insert(0, folder)
    source = path.read_text(encoding="utf-8").replace(
        "torch.cuda.FloatTensor(", "torch.FloatTensor("
    )
    module = ModuleType("sfdfuse_net")
    module.__dict__["GLFusion"] = lambda **_: None
    exec(compile(source, str(path), "exec"), module.__dict__)
    return module
