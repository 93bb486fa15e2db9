"""Diff-FCCF's network: a U-Net with a Chebyshev graph layer at the bottom and two decoders."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jfusion.diffusion.unet import timestep_embedding
from jfusion.ops.activation import silu
from jfusion.ops.conv import conv, conv1x1
from jfusion.ops.norm import channel_layer_norm
from jfusion.ops.norm_conv import norm_silu_conv
from jfusion.ops.pixel_attention import pixel_attention
from jfusion.runtime import jt, nn

GROUPS = 32  # of every GroupNorm
HEADS = 4  # of the graph attention


class Output(NamedTuple):
    """Three (N, 1, H, W): the predicted noise, and two masks in (0, 1)."""

    noise: jt.Var
    mask1: jt.Var
    mask2: jt.Var

    @property
    def field(self) -> jt.Var:
        """The "deformation field" (N, H, W, 2), x then y in pixels: the masks themselves (sic)."""
        return jt.stack([self.mask1[:, 0], self.mask2[:, 0]], 3)


class GroupNorm(nn.Module):
    """The parameters of a GroupNorm of 32 groups, with SiLU and a convolution after it."""

    def __init__(self, width: int):
        self.weight, self.bias = jt.ones(width), jt.zeros(width)

    def execute(self, x: jt.Var, conv: nn.Conv, dropout: float = 0.0) -> jt.Var:
        """(N, width, H, W) -> (N, O, H, W), dropout before the convolution."""
        norm = self.weight, self.bias
        return norm_silu_conv(x, GROUPS, norm, (conv.weight, conv.bias), dropout)


class ResBlock(nn.Module):
    """Two convolutions, the time added between them, and a skip."""

    def __init__(self, width: int, out: int, time: int, dropout: float):
        self.norm1, self.conv1 = GroupNorm(width), nn.Conv(width, out, 3, padding=1)
        self.time = nn.Linear(time, out)
        self.norm2, self.conv2 = GroupNorm(out), nn.Conv(out, out, 3, padding=1)
        self.skip = nn.Conv(width, out, 1) if width != out else None
        self.dropout = dropout

    def execute(self, x: jt.Var, waves: jt.Var) -> jt.Var:
        """X (N, width, H, W), waves (N, time), SiLU done -> (N, out, H, W)."""
        time = self.time(waves).reshape(x.shape[0], -1, 1, 1)
        dropout = self.dropout if self.is_training() else 0.0
        y = self.norm2(self.norm1(x, self.conv1) + time, self.conv2, dropout)
        return y + (x if self.skip is None else conv1x1(x, self.skip.weight, self.skip.bias))


class Down(nn.Module):
    """Halves the size."""

    def __init__(self, width: int):
        self.conv = nn.Conv(width, width, 3, 2, 1)

    def execute(self, x: jt.Var, waves: jt.Var) -> jt.Var:
        """(N, C, H, W) -> (N, C, H / 2, W / 2), rounded up."""
        return self.conv(x)


class Up(nn.Module):
    """Doubles the size: a transposed 3x3 convolution of stride 2 (padding 1, output padding 1)."""

    def __init__(self, width: int):
        self.conv = nn.ConvTranspose(width, width, 3, 2, 1, 1)

    def execute(self, x: jt.Var, waves: jt.Var) -> jt.Var:
        """(N, C, H, W) -> (N, C, 2H, 2W).

        Each of the four places in a 2x2 block of the result sees one, two, two or four pixels.
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

        places = jt.stack(
            [
                product((x, 1, 1)),
                product((x, 1, 2), (right, 1, 0)),
                product((x, 2, 1), (below, 0, 1)),
                product((x, 2, 2), (right, 2, 0), (below, 0, 2), (across, 0, 0)),
            ],
            2,
        )
        blocks = places.reshape(n, c, 2, 2, h, w).transpose(0, 1, 4, 2, 5, 3)
        return blocks.reshape(n, c, 2 * h, 2 * w)


