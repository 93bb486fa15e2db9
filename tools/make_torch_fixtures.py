"""Writes tests/golden/torch/*.pth, tiny checkpoints made by PyTorch itself.

Run where PyTorch is installed (it is not a dependency): python tools/make_torch_fixtures.py
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch

OUT = Path(__file__).parent.parent / "tests/golden/torch"


def main() -> None:
    """One zip file as FILM's authors save theirs, with every dtype and a shared, a strided tensor."""
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    state = OrderedDict(
        {
            "module.plain": base,
            "module.transposed": base.t(),
            "module.row": base[1],
            "module.half": base.half(),
            "module.bfloat16": base.bfloat16(),
            "module.long": torch.arange(3),
            "module.scalar": torch.tensor(2.5),
            "module.parameter": torch.nn.Parameter(base + 1),
        }
    )
    OUT.mkdir(parents=True, exist_ok=True)
    content = {
        "model": state,
        "optimizer1": {"state": {}, "param_groups": [{"lr": 1e-5}]},
        "epoch": 3,
    }
    torch.save(content, OUT / "module_prefix.pth")
    plain = {k.removeprefix("module."): v for k, v in state.items()}
    torch.save(plain, OUT / "plain.pth")
    old = {"_use_new_zipfile_serialization": False}
    torch.save(plain, OUT / "old_format.pth", **old)
    layer = torch.nn.Linear(2, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(6.0).reshape(3, 2))
        layer.bias.copy_(torch.tensor([7.0, 8.0, 9.0]))
    networks = {  # as CDDFuse's authors save theirs
        "DIDF_Encoder": torch.nn.DataParallel(layer).state_dict(),
        "BaseFuseLayer": layer.state_dict(),
        "optimizer1": torch.optim.Adam(layer.parameters()).state_dict(),
        "epoch": 119,
    }
    torch.save(networks, OUT / "networks.pth")
    torch.save(networks, OUT / "networks_old_format.pth", **old)


if __name__ == "__main__":
    main()
