"""The Restormer block (Zamir et al., CVPR 2022) as FILM and CDDFuse use it."""

from __future__ import annotations

from jfusion.layers import tiles
from jfusion.layers.norm import LayerNorm2d
from jfusion.ops.channel_attention import channel_attention
from jfusion.ops.conv import conv1x1
from jfusion.ops.expand import expand_depthwise, gated_feed_forward
from jfusion.runtime import jt, nn

# The authors' names of one block's parameters, and ours.
OFFICIAL = {
    "norm1.body.{p}": "norm1.{p}",
    "norm2.body.{p}": "norm2.{p}",
    "attn.temperature": "attention.temperature",
    "attn.qkv.weight": "attention.qkv.weight",
    "attn.qkv_dwconv.weight": "attention.depthwise.weight",
    "attn.project_out.weight": "attention.project.weight",
    "ffn.project_in.weight": "feed_forward.expand.weight",
    "ffn.dwconv.weight": "feed_forward.depthwise.weight",
    "ffn.project_out.weight": "feed_forward.project.weight",
}


class ChannelAttention(nn.Module):
    """Attention between channels: 1x1, depthwise 3x3, attention per head, 1x1; no biases."""

    def __init__(self, channels: int, heads: int):
        self.temperature = jt.ones((heads, 1, 1))
        self.qkv = nn.Conv(channels, 3 * channels, 1, bias=False)
        self.depthwise = nn.Conv(
            3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=False
        )
        self.project = nn.Conv(channels, channels, 1, bias=False)

    def execute(self, x: jt.Var, norm: LayerNorm2d, added: jt.Var | None = None) -> jt.Var:
        """Maps x (N, channels, H, W), not yet normalized, to the same shape, plus `added`."""
        if tiles.active():
            qkv = expand_depthwise(norm(x), self.qkv.weight, self.depthwise.weight)
            out = tiles.cosine_attention(qkv, self.temperature)
            return conv1x1(out, self.project.weight, added=added)
        return self.attend(x, norm, added)[0]

    def attend(
        self, x: jt.Var, norm: LayerNorm2d, added: jt.Var | None = None
    ) -> tuple[jt.Var, jt.Var]:
        """Returns the result, and the attention matrices (N, heads, channels/heads, channels/heads).

        The tests compare the matrices with the authors'; the network needs the result alone.
        """
        weights = self.qkv.weight, self.depthwise.weight, self.temperature
        out, matrix = channel_attention(x, norm.pair(), *weights)
        return conv1x1(out, self.project.weight, added=added), matrix


class GatedFeedForward(nn.Module):
    """1x1 to twice the hidden channels, depthwise 3x3, GELU(first half) * second half, 1x1 back."""

    def __init__(self, channels: int, expansion: int):
        hidden = expansion * channels
        self.expand = nn.Conv(channels, 2 * hidden, 1, bias=False)
        self.depthwise = nn.Conv(
            2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False
        )
        self.project = nn.Conv(hidden, channels, 1, bias=False)

    def execute(self, x: jt.Var, norm: LayerNorm2d, added: jt.Var | None = None) -> jt.Var:
        """Maps x (N, channels, H, W), not yet normalized, to the same shape, plus `added`."""
        weights = self.expand.weight, self.depthwise.weight, self.project.weight
        return gated_feed_forward(x, norm.pair(), *weights, added=added)


class Restormer(nn.Module):
    """One block: y = x + attention(norm1(x)), then y + feed_forward(norm2(y))."""

    def __init__(self, channels: int, heads: int = 8, expansion: int = 4):
        self.norm1 = LayerNorm2d(channels)
        self.attention = ChannelAttention(channels, heads)
        self.norm2 = LayerNorm2d(channels)
        self.feed_forward = GatedFeedForward(channels, expansion)

    def execute(self, x: jt.Var) -> jt.Var:
        """Maps x (N, channels, H, W) to the same shape."""
        (x,) = tiles.cut(x)
        x = self.attention(x, self.norm1, added=x)
        return self.feed_forward(x, self.norm2, added=x)
