"""The Restormer block (Zamir et al., CVPR 2022) as FILM and CDDFuse use it."""

from __future__ import annotations

from jfusion.layers.norm import LayerNorm2d
from jfusion.ops.channel_attention import channel_attention
from jfusion.ops.conv import conv1x1
from jfusion.ops.expand import gated_feed_forward
from jfusion.runtime import jt, nn

# The authors' names for the parts of one block, and ours.
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

    def __init__(self, width: int, heads: int):
        self.temperature = jt.ones((heads, 1, 1))
        self.qkv = nn.Conv(width, 3 * width, 1, bias=False)
        self.depthwise = nn.Conv(3 * width, 3 * width, 3, padding=1, groups=3 * width, bias=False)
        self.project = nn.Conv(width, width, 1, bias=False)

    def execute(self, x: jt.Var, norm: LayerNorm2d) -> jt.Var:
        """x (N, width, H, W), not yet normalised -> the same shape."""
        return self.attend(x, norm)[0]

    def attend(self, x: jt.Var, norm: LayerNorm2d) -> tuple[jt.Var, jt.Var]:
        """The result, and the softmaxed (N, heads, width/heads, width/heads) matrix."""
        weights = self.qkv.weight, self.depthwise.weight, self.temperature
        out, matrix = channel_attention(x, norm.pair(), *weights)
        return conv1x1(out, self.project.weight), matrix


class GatedFeedForward(nn.Module):
    """1x1 to twice the hidden width, depthwise 3x3, GELU(first half) * second half, 1x1 back."""

    def __init__(self, width: int, expansion: int):
        hidden = expansion * width
        self.expand = nn.Conv(width, 2 * hidden, 1, bias=False)
        self.depthwise = nn.Conv(
            2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False
        )
        self.project = nn.Conv(hidden, width, 1, bias=False)

    def execute(self, x: jt.Var, norm: LayerNorm2d) -> jt.Var:
        """x (N, width, H, W), not yet normalised -> the same shape."""
        weights = self.expand.weight, self.depthwise.weight, self.project.weight
        return gated_feed_forward(x, norm.pair(), *weights)


class Restormer(nn.Module):
    """y = x + attention(norm1(x)); y + feed_forward(norm2(y))."""

    def __init__(self, width: int, heads: int = 8, expansion: int = 4):
        self.norm1 = LayerNorm2d(width)
        self.attention = ChannelAttention(width, heads)
        self.norm2 = LayerNorm2d(width)
        self.feed_forward = GatedFeedForward(width, expansion)

    def execute(self, x: jt.Var) -> jt.Var:
        """x (N, width, H, W) -> the same shape."""
        x = x + self.attention(x, self.norm1)
        return x + self.feed_forward(x, self.norm2)
