"""The denoiser: the diffusion transformer on the latent (`model`, "DFT")."""

from __future__ import annotations

import numpy as np

from jfusion.layers.norm import LayerNorm2d
from jfusion.layers.restormer import ChannelAttention
from jfusion.ops.activation import silu
from jfusion.ops.channel_attention import cosine_attention
from jfusion.ops.conv import conv, conv1x1
from jfusion.ops.depthwise import pixel_shuffle
from jfusion.ops.expand import expand_depthwise
from jfusion.ops.norm import channel_layer_norm
from jfusion.ops.resize import bilinear
from jfusion.runtime import jt, nn
from jfusion.systems.lfdt.autoencoder import LATENT


def sinusoidal_embedding(t: np.ndarray, width: int) -> jt.Var:
    """Sines, then cosines of t (N,) -> (N, width).

    The rates end at 1 / 10000, where those of `jfusion.diffusion.unet` stop short of it. In NumPy: t
    reaches 999, and Jittor's float32 is not exact enough there.
    """
    half = width // 2
    rates = np.exp(np.arange(half, dtype=np.float32) * np.float32(-np.log(10000) / (half - 1)))
    angles = np.asarray(t, np.float32)[:, None] * rates
    return jt.array(np.concatenate([np.sin(angles), np.cos(angles)], 1)).stop_grad()


def time_embedding(t: np.ndarray, width: int) -> jt.Var:
    """What the blocks of one width read of t (N,): SiLU twice (sic) of its sines and cosines, (N, width)."""
    return silu(silu(sinusoidal_embedding(t, width)))


class TransformerBlock(nn.Module):
    """Channel attention and a feed-forward, each after a norm that the time scales and shifts."""

    def __init__(self, width: int, heads: int, expansion: float):
        hidden = int(width * expansion)
        self.norm1, self.norm2 = LayerNorm2d(width), LayerNorm2d(width)
        self.attention = ChannelAttention(width, heads)
        self.expand = nn.Conv(width, hidden, 1, bias=False)
        self.project = nn.Conv(hidden, width, 1, bias=False)
        self.time = nn.Linear(width, 4 * width)

    def execute(self, x: jt.Var, temb: jt.Var) -> jt.Var:
        """Maps x (N, width, H, W) and the `time_embedding` (1 or N, width) to the same shape as x."""
        shift1, scale1, shift2, scale2 = self.time(temb).chunk(4, 1)
        x = x + self.attend(_modulated(x, self.norm1, shift1, scale1))
        return x + self.feed_forward(_modulated(x, self.norm2, shift2, scale2))

    def attend(self, x: jt.Var) -> jt.Var:
        """Channel attention on x (N, width, H, W), which is normalized and modulated already."""
        attention = self.attention
        qkv = expand_depthwise(x, attention.qkv.weight, attention.depthwise.weight)
        return conv1x1(cosine_attention(qkv, attention.temperature), attention.project.weight)

    def feed_forward(self, x: jt.Var) -> jt.Var:
        """1x1, GELU, 1x1: (N, width, H, W) -> the same shape."""
        return conv1x1(nn.gelu(conv1x1(x, self.expand.weight)), self.project.weight)


def _modulated(x: jt.Var, norm: LayerNorm2d, shift: jt.Var, scale: jt.Var) -> jt.Var:
    """norm(x) * (1 + scale) + shift; shift, scale (1 or N, C)."""
    if scale.shape[0] == 1:  # one time for all samples: into the norm's own weight and bias
        factor = 1 + scale[0]
        return channel_layer_norm(x, norm.weight * factor, norm.bias * factor + shift[0])
    return norm(x) * (1 + scale).unsqueeze(-1).unsqueeze(-1) + shift.unsqueeze(-1).unsqueeze(-1)


class Denoiser(nn.Module):
    """The diffusion transformer: a UNet of channel-attention blocks on the latent."""

    WIDTH, HEADS = 32, (1, 2, 4, 8)

    def __init__(self, blocks: tuple[int, ...], expansion: float):
        widths = [self.WIDTH * 2**i for i in range(4)]

        def stage(width: int, heads: int, count: int) -> nn.ModuleList:
            return nn.ModuleList([TransformerBlock(width, heads, expansion) for _ in range(count)])

        levels = range(3)
        self.patch = nn.Conv(2 * LATENT, widths[0], 3, padding=1, bias=False)
        self.encoders = nn.ModuleList([stage(widths[i], self.HEADS[i], blocks[i]) for i in levels])
        self.downs = nn.ModuleList([nn.Conv(widths[i], widths[i + 1], 2, 2) for i in levels])
        self.latent = stage(
            widths[3], self.HEADS[3], blocks[0]
        )  # (sic) the depth of the first level
        self.ups = nn.ModuleList(
            [nn.Conv(widths[i + 1], 4 * widths[i], 1, bias=False) for i in levels][::-1]
        )
        decoders = [stage(widths[i], self.HEADS[i], blocks[i]) for i in levels]
        self.decoders = nn.ModuleList(decoders[::-1])
        self.ending = nn.Conv(widths[0], 2 * LATENT, 1)

    def execute(self, x: jt.Var, t: np.ndarray) -> tuple[jt.Var, list[jt.Var]]:
        """Predicts the noise in x (N, 16, H, W), 8 or more a side, at t (1,) or (N,).

        Returns the noise, and the features of four levels, coarse to fine, of 256 to 32 channels.
        """
        x, skips = conv(x, self.patch.weight), []
        *tembs, temb = (time_embedding(t, self.WIDTH * 2**i) for i in range(4))
        for blocks, down, level_temb in zip(self.encoders, self.downs, tembs, strict=True):
            for block in blocks:
                x = block(x, level_temb)
            skips.append(x)
            x = down(x)
        for block in self.latent:
            x = block(x, temb)
        features = [x]
        for up, blocks, level_temb in zip(self.ups, self.decoders, tembs[::-1], strict=True):
            skip = skips.pop()
            x = pixel_shuffle(conv1x1(x, up.weight))
            x = bilinear(x, *skip.shape[2:]) + skip
            for block in blocks:
                x = block(x, level_temb)
            features.append(x)
        return conv1x1(x, self.ending.weight, self.ending.bias), features
