"""Diff-FCCF's network: a U-Net with a Chebyshev graph layer at the bottom and two decoders."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jfusion.diffusion.unet import timestep_embedding
from jfusion.layers.norm import LayerNorm2d
from jfusion.ops.activation import silu
from jfusion.ops.conv import conv, conv1x1
from jfusion.ops.norm_conv import norm_silu_conv
from jfusion.ops.pixel_attention import pixel_attention
from jfusion.runtime import jt, nn

NORM_GROUPS = 32  # in every GroupNorm
HEADS = 4  # in the graph attention
CHEBYSHEV_ORDER = 3


class Output(NamedTuple):
    """The network's output: the predicted noise and two masks in (0, 1), each (N, 1, H, W)."""

    noise: jt.Var
    mask1: jt.Var
    mask2: jt.Var

    @property
    def field(self) -> jt.Var:
        """The "deformation field" (N, H, W, 2) in pixels, x first: the masks themselves (sic)."""
        return jt.stack([self.mask1[:, 0], self.mask2[:, 0]], 3)


class NormSiLUConv(nn.Module):
    """GroupNorm of 32 groups, SiLU, dropout and a convolution, whose parameters another module holds."""

    def __init__(self, channels: int):
        self.weight, self.bias = jt.ones(channels), jt.zeros(channels)

    def execute(self, x: jt.Var, conv: nn.Conv, dropout: float = 0.0) -> jt.Var:
        """(N, channels, H, W) -> (N, O, H, W)."""
        norm = self.weight, self.bias
        return norm_silu_conv(x, NORM_GROUPS, norm, (conv.weight, conv.bias), dropout)


