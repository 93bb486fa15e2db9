"""What the systems' references share. Nothing here, nor next to it, imports jfusion."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np


class Reference:
    """The authors' networks of a system, and their training step.

    networks: the beginning of the names in a checkpoint ("" where it holds one network) -> network.
    """

    networks: dict[str, Any]

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

    def fuse(self, pair: dict[str, Any]) -> Any:
        """Fuses one pair, (1, C, H, W) each, to (C, H, W) in [0, 1], as the authors' test script does."""
        raise NotImplementedError

    def train(self, training: bool) -> None:
        """Sets the mode of every network."""
        for network in self.networks.values():
            network.train(training)


def stub(name: str, **content: Any) -> types.ModuleType:
    """A module of this name that holds nothing but `content`, for imports that a run does not need."""
    module = sys.modules[name] = types.ModuleType(name)
    module.__dict__.update(content)
    return module


def min_max(image: np.ndarray) -> np.ndarray:
    """Min-max normalization to [0, 1]."""
    return (image - image.min()) / (image.max() - image.min())
