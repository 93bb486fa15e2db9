"""Base and detail extractors: low frequencies by attention, high ones by invertible coupling.

CDDFuse (CVPR 2023), which SFDFuse builds on.
"""

from __future__ import annotations

from jfusion.layers.norm import LayerNorm2d
from jfusion.ops.activation import gelu_gate, relu6
from jfusion.ops.channel_attention import cosine_attention
from jfusion.ops.conv import conv, conv1x1, depthwise3x3
from jfusion.ops.depthwise import depthwise
from jfusion.ops.matmul import matmul
from jfusion.ops.resize import pad
from jfusion.runtime import jt, nn

# The authors' names for the parts, and ours.
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
    """y = x + attention(norm1(x)); y + mlp(norm2(y))."""

    def __init__(self, width: int, heads: int = 8, feed_forward: nn.Module | None = None):
        self.norm1 = LayerNorm2d(width)
        self.attention = BaseAttention(width, heads)
        self.norm2 = LayerNorm2d(width)
        self.mlp = feed_forward or GroupedFeedForward(width)

    def execute(self, x: jt.Var) -> jt.Var:
        """x (N, width, H, W) -> the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class BaseAttention(nn.Module):
    """Attention between channels; q, k and v come from a 1x1 and a dense 3x3 convolution.

    Nothing lies between the two convolutions, so they are one 3x3 convolution whose kernel is their
    product: a third of the multiplications.
    """

    def __init__(self, width: int, heads: int):
        self.scale = jt.ones((heads, 1, 1))
        self.expand = nn.Conv(width, 3 * width, 1, bias=False)
        self.spread = nn.Conv(3 * width, 3 * width, 3, padding=1, bias=False)
        self.project = nn.Conv(width, width, 1, bias=False)

    def execute(self, x: jt.Var) -> jt.Var:
        """x (N, width, H, W) -> the same shape."""
        qkv = conv(x, self.kernel())
        return conv1x1(cosine_attention(qkv, self.scale), self.project.weight)

    def kernel(self) -> jt.Var:
        """(3 width, width, 3, 3)."""
        expand, spread = self.expand.weight, self.spread.weight
        outer, inner, *size = spread.shape
        by_place = spread.permute(0, 2, 3, 1).reshape(-1, inner)
        product = matmul(by_place, expand.reshape(inner, -1))
        return product.reshape(outer, *size, -1).permute(0, 3, 1, 2)


class GroupedFeedForward(nn.Module):
    """1x1 to twice the width, 3x3 in groups of two channels, GELU(first half) * second half, 1x1.

    The even and the odd channels of the groups are kept apart: each 3x3 group is then two depthwise
    convolutions, and each gate takes halves that lie together.
    """

    def __init__(self, width: int):
        self.expand = nn.Conv(width, 2 * width, 1, bias=False)
        self.depthwise = nn.Conv(2 * width, 2 * width, 3, padding=1, groups=width, bias=False)
        self.project = nn.Conv(width, width, 1, bias=False)

    def execute(self, x: jt.Var) -> jt.Var:
        """x (N, width, H, W), normalised -> the same shape."""
        width = x.shape[1]
        expand, kernel, project = (m.weight for m in (self.expand, self.depthwise, self.project))
        hidden = conv1x1(x, jt.concat([expand[0::2], expand[1::2]]))
        own = jt.concat([kernel[0::2, 0:1], kernel[1::2, 1:2]])
        other = jt.concat([kernel[1::2, 0:1], kernel[0::2, 1:2]])
        same, crossed = depthwise3x3(hidden, own), depthwise3x3(hidden, other)
        even = gelu_gate(same[:, :width] + crossed[:, width:])
        odd = gelu_gate(same[:, width:] + crossed[:, :width])
        return conv1x1(even, project[:, 0::2]) + conv1x1(odd, project[:, 1::2])


class DetailExtractor(nn.Module):
    """A chain of coupling nodes on the two halves of the channels."""

    def __init__(self, width: int, count: int, bottleneck: type[nn.Module] | None = None):
        kind = bottleneck or Bottleneck
        self.nodes = nn.ModuleList([CouplingNode(width, kind) for _ in range(count)])

    def execute(self, x: jt.Var) -> jt.Var:
        """x (N, width, H, W) -> the same shape."""
        for node in self.nodes:
            x = node(x)
        return x


class CouplingNode(nn.Module):
    """An affine coupling layer (Dinh et al., 2017) after a 1x1 that mixes the halves.

    z2 += phi(z1); z1 = z1 * exp(rho(z2)) + eta(z2), with the new z2.
    """

    def __init__(self, width: int, bottleneck: type[nn.Module]):
        self.shuffle = nn.Conv(width, width, 1)
        self.phi = bottleneck(width // 2)
        self.rho = bottleneck(width // 2)
        self.eta = bottleneck(width // 2)

    def execute(self, x: jt.Var) -> jt.Var:
        """x (N, width, H, W) -> the same shape."""
        first, second = conv1x1(x, self.shuffle.weight, self.shuffle.bias).chunk(2, 1)
        second = second + self.phi(first)
        first = first * jt.exp(self.rho(second)) + self.eta(second)
        return jt.concat([first, second], 1)


class Bottleneck(nn.Module):
    """1x1 to twice the width, ReLU6, depthwise 3x3 on the reflected image, ReLU6, 1x1; no skip."""

    def __init__(self, width: int):
        self.expand = nn.Conv(width, 2 * width, 1, bias=False)
        self.depthwise = nn.Conv(2 * width, 2 * width, 3, groups=2 * width, bias=False)
        self.project = nn.Conv(2 * width, width, 1, bias=False)

    def execute(self, x: jt.Var) -> jt.Var:
        """x (N, width, H, W), two pixels or more a side -> the same shape."""
        hidden = pad(relu6(conv1x1(x, self.expand.weight)), 1, "reflect")
        hidden = depthwise(hidden, self.depthwise.weight, padding=0)
        return conv1x1(relu6(hidden), self.project.weight)
