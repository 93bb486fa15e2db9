"""Normalization layers."""

from __future__ import annotations

from jfusion.ops.norm import channel_layer_norm
from jfusion.runtime import jt, nn


class LayerNorm2d(nn.Module):
    """LayerNorm over the channels of each pixel of (N, C, H, W), with a weight and a bias per channel.

    The variance is the biased one and epsilon is 1e-5. The weight starts at 1, the bias at 0.
    """

    def __init__(self, channels: int):
        self.weight = jt.ones(channels)
        self.bias = jt.zeros(channels)

    def execute(self, x: jt.Var) -> jt.Var:
        """Normalizes x (N, C, H, W); the shape stays."""
        return channel_layer_norm(x, self.weight, self.bias)

    def pair(self) -> tuple[jt.Var, jt.Var]:
        """Returns weight and bias (C,), for a kernel that normalizes by itself."""
        return self.weight, self.bias