class ResBlock(nn.Module):
    """Two convolutions with the time embedding added between them, and a skip connection."""

    def __init__(self, channels: int, out: int, time: int, dropout: float):
        self.norm1, self.conv1 = NormSiLUConv(channels), nn.Conv(channels, out, 3, padding=1)
        self.time = nn.Linear(time, out)
        self.norm2, self.conv2 = NormSiLUConv(out), nn.Conv(out, out, 3, padding=1)
        self.skip = nn.Conv(channels, out, 1) if channels != out else None
        self.dropout = dropout

    def execute(self, x: jt.Var, temb: jt.Var) -> jt.Var:
        """Maps x (N, channels, H, W), with temb (N, time) after SiLU, to (N, out, H, W)."""
        shift = self.time(temb).reshape(x.shape[0], -1, 1, 1)
        dropout = self.dropout if self.is_training() else 0.0
        y = self.norm2(self.norm1(x, self.conv1) + shift, self.conv2, dropout)
        return y + (x if self.skip is None else conv1x1(x, self.skip.weight, self.skip.bias))


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2, which halves the size."""

    def __init__(self, channels: int):
        self.conv = nn.Conv(channels, channels, 3, 2, 1)

    def execute(self, x: jt.Var, temb: jt.Var) -> jt.Var:
        """(N, C, H, W) -> (N, C, H / 2, W / 2), rounded up; temb is not used."""
        return self.conv(x)


class Upsample(nn.Module):
    """A transposed 3x3 convolution of stride 2 (padding 1, output padding 1), which doubles the size."""

    def __init__(self, channels: int):
        self.conv = nn.ConvTranspose(channels, channels, 3, 2, 1, 1)

    def execute(self, x: jt.Var, temb: jt.Var) -> jt.Var:
        """(N, C, H, W) -> (N, C, 2H, 2W); temb is not used.

        The four pixels in a 2x2 block of the result depend on one, two, two and four pixels of x.
        """
        n, c, h, w = x.shape
        k = self.conv.weight.transpose(1, 0, 2, 3)  # (out, in, 3, 3)
        right, below, across = (
            x.reindex(x.shape, ["i0", "i1", f"i2+{i}", f"i3+{j}"])
            for i, j in ((0, 1), (1, 0), (1, 1))
        )

        def product(*terms: tuple[jt.Var, int, int]) -> jt.Var:
            weight = jt.concat([k[:, :, i, j] for _, i, j in terms], 1).reshape(c, -1, 1, 1)
            inputs = jt.concat([v for v, _, _ in terms], 1) if len(terms) > 1 else terms[0][0]
            return conv1x1(inputs, weight, self.conv.bias)

        of_block = jt.stack(
            [
                product((x, 1, 1)),
                product((x, 1, 2), (right, 1, 0)),
                product((x, 2, 1), (below, 0, 1)),
                product((x, 2, 2), (right, 2, 0), (below, 0, 2), (across, 0, 0)),
            ],
            2,
        )
        blocks = of_block.reshape(n, c, 2, 2, h, w).transpose(0, 1, 4, 2, 5, 3)
        return blocks.reshape(n, c, 2 * h, 2 * w)


class Gate(nn.Module):
    """Channel and pixel attention on a skip connection."""

    def __init__(self, channels: int):
        self.squeeze = nn.Conv(channels, channels // 8, 1)
        self.excite = nn.Conv(channels // 8, channels, 1)
        self.pixels = nn.Conv(channels, 1, 1)

    def execute(self, x: jt.Var) -> jt.Var:
        """Multiplies x (N, C, H, W) by its attention; the shape stays."""
        pooled = [
            x.mean(3, keepdims=True).mean(2, keepdims=True),
            x.max(3, keepdims=True).max(2, keepdims=True),
        ]
        channels = sum(self.excite(nn.relu(self.squeeze(v))) for v in pooled)
        pixels = conv1x1(x, self.pixels.weight, self.pixels.bias)
        return jt.sigmoid(channels) * jt.sigmoid(pixels) * x


# ---- the graph layer ---------------------------------------------------------------------------


def positional_encoding(channels: int, rows: int, columns: int) -> np.ndarray:
    """(rows * columns, channels) float32: sine and cosine of the row, then of the column."""
    omega = 1 / 10000 ** (np.arange(channels // 4, dtype=np.float64) / (channels / 4))
    y, x = (v.reshape(-1, 1) * omega for v in np.mgrid[:rows, :columns])
    return np.concatenate([np.sin(y), np.cos(y), np.sin(x), np.cos(x)], 1).astype(np.float32)


def neighbor_sum(x: jt.Var) -> jt.Var:
    """A x: the sum of the four neighbors on the grid, zero outside. (N, C, H, W), same shape."""
    offsets = ((-1, 0), (1, 0), (0, -1), (0, 1))
    return sum(x.reindex(x.shape, ["i0", "i1", f"i2+{i}", f"i3+{j}"]) for i, j in offsets)


def degree(h: int, w: int) -> np.ndarray:
    """The diagonal of D: how many neighbors each node of the grid has, (1, 1, h, w) float32."""
    rows, columns = (
        np.pad(np.ones(n - 1), (0, 1)) + np.pad(np.ones(n - 1), (1, 0)) for n in (h, w)
    )
    return (rows[:, None] + columns).astype(np.float32)[None, None]


def laplacian(x: jt.Var) -> jt.Var:
    """(D - A) x, neither normalized nor rescaled (sic). (N, C, H, W), same shape."""
    return jt.array(degree(*x.shape[2:])) * x - neighbor_sum(x)


def normalized_adjacency(x: jt.Var) -> jt.Var:
    """D^-1/2 (A + I) D^-1/2 x with D the row sums of A + I. (N, C, H, W), same shape."""
    scale = jt.array(1 / np.sqrt(degree(*x.shape[2:]) + 1))
    return scale * (scale * x + neighbor_sum(scale * x))


def transpose_token_order(x: jt.Var) -> jt.Var:
    """(N, C, H, W), whose values in the order (pixel, channel) are read as (channel, pixel) (sic)."""
    n, c, h, w = x.shape
    return x.reshape(n, c, h * w).transpose(0, 2, 1).reshape(n, c, h, w)


class GraphLayer(nn.Module):
    """Attention, feed-forward and a Chebyshev convolution on the graph of a grid.

    Each has a norm before it and a skip connection. The nodes are the pixels of (N, C, H, W), their
    features the channels.
    """

    def __init__(self, channels: int, hidden: int, order: int = CHEBYSHEV_ORDER):
        self.norm1, self.norm2, self.norm3 = (LayerNorm2d(channels) for _ in range(3))
        self.attention = nn.ModuleList([Matrix(channels, channels // HEADS) for _ in range(HEADS)])
        self.expand, self.project = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.chebyshev = nn.ModuleList([Matrix(channels, channels) for _ in range(order)])

    def execute(self, x: jt.Var) -> jt.Var:
        """(N, C, H, W) -> (N, C, H, W)."""
        x = x + self.attend(self.norm1(x))
        x = x + self.feed_forward(self.norm2(x))
        return x + self.convolve(self.norm3(x))

    def attend(self, x: jt.Var) -> jt.Var:
        """Attention of four heads, each with one matrix for query, key and value (sic); same shape."""
        q = normalized_adjacency(conv1x1(x, _kernel([m.weight for m in self.attention], 1)))
        n, c, h, w = q.shape
        qkv = jt.concat([q, q, q], 1).reshape(n, 3 * c, h, w)
        return pixel_attention(qkv, HEADS, False)

    def feed_forward(self, x: jt.Var) -> jt.Var:
        """Two linear maps with a ReLU between them; the hidden layer may be narrower. Same shape."""
        expand, project = (
            v.weight.reshape(*v.weight.shape, 1, 1) for v in (self.expand, self.project)
        )
        return conv1x1(nn.relu(conv1x1(x, expand, self.expand.bias)), project, self.project.bias)

    def convolve(self, x: jt.Var) -> jt.Var:
        """The Chebyshev polynomials of the Laplacian, each with its matrix, summed. Same shape."""
        terms = [x, laplacian(x)]
        while len(terms) < len(self.chebyshev):
            terms.append(2 * laplacian(terms[-1]) - terms[-2])
        terms = terms[: len(self.chebyshev)]
        return conv1x1(jt.concat(terms, 1), _kernel([m.weight for m in self.chebyshev], 0))


class Matrix(nn.Module):
    """A matrix (in, out), Xavier-uniform."""

    def __init__(self, channels: int, out: int):
        bound = (6 / (channels + out)) ** 0.5
        self.weight = (jt.rand(channels, out) * 2 - 1) * bound


def _kernel(weights: list[jt.Var], axis: int) -> jt.Var:
    """Matrices (in, out), concatenated along `axis`, as the weight of a 1x1 convolution."""
    matrix = jt.concat(weights, axis).transpose(1, 0)
    return matrix.reshape(*matrix.shape, 1, 1)


# ---- the whole network ---------------------------------------------------------------------------


class Denoiser(nn.Module):
    """The U-Net: two conditions, the noisy structure and function, and the time -> noise and masks.

    One encoder with a graph layer at the bottom; two decoders, for the noise and for the masks, each
    with gates of its own on the skip connections. width: channels at full size; multipliers: the
    channels of each level in `width`; blocks: residual blocks per level.
    """

    def __init__(self, width: int, multipliers: tuple[int, ...], blocks: int, dropout: float):
        self.width, self.temb_width = width, 4 * width
        self.blocks, self.dropout = blocks, dropout
        self.time = nn.ModuleList(
            [
                nn.Linear(width, self.temb_width),
                nn.Identity(),
                nn.Linear(self.temb_width, self.temb_width),
            ]
        )
        self.first = nn.Conv(4, width, 3, padding=1)
        widths = [width * m for m in multipliers]
        bottom = widths[-1]
        self.skip_after: list[int] = []  # indices in `down` of the modules whose results are skips
        self.down = self._encoder(widths)
        self.middle = nn.ModuleList([self._block(bottom, bottom), self._block(bottom, bottom)])
        self.graph = GraphLayer(bottom, 4 * width)
        self.noise_gates, self.mask_gates = (nn.ModuleList([Gate(w) for w in widths]) for _ in "ab")
        self.noise_up, self.mask_up = (self._decoder(widths) for _ in "ab")
        # indices in `noise_up` and `mask_up` of the modules after which a skip is added
        self.join_after = [blocks - 1 + i * (blocks + 1) for i in range(len(widths) - 1)]
        self.noise_head = Head(width)
        self.mask_heads = nn.ModuleList([Head(width), Head(width)])

    def _block(self, channels: int, out: int) -> ResBlock:
        return ResBlock(channels, out, self.temb_width, self.dropout)

    def _encoder(self, widths: list[int]) -> nn.ModuleList:
        modules, channels = nn.ModuleList(), self.width
        for level, out in enumerate(widths):
            for _ in range(self.blocks):
                modules.append(self._block(channels, out))
                channels = out
            if level < len(widths) - 1:
                modules.append(Downsample(channels))
            self.skip_after.append(len(modules) - 1)
        return modules

    def _decoder(self, widths: list[int]) -> nn.ModuleList:
        modules, channels = nn.ModuleList(), widths[-1]
        for level in range(len(widths)):
            out = channels // 2 if level < len(widths) - 1 else self.width
            for _ in range(self.blocks):
                modules.append(self._block(channels, out))
                channels = out
            if level:
                modules.append(Upsample(channels))
        return modules

    def execute(self, x: jt.Var, t: np.ndarray) -> Output:
        """Runs the network on x (N, 4, H, W) in [-1, 1] at the times t (N,), whole numbers below T.

        The sides of x are multiples of 8.
        """
        temb = silu(self.embed(t))
        x, skips = conv(x, self.first.weight, self.first.bias), []
        for i, module in enumerate(self.down):
            x = module(x, temb)
            if i in self.skip_after:
                skips.append(x)
        for module in self.middle:
            x = module(x, temb)
        bottom = self.graph(self.tokens(x))
        noise = self.decode(bottom, skips, temb, self.noise_gates, self.noise_up)
        masks = self.decode(bottom, skips, temb, self.mask_gates, self.mask_up)
        return Output(
            self.noise_head(noise), *(jt.sigmoid(head(masks)) for head in self.mask_heads)
        )

    def embed(self, t: np.ndarray) -> jt.Var:
        """The time embedding of t (N,), (N, 4 width)."""
        first, _, second = self.time
        return second(silu(first(jt.array(timestep_embedding(t, self.width)).stop_grad())))

    def tokens(self, x: jt.Var) -> jt.Var:
        """The input of the graph layer, of x's shape: with positions, in the reference's token order."""
        code = positional_encoding(*x.shape[1:]).T.reshape(1, *x.shape[1:])
        return transpose_token_order(x + jt.array(np.ascontiguousarray(code)).stop_grad())

    def decode(
        self, x: jt.Var, skips: list[jt.Var], temb: jt.Var, gates: nn.ModuleList, up: nn.ModuleList
    ) -> jt.Var:
        """The features (N, width, H, W) of one decoder, from the bottom x and the skips."""
        remaining = [gate(skip) for gate, skip in zip(gates, skips, strict=True)]
        x = x + remaining.pop()
        for i, module in enumerate(up):
            x = module(x, temb)
            if i in self.join_after:
                skip = remaining.pop()
                x = x[:, :, : skip.shape[2], : skip.shape[3]] + skip
        return x


class Head(nn.Module):
    """The last norm and convolution, to one channel."""

    def __init__(self, channels: int):
        self.norm, self.conv = NormSiLUConv(channels), nn.Conv(channels, 1, 3, padding=1)

    def execute(self, x: jt.Var) -> jt.Var:
        """(N, channels, H, W) -> (N, 1, H, W)."""
        return self.norm(x, self.conv)
