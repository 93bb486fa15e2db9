"""The fusion head: the denoiser's features and the denoised latent -> the fused latent (`fusion`)."""

from __future__ import annotations

from jfusion.layers.norm import LayerNorm2d
from jfusion.ops.activation import prelu, tanh
from jfusion.ops.conv import conv, conv1x1
from jfusion.ops.expand import expand_depthwise
from jfusion.ops.matmul import matmul
from jfusion.ops.resize import bilinear
from jfusion.runtime import jt, nn
from jfusion.systems.lfdt.autoencoder import LATENT

WIDTHS = (128, 64, 32, 16)  # of one source, coarse to fine: half of the denoiser's features
HEADS = (8, 4, 2, 1)


class CrossAttention(nn.Module):
    """Linear attention of each half of the channels to the other; the weights are cosines plus one."""

    def __init__(self, width: int, heads: int):
        self.width, self.heads = width, heads
        for i in (1, 2):
            qkv = 3 * width
            setattr(self, f"temperature{i}", jt.ones((heads, 1, 1)))
            setattr(self, f"qkv{i}", nn.Conv(width, qkv, 1, bias=False))
            depthwise = nn.Conv(qkv, qkv, 3, padding=1, groups=qkv, bias=False)
            setattr(self, f"depthwise{i}", depthwise)
            setattr(self, f"project{i}", nn.Conv(width, width, 1, bias=False))

    def execute(self, x: jt.Var) -> jt.Var:
        """(N, 2 width, H, W) -> the same shape."""
        n, _, h, w = x.shape
        sides = [self._qkv(half, i) for half, i in zip(x.chunk(2, 1), (1, 2), strict=True)]
        outputs = []
        for i, ((q, _, _), (_, k, v)) in enumerate(zip(sides, sides[::-1], strict=True), 1):
            numerator = v.sum(-1, keepdims=True) + matmul(matmul(v, k, tb=True), q)
            denominator = h * w + (k.sum(-1, keepdims=True) * q).sum(2, keepdims=True) + 1e-6
            attended = numerator / denominator * getattr(self, f"temperature{i}")
            attended = attended.reshape(n, self.width, h, w)
            outputs.append(conv1x1(attended, getattr(self, f"project{i}").weight))
        return jt.concat(outputs, 1)

    def _qkv(self, x: jt.Var, i: int) -> tuple[jt.Var, jt.Var, jt.Var]:
        """The normalized queries and keys, and the values, of source i, (N, heads, width / heads, H W)."""
        n, _, h, w = x.shape
        weights = (getattr(self, f"{name}{i}").weight for name in ("qkv", "depthwise"))
        qkv = expand_depthwise(x, *weights)
        qkv = qkv.reshape(n, 3, self.heads, self.width // self.heads, h * w)
        q, k, v = qkv.transpose(1, 0, 2, 3, 4)
        return _normalized(q), _normalized(k), v


def _normalized(x: jt.Var) -> jt.Var:
    """Each pixel's vector of a head divided by its length."""
    return x / (jt.sqrt((x * x).sum(2, keepdims=True)) + 1e-6)


class HeadBlock(nn.Module):
    """Cross-attention and a feed-forward, each after a norm."""

    def __init__(self, width: int, heads: int):
        hidden = int(2 * width * 2.66)
        self.norm1, self.norm2 = LayerNorm2d(2 * width), LayerNorm2d(2 * width)
        self.attention = CrossAttention(width, heads)
        self.expand = nn.Conv(2 * width, hidden, 1, bias=False)
        self.project = nn.Conv(hidden, 2 * width, 1, bias=False)

    def execute(self, x: jt.Var) -> jt.Var:
        """(N, 2 width, H, W) -> the same shape."""
        x = x + self.attention(self.norm1(x))
        hidden = nn.gelu(conv1x1(self.norm2(x), self.expand.weight))
        return conv1x1(hidden, self.project.weight, added=x)


class SKFF(nn.Module):
    """Selective kernel feature fusion (Zamir et al., 2020): a softmax per channel between two maps."""

    def __init__(self, width: int):
        reduced = max(width // 8, 4)
        self.squeeze = nn.Conv(width, reduced, 1, bias=False)
        self.slope = jt.full((1,), 0.25)
        self.excite = nn.ModuleList([nn.Conv(reduced, width, 1, bias=False) for _ in range(2)])

    def execute(self, a: jt.Var, b: jt.Var) -> jt.Var:
        """Two (N, width, H, W) -> the same shape."""
        mean = (a + b).mean(3, keepdims=True).mean(2, keepdims=True)
        z = prelu(conv1x1(mean, self.squeeze.weight), self.slope)
        first, second = (conv1x1(z, m.weight) for m in self.excite)
        weight = jt.sigmoid(first - second)  # the softmax of two
        return a * weight + b * (1 - weight)


class FusionHead(nn.Module):
    """The denoiser's features and the denoised latent -> the fused latent in (0, 1)."""

    def __init__(self):
        pairs = list(zip(WIDTHS, HEADS, strict=True))
        self.blocks = nn.ModuleList(
            [nn.ModuleList([HeadBlock(*pair) for _ in range(2)]) for pair in pairs]
        )
        self.merges = nn.ModuleList([SKFF(w) for w in WIDTHS])
        self.merge_latent = SKFF(LATENT)
        self.ending = nn.Conv(WIDTHS[-1] + LATENT, LATENT, 3, padding=1)

    def execute(self, features: list[jt.Var], latent: jt.Var) -> jt.Var:
        """Fuses features (N, 256 .. 32, ...) and a latent (N, 16, H, W) to (N, 8, H, W)."""
        return tanh(self.logits(features, latent)) / 2 + 0.5

    def logits(self, features: list[jt.Var], latent: jt.Var) -> jt.Var:
        """The fused latent before the tanh, (N, 8, H, W)."""
        x = None
        for feature, blocks, merge in zip(features, self.blocks, self.merges, strict=True):
            if x is not None:
                h, w = x.shape[2:]
                doubled = bilinear(x, 2 * h, 2 * w, align_corners=True)
                feature = feature + bilinear(doubled, *feature.shape[2:])
            for block in blocks:
                feature = block(feature)
            x = merge(*feature.chunk(2, 1))
        merged = self.merge_latent(*latent.chunk(2, 1))
        return conv(jt.concat([x, merged], 1), self.ending.weight, self.ending.bias)
