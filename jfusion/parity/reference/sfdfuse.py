"""SFDFuse: the authors' four networks; losses after the paper.

Their file cannot run as published: a class is missing, and some tensors are made on a GPU. Both are put
right in memory.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from cddfuse import TwoPhase


class Reference(TwoPhase):
    """The four networks of net.py."""

    halved = True
    decoder_name = "DIDF_Decoder_Phase"

    def __init__(self, folder: str):
        net = _module(Path(folder, "net.py"), folder)
        block = net.FeatureInteractionBlock
        super().__init__(
            net.Restormer_Encoder(),
            net.Restormer_Decoder_Phase(),
            block(dim=64, num_heads=8, init_fusion=True),
            block(dim=64, num_heads=8, init_fusion=False),
        )

    def merge(self, infrared: tuple[Any, Any], visible: tuple[Any, Any]) -> tuple[Any, Any]:
        return self.base(visible[0], infrared[0]), self.detail(visible[1], infrared[1])

    def rebuilt_detail(self, infrared: tuple[Any, Any], visible: tuple[Any, Any]) -> Any:
        return visible[1]

    def train(self, training: bool) -> None:
        super().train(False)  # drop-path is random, and is off on both sides


def _module(path: Path, folder: str) -> ModuleType:
    sys.path.insert(0, folder)
    source = path.read_text(encoding="utf-8").replace(
        "torch.cuda.FloatTensor(", "torch.FloatTensor("
    )
    module = ModuleType("sfdfuse_net")
    module.__dict__["GLFusion"] = lambda **_: None
    exec(compile(source, str(path), "exec"), module.__dict__)
    return module
