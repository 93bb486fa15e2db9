"""What the systems' references share. Nothing here, nor next to it, imports jfusion."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from typing import Any

import numpy as np


class Reference:
    """The authors' networks of a system, and their training step.

    networks: the beginning of the names in a checkpoint ("" where it holds one network) -> network.
    """

    networks: dict[str, Any]

    def load(self, weights: Mapping[str, np.ndarray]) -> list[str]:
        """Loads the weights by their names; returns the networks' names that `weights` lacks.

        Ends the process with a sentence where a shape is another one.
        """
        missing = []
        for prefix, network in self.networks.items():
            state = tensors(below(weights, prefix))
            for name, value in network.state_dict().items():
                if name in state and state[name].shape != value.shape:
                    raise SystemExit(
                        f"{prefix}{name} is {_size(state[name])} in the weights and {_size(value)} in the "
                        "authors' network, which has its published settings; give weights made with these"
                    )
            missing += [
                prefix + n for n in network.load_state_dict(state, strict=False).missing_keys
            ]
        return missing

    def forward(self, batch: dict[str, Any]) -> Any:
        """One pass through the networks; what is compared as the output."""
        raise NotImplementedError

    def extras(self, batch: dict[str, Any]) -> dict[str, Any]:
        """More that is compared, by name: what is no module."""
        return {}

    def loss(self, batch: dict[str, Any], stage: str) -> Any:
        """The loss of a stage of training, a scalar."""
        raise NotImplementedError

    def optimizers(self, stage: str, rate: float) -> list[tuple[Any, list, float | None]]:
        """Optimizers, their parameters, and the norm to which the gradient of these is clipped."""
        raise NotImplementedError

    def step(self, batch: dict[str, Any], stage: str, optimizers: list[tuple]) -> float:
        """One step of training by what `optimizers` returned; the loss before it."""
        import torch

        for optimizer, _, _ in optimizers:
            optimizer.zero_grad()
        loss = self.loss(batch, stage)
        loss.backward()
        for optimizer, parameters, clip in optimizers:
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(parameters, max_norm=clip)
            optimizer.step()
        return loss.item()

    def fuse(self, pair: dict[str, Any]) -> Any:
        """Fuses one pair, (1, C, H, W) each, to (C, H, W) in [0, 1], as the authors' test script does."""
        raise NotImplementedError

    def train(self, training: bool) -> None:
        """Sets the mode of every network."""
        for network in self.networks.values():
            network.train(training)


def _size(tensor: Any) -> str:
    return "x".join(map(str, tensor.shape)) or "one value"


def below(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin so, without the beginning."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The arrays as PyTorch's tensors on the CPU, which share their memory."""
    import torch

    return {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}


def stub(name: str, **content: Any) -> types.ModuleType:
    """A module of this name that holds nothing but `content`, for imports that a run does not need."""
    module = sys.modules[name] = types.ModuleType(name)
    module.__dict__.update(content)
    return module


def min_max(image: np.ndarray) -> np.ndarray:
    """Min-max normalization to [0, 1]."""
    return (image - image.min()) / (image.max() - image.min())