class Gate(nn.Module):
    """Channel and pixel attention on a skip."""

    def __init__(self, width: int):
        self.squeeze, self.excite = nn.Conv(width, width // 8, 1), nn.Conv(width // 8, width, 1)
        self.pixels = nn.Conv(width, 1, 1)

    def execute(self, x: jt.Var) -> jt.Var:
        """(N, C, H, W) -> the same shape."""
        pooled = [
            x.mean(3, keepdims=True).mean(2, keepdims=True),
            x.max(3, keepdims=True).max(2, keepdims=True),
        ]
        channels = sum(self.excite(nn.relu(self.squeeze(v))) for v in pooled)
        pixels = conv1x1(x, self.pixels.weight, self.pixels.bias)
        return jt.sigmoid(channels) * jt.sigmoid(pixels) * x


# ---- the graph layer ---------------------------------------------------------------------------


def position_code(width: int, rows: int, columns: int) -> np.ndarray:
    """(rows * columns, width) float32: sine and cosine of the row, then of the column."""
    omega = 1 / 10000 ** (np.arange(width // 4, dtype=np.float64) / (width / 4))
    y, x = (v.reshape(-1, 1) * omega for v in np.mgrid[:rows, :columns])
    return np.concatenate([np.sin(y), np.cos(y), np.sin(x), np.cos(x)], 1).astype(np.float32)


def neighbours(x: jt.Var) -> jt.Var:
    """The sum of the four neighbours on the grid, zero outside: A x. (N, C, H, W), same shape."""
    around = ((-1, 0), (1, 0), (0, -1), (0, 1))
    return sum(x.reindex(x.shape, ["i0", "i1", f"i2+{i}", f"i3+{j}"]) for i, j in around)


def degree(h: int, w: int) -> np.ndarray:
    """How many neighbours each node has, (1, 1, H, W) float32."""
    rows, columns = (
        np.pad(np.ones(n - 1), (0, 1)) + np.pad(np.ones(n - 1), (1, 0)) for n in (h, w)
    )
    return (rows[:, None] + columns).astype(np.float32)[None, None]


def laplacian(x: jt.Var) -> jt.Var:
    """(D - A) x, neither normalised nor rescaled (sic). (N, C, H, W), same shape."""
    return jt.array(degree(*x.shape[2:])) * x - neighbours(x)


def smoothed(x: jt.Var) -> jt.Var:
    """D^-1/2 (A + I) D^-1/2 x with D the row sums of A + I. (N, C, H, W), same shape."""
    scale = jt.array(1 / np.sqrt(degree(*x.shape[2:]) + 1))
    return scale * (scale * x + neighbours(scale * x))


def scrambled(x: jt.Var) -> jt.Var:
    """(N, C, H, W) read in the order pixel, channel as if it were channel, pixel (sic)."""
    n, c, h, w = x.shape
    return x.reshape(n, c, h * w).transpose(0, 2, 1).reshape(n, c, h, w)


class ChannelNorm(nn.Module):
    """LayerNorm over the features of each node."""

    def __init__(self, width: int):
        self.weight, self.bias = jt.ones(width), jt.zeros(width)

    def execute(self, x: jt.Var) -> jt.Var:
        """(N, C, H, W) -> the same shape."""
        return channel_layer_norm(x, self.weight, self.bias)


class GraphLayer(nn.Module):
    """Attention, feed-forward and a Chebyshev convolution (order 3) on the grid's graph, each with a
    norm before it and a skip. Nodes are pixels of (N, C, H, W), features are channels."""

    ORDER = 3

    def __init__(self, width: int, hidden: int, order: int = ORDER):
        self.norm1, self.norm2, self.norm3 = (ChannelNorm(width) for _ in range(3))
        self.attention = nn.ModuleList([Weight(width, width // HEADS) for _ in range(HEADS)])
        self.expand, self.project = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.chebyshev = nn.ModuleList([Weight(width, width) for _ in range(order)])

    def execute(self, x: jt.Var) -> jt.Var:
        """(N, C, H, W) -> the same shape."""
        x = x + self.attend(self.norm1(x))
        x = x + self.feed_forward(self.norm2(x))
        return x + self.convolve(self.norm3(x))

    def attend(self, x: jt.Var) -> jt.Var:
        """Four heads, each with one matrix for query, key and value."""
        q = smoothed(conv1x1(x, _kernel([m.weight for m in self.attention], 1)))
        n, c, h, w = q.shape
        qkv = jt.concat([q, q, q], 1).reshape(n, 3 * c, h, w)
        return pixel_attention(qkv, HEADS, False)

    def feed_forward(self, x: jt.Var) -> jt.Var:
        """Through a layer that may be narrower."""
        expand, project = (
            v.weight.reshape(*v.weight.shape, 1, 1) for v in (self.expand, self.project)
        )
        return conv1x1(nn.relu(conv1x1(x, expand, self.expand.bias)), project, self.project.bias)

    def convolve(self, x: jt.Var) -> jt.Var:
        """Chebyshev polynomials of the Laplacian, each with its matrix."""
        terms = [x, laplacian(x)]
        while len(terms) < len(self.chebyshev):
            terms.append(2 * laplacian(terms[-1]) - terms[-2])
        terms = terms[: len(self.chebyshev)]
        return conv1x1(jt.concat(terms, 1), _kernel([m.weight for m in self.chebyshev], 0))


class Weight(nn.Module):
    """A matrix (in, out), Xavier-uniform."""

    def __init__(self, width: int, out: int):
        bound = (6 / (width + out)) ** 0.5
        self.weight = (jt.rand(width, out) * 2 - 1) * bound


def _kernel(weights: list[jt.Var], axis: int) -> jt.Var:
    """Matrices (in, out), side by side (axis 1) or one below the other (0), as a 1x1 convolution."""
    matrix = jt.concat(weights, axis).transpose(1, 0)
    return matrix.reshape(*matrix.shape, 1, 1)


# ---- the whole ---------------------------------------------------------------------------------


class Denoiser(nn.Module):
    """(condition 1, condition 2, noisy structure, noisy plane), time -> noise and masks."""

    def __init__(self, width: int, multipliers: tuple[int, ...], blocks: int, dropout: float):
        time = 4 * width
        self.width = width
        self.time = nn.ModuleList([nn.Linear(width, time), nn.Identity(), nn.Linear(time, time)])
        self.first = nn.Conv(4, width, 3, padding=1)
        widths = [width * m for m in multipliers]
        res = lambda a, b: ResBlock(a, b, time, dropout)  # noqa: E731
        self.down, now = nn.ModuleList(), width
        self.skip_after = []  # the modules whose results are skips
        for level, out in enumerate(widths):
            for _ in range(blocks):
                self.down.append(res(now, out))
                now = out
            if level < len(widths) - 1:
                self.down.append(Down(now))
            self.skip_after.append(len(self.down) - 1)
        self.middle = nn.ModuleList([res(now, now), res(now, now)])
        self.graph = GraphLayer(now, 4 * width)
        self.noise_gates, self.mask_gates = (nn.ModuleList([Gate(w) for w in widths]) for _ in "ab")
        self.noise_up, self.mask_up = (self._up(widths, blocks, res) for _ in "ab")
        self.join_after = [blocks - 1 + i * (blocks + 1) for i in range(len(widths) - 1)]
        self.noise_head = Head(width)
        self.mask_heads = nn.ModuleList([Head(width), Head(width)])

    def _up(self, widths: list[int], blocks: int, res) -> nn.ModuleList:  # noqa: ANN001
        made, now = nn.ModuleList(), widths[-1]
        for level in range(len(widths)):
            out = now // 2 if level < len(widths) - 1 else self.width
            for _ in range(blocks):
                made.append(res(now, out))
                now = out
            if level:
                made.append(Up(now))
        return made

    def execute(self, x: jt.Var, t: np.ndarray) -> Output:
        """X (N, 4, H, W), sides multiples of 8; t (N,) whole numbers."""
        waves = silu(self.embed(t))
        x, skips = conv(x, self.first.weight, self.first.bias), []
        for i, module in enumerate(self.down):
            x = module(x, waves)
            if i in self.skip_after:
                skips.append(x)
        for module in self.middle:
            x = module(x, waves)
        bottom = self.graph(self.tokens(x))
        noise = self.decode(bottom, skips, waves, self.noise_gates, self.noise_up)
        masks = self.decode(bottom, skips, waves, self.mask_gates, self.mask_up)
        return Output(
            self.noise_head(noise), *(jt.sigmoid(head(masks)) for head in self.mask_heads)
        )

    def embed(self, t: np.ndarray) -> jt.Var:
        """(N,) -> (N, 4 width)."""
        first, _, second = self.time
        return second(silu(first(jt.array(timestep_embedding(t, self.width)).stop_grad())))

    def tokens(self, x: jt.Var) -> jt.Var:
        """What the graph gets: the position added, and the reference's order of reading."""
        code = position_code(*x.shape[1:]).T.reshape(1, *x.shape[1:])
        return scrambled(x + jt.array(np.ascontiguousarray(code)).stop_grad())

    def decode(
        self, x: jt.Var, skips: list[jt.Var], waves: jt.Var, gates: nn.ModuleList, up: nn.ModuleList
    ) -> jt.Var:
        """From the bottom to (N, width, H, W)."""
        left = [gate(skip) for gate, skip in zip(gates, skips, strict=True)]
        x = x + left.pop()
        for i, module in enumerate(up):
            x = module(x, waves)
            if i in self.join_after:
                skip = left.pop()
                x = x[:, :, : skip.shape[2], : skip.shape[3]] + skip
        return x


class Head(nn.Module):
    """The last norm and convolution."""

    def __init__(self, width: int):
        self.norm, self.conv = GroupNorm(width), nn.Conv(width, 1, 3, padding=1)

    def execute(self, x: jt.Var) -> jt.Var:
        """(N, width, H, W) -> (N, 1, H, W)."""
        return self.norm(x, self.conv)
