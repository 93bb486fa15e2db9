"""The autoencoder: two encoders, the merging of their skips, and the decoder (`LDM_Enc`, `LDM_Dec`).

`widths` are the channels of its L + 1 places: at full size, and after each of the L levels. L is three or
four; the latent has 1 / 2^(L - 1) of the image's size.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from jfusion.ops.activation import silu, tanh
from jfusion.ops.conv import conv, conv1x1, silu_conv
from jfusion.ops.matmul import matmul
from jfusion.ops.norm import channel_layer_norm, leaky_batch_norm
from jfusion.ops.resize import nearest, pad_to_multiple
from jfusion.ops.softmax import softmax
from jfusion.runtime import jt, mpi, nn

LATENT = 8  # channels of one image's latent


class ResBlock(nn.Module):
    """Two 3x3 convolutions, each with SiLU, and a skip connection."""

    def __init__(self, width: int, out: int):
        self.conv1 = nn.Conv(width, out, 3, padding=1, bias=False)
        self.conv2 = nn.Conv(out, out, 3, padding=1, bias=False)
        self.skip = nn.Conv(width, out, 1, bias=False) if width != out else None

    def execute(self, x: jt.Var) -> jt.Var:
        """(N, width, H, W) -> (N, out, H, W)."""
        u = silu(silu_conv(conv(x, self.conv1.weight), self.conv2.weight))
        return u + (x if self.skip is None else conv1x1(x, self.skip.weight))


class BiasFreeLayerNorm2d(nn.Module):
    """LayerNorm over the channels of each pixel, with a scale and no bias."""

    def __init__(self, channels: int):
        self.scale = jt.ones((1, channels, 1, 1))

    def execute(self, x: jt.Var) -> jt.Var:
        """Normalizes x (N, C, H, W); the shape stays."""
        scale = self.scale.reshape(-1)
        return channel_layer_norm(x, scale, jt.zeros_like(scale))


class LinearAttention(nn.Module):
    """Attention whose softmaxes are of q over channels and of k over pixels (Shen et al., 2021)."""

    HEADS, SIZE = 4, 32

    def __init__(self, width: int):
        inner = self.HEADS * self.SIZE
        self.norm = BiasFreeLayerNorm2d(width)
        self.qkv = nn.Conv(width, 3 * inner, 1, bias=False)
        self.project = nn.Conv(inner, width, 1)
        self.norm_out = BiasFreeLayerNorm2d(width)

    def execute(self, x: jt.Var) -> jt.Var:
        """(N, width, H, W) -> the same shape."""
        n, _, h, w = x.shape
        qkv = conv1x1(self.norm(x), self.qkv.weight)
        q, k, v = qkv.reshape(n, 3, self.HEADS, self.SIZE, h * w).transpose(1, 0, 2, 3, 4)
        q = jt.exp(q - q.max(2, keepdims=True))
        q = q / q.sum(2, keepdims=True) * self.SIZE**-0.5
        context = matmul(softmax(k), v / (h * w), tb=True)
        out = matmul(context, q, ta=True).reshape(n, -1, h, w)
        return x + self.norm_out(conv1x1(out, self.project.weight, self.project.bias))


class Downsample(nn.Module):
    """A 4x4 convolution of stride 2."""

    def __init__(self, width: int, out: int):
        self.conv = nn.Conv(width, out, 4, 2, 1)

    def execute(self, x: jt.Var) -> jt.Var:
        """(N, width, H, W) -> (N, out, H / 2, W / 2)."""
        return self.conv(x)


class Upsample(nn.Module):
    """The nearest pixel at twice the size, then a 3x3 convolution."""

    def __init__(self, width: int, out: int):
        self.conv = nn.Conv(width, out, 3, padding=1)

    def execute(self, x: jt.Var) -> jt.Var:
        """(N, width, H, W) -> (N, out, 2H, 2W)."""
        x = nearest(x, 2 * x.shape[2], 2 * x.shape[3])
        return conv(x, self.conv.weight, self.conv.bias)


class Conv3x3(nn.Module):
    """A 3x3 convolution that keeps the size."""

    def __init__(self, width: int, out: int):
        self.conv = nn.Conv(width, out, 3, padding=1, bias=False)

    def execute(self, x: jt.Var) -> jt.Var:
        """(N, width, H, W) -> (N, out, H, W)."""
        return conv(x, self.conv.weight)


class BatchNorm(nn.Module):
    """BatchNorm by the batch in training, and by the running statistics otherwise; then LeakyReLU."""

    def __init__(self, width: int):
        self.weight, self.bias = jt.ones(width), jt.zeros(width)
        # buffers: saved and loaded, but not trained
        self.running_mean = jt.zeros(width).stop_grad()
        self.running_var = jt.ones(width).stop_grad()

    def execute(self, x: jt.Var) -> jt.Var:
        """(N, C, H, W) -> the same shape."""
        if self.is_training():
            detached = x.detach()
            mean = mpi.mean(detached.mean(3).mean(2).mean(0))
            centered = detached - mean.reshape(1, -1, 1, 1)
            var = mpi.mean((centered * centered).mean(3).mean(2).mean(0))
            count = x.shape[0] * x.shape[2] * x.shape[3] * mpi.count()
            self._update_running(mean, var * (count / max(1, count - 1)))
            return leaky_batch_norm(x, self.weight, self.bias, mean, var, mpi.mean)
        scale = self.weight / jt.sqrt(self.running_var + 1e-5)
        shift = self.bias - self.running_mean * scale
        y = x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)
        return nn.leaky_relu(y, 0.2)

    def _update_running(self, mean: jt.Var, var: jt.Var) -> None:
        """Moves the running statistics by a tenth.

        In NumPy: Jittor fuses the sum with its neighbors, which may change its last bit, and it fuses
        otherwise in a run that was resumed.
        """
        for running, current in ((self.running_mean, mean), (self.running_var, var)):
            moved = np.float32(0.9) * running.numpy() + np.float32(0.1) * current.numpy()
            running.update(jt.array(moved).stop_grad())


class SkipFusion(nn.Module):
    """Merges the features of both encoders at one place."""

    def __init__(self, width: int):
        self.conv = nn.Conv(2 * width, width, 3, padding=1)
        self.norm = BatchNorm(width)

    def execute(self, first: jt.Var, second: jt.Var) -> jt.Var:
        """Two (N, width, H, W) -> the same shape."""
        x = conv(jt.concat([first, second], 1), self.conv.weight, self.conv.bias)
        return self.norm(x)


class ImageEncoder(nn.Module):
    """The encoder of one image."""

    def __init__(self, widths: tuple[int, ...]):
        self.first = nn.Conv(1, widths[0], 3, padding=1, bias=False)
        last = len(widths) - 2
        self.levels = nn.ModuleList()
        for i, (width, out) in enumerate(pairwise(widths)):
            attention = LinearAttention(width) if i == last else nn.Identity()
            resample = Conv3x3(width, out) if i == last else Downsample(width, out)
            blocks = [ResBlock(width, width), ResBlock(width, width), attention, resample]
            self.levels.append(nn.ModuleList(blocks))
        self.latent = ResBlock(widths[-1], LATENT)

    def execute(self, x: jt.Var) -> tuple[jt.Var, list[jt.Var]]:
        """(N, 1, H, W) -> the latent (N, 8, H / 2^(L - 1), W / 2^(L - 1)), and 2 L + 1 maps for the skips."""
        x = conv(x, self.first.weight)
        skips = [x]
        for first, second, attention, resample in self.levels:
            skips.append(x := first(x))
            skips.append(x := attention(second(x)))
            x = resample(x)
        return self.latent(x), skips


class Encoder(nn.Module):
    """Both encoders, and the merging of the skips for the decoder."""

    def __init__(self, widths: tuple[int, ...]):
        self.source1, self.source2 = ImageEncoder(widths), ImageEncoder(widths)
        self.multiple = 2 ** (len(widths) - 1)
        # The authors' network always has the nine of four levels, and their files hold them.
        merged = [widths[0], *(w for w in widths[:4] for _ in range(2))]
        self.skips = nn.ModuleList([SkipFusion(w) for w in merged])
        # Three levels do not reach the last two. They have no gradient, and AdamW would decay them.
        for skip in list(self.skips)[2 * len(widths) - 1 :]:
            for parameter in skip.parameters():
                parameter.stop_grad()

    def execute(self, a: jt.Var, b: jt.Var) -> tuple[jt.Var, list[jt.Var]]:
        """Two images (N, 1, H, W) -> the latent and the skips.

        The latent is (N, 16, H' / 2^(L - 1), W' / 2^(L - 1)) with H' and W' multiples of 2^L.
        """
        a, b = (pad_to_multiple(x, self.multiple, "reflect") for x in (a, b))
        (first, skips_a), (second, skips_b) = self.source1(a), self.source2(b)
        pairs = zip(skips_a, skips_b, strict=True)
        merged = [self.skips[i](x, y) for i, (x, y) in enumerate(pairs)]
        return jt.concat([first, second], 1), merged


class Decoder(nn.Module):
    """The fused latent and the skips -> the image."""

    def __init__(self, widths: tuple[int, ...]):
        self.first = ResBlock(LATENT, widths[-1])
        self.levels = nn.ModuleList()
        for i in reversed(range(len(widths) - 1)):
            width, out, deepest = widths[i + 1], widths[i], i == len(widths) - 2
            attention = LinearAttention(width) if deepest else nn.Identity()
            resample = Upsample(width, out) if i else Conv3x3(width, out)
            blocks = [ResBlock(width + out, width), ResBlock(width + out, width)]
            self.levels.append(nn.ModuleList([*blocks, attention, resample]))
        self.last = nn.Conv(widths[0], 1, 3, padding=1)

    def execute(self, latent: jt.Var, skips: list[jt.Var]) -> jt.Var:
        """Decodes a latent (N, 8, H / 2^(L - 1), W / 2^(L - 1)) to an image (N, 1, H, W) in (-1, 1)."""
        return tanh(self.logits(latent, skips))

    def logits(self, latent: jt.Var, skips: list[jt.Var]) -> jt.Var:
        """The image before the tanh, (N, 1, H, W)."""
        x, remaining = self.first(latent), list(skips)
        for first, second, attention, resample in self.levels:
            x = first(jt.concat([x, remaining.pop()], 1))
            x = resample(attention(second(jt.concat([x, remaining.pop()], 1))))
        return conv(x + remaining.pop(), self.last.weight, self.last.bias)
