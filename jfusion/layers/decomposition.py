"""Base and detail extractors: low frequencies by attention, high ones by invertible coupling.

From CDDFuse (Zhao et al., CVPR 2023), on which SFDFuse builds.
"""

from __future__ import annotations

from jfusion.layers import tiles
from jfusion.layers.norm import LayerNorm2d
from jfusion.ops.conv import conv, conv1x1
from jfusion.ops.expand import bottleneck, gated_feed_forward
from jfusion.ops.matmul import matmul
from jfusion.runtime import jt, nn

# The authors' names of the parameters, and ours.
OFFICIAL_BASE = {
    "norm1.body.{p}": "norm1.{p}",
    "norm2.body.{p}": "norm2.{p}",
    "attn.scale": "attention.scale",
    "attn.qkv1.weight": "attention.expand.weight",
    "attn.qkv2.weight": "attention.spread.weight",
    "attn.proj.weight": "attention.project.weight",
    "mlp.project_in.weight": "mlp.expand.weight",
    "mlp.dwconv.weight": "mlp.depthwise.weight",
    "mlp.project_out.weight": "mlp.project.weight",
}
OFFICIAL_DETAIL = {
    "net.{i}.shffleconv.{p}": "nodes.{i}.shuffle.{p}",
    "net.{i}.theta_{t}.bottleneckBlock.0.weight": "nodes.{i}.{t}.expand.weight",
    "net.{i}.theta_{t}.bottleneckBlock.3.weight": "nodes.{i}.{t}.depthwise.weight",
    "net.{i}.theta_{t}.bottleneckBlock.5.weight": "nodes.{i}.{t}.project.weight",
}


class BaseExtractor(nn.Module):
    """The base features: y = x + attention(norm1(x)), then y + mlp(norm2(y))."""

    def __init__(self, channels: int, heads: int = 8, feed_forward: nn.Module | None = None):
        self.norm1 = LayerNorm2d(channels)
        self.attention = BaseAttention(channels, heads)
        self.norm2 = LayerNorm2d(channels)
        self.mlp = feed_forward or GroupedFeedForward(channels)

    def execute(self, x: jt.Var) -> jt.Var:
        """Maps x (N, channels, H, W) to the same shape."""
        x = self.attention(self.norm1(x), added=x)
        return self.mlp(self.norm2(x), added=x)


class BaseAttention(nn.Module):
    """Attention between channels; q, k and v come from a 1x1 and a dense 3x3 convolution.

    Nothing stands between the two convolutions, so they are one 3x3 convolution whose kernel is
    their product: a third of the multiplications.
    """

    def __init__(self, channels: int, heads: int):
        self.scale = jt.ones((heads, 1, 1))
        self.expand = nn.Conv(channels, 3 * channels, 1, bias=False)
        self.spread = nn.Conv(3 * channels, 3 * channels, 3, padding=1, bias=False)
        self.project = nn.Conv(channels, channels, 1, bias=False)

    def execute(self, x: jt.Var, added: jt.Var | None = None) -> jt.Var:
        """Maps x (N, channels, H, W), normalized, to the same shape, plus `added`."""
        qkv = conv(x, self.kernel())
        return conv1x1(tiles.cosine_attention(qkv, self.scale), self.project.weight, added=added)

    def kernel(self) -> jt.Var:
        """Returns the product of the two convolutions, (3 channels, channels, 3, 3)."""
        expand, spread = self.expand.weight, self.spread.weight
        out_channels, in_channels, *size = spread.shape
        by_position = spread.permute(0, 2, 3, 1).reshape(-1, in_channels)
        product = matmul(by_position, expand.reshape(in_channels, -1))
        return product.reshape(out_channels, *size, -1).permute(0, 3, 1, 2)


class GroupedFeedForward(nn.Module):
    """1x1 to twice the channels, 3x3 in groups of two, GELU(first half) * second half, 1x1."""

    def __init__(self, channels: int):
        self.expand = nn.Conv(channels, 2 * channels, 1, bias=False)
        self.depthwise = nn.Conv(
            2 * channels, 2 * channels, 3, padding=1, groups=channels, bias=False
        )
        self.project = nn.Conv(channels, channels, 1, bias=False)

    def execute(self, x: jt.Var, added: jt.Var | None = None) -> jt.Var:
        """Maps x (N, channels, H, W), normalized, to the same shape, plus `added`."""
        weights = self.expand.weight, self.depthwise.weight, self.project.weight
        return gated_feed_forward(x, None, *weights, added=added)


class DetailExtractor(nn.Module):
    """The detail features: a chain of coupling nodes on the two halves of the channels."""

    def __init__(self, channels: int, count: int, kind: type[nn.Module] | None = None):
        self.nodes = nn.ModuleList(
            [CouplingNode(channels, kind or Bottleneck) for _ in range(count)]
        )

    def execute(self, x: jt.Var) -> jt.Var:
        """Maps x (N, channels, H, W) to the same shape."""
        for node in self.nodes:
            x = node(x)
        return x


class CouplingNode(nn.Module):
    """An affine coupling layer (Dinh et al., 2017) after a 1x1 that mixes the halves.

    z2 += phi(z1); z1 = z1 * exp(rho(z2)) + eta(z2), with the new z2.
    """

    def __init__(self, channels: int, bottleneck: type[nn.Module]):
        self.shuffle = nn.Conv(channels, channels, 1)
        self.phi = bottleneck(channels // 2)
        self.rho = bottleneck(channels // 2)
        self.eta = bottleneck(channels // 2)

    def execute(self, x: jt.Var) -> jt.Var:
        """Maps x (N, channels, H, W) to the same shape."""
        halves = zip(self.shuffle.weight.chunk(2, 0), self.shuffle.bias.chunk(2, 0), strict=True)
        z1, z2 = (conv1x1(x, *half) for half in halves)
        z2 = z2 + self.phi(z1)
        z1 = z1 * jt.exp(self.rho(z2)) + self.eta(z2)
        return jt.concat([z1, z2], 1)


class Bottleneck(nn.Module):
    """1x1 to twice the channels, ReLU6, depthwise 3x3 (reflection padding), ReLU6, 1x1; no skip."""

    def __init__(self, channels: int):
        self.expand = nn.Conv(channels, 2 * channels, 1, bias=False)
        self.depthwise = nn.Conv(2 * channels, 2 * channels, 3, groups=2 * channels, bias=False)
        self.project = nn.Conv(2 * channels, channels, 1, bias=False)

    def execute(self, x: jt.Var) -> jt.Var:
        """Maps x (N, channels, H, W), at least two pixels a side, to the same shape."""
        return bottleneck(x, self.expand.weight, self.depthwise.weight, self.project.weight)


def sum_of_halves(x: jt.Var) -> jt.Var:
    """Adds the second half of the batch to the first: (2N, C, H, W) -> (N, C, H, W)."""
    n, *shape = x.shape
    return x.reshape(2, n // 2, *shape).sum(0)
