"""The UNet of guided diffusion (Dhariwal and Nichol, 2021), every configuration of it."""

from __future__ import annotations

import math

import numpy as np

from jfusion.diffusion.config import UNetConfig
from jfusion.errors import UserError
from jfusion.ops.activation import silu
from jfusion.ops.conv import conv, conv1x1
from jfusion.ops.group_norm import group_norm
from jfusion.ops.pixel_attention import pixel_attention
from jfusion.ops.resize import nearest
from jfusion.runtime import jt, nn

GROUPS = 32

_INSIDE = {
    "in_layers.0.{p}": "norm1.{p}",
    "in_layers.2.{p}": "conv1.{p}",
    "emb_layers.1.{p}": "time.{p}",
    "out_layers.0.{p}": "norm2.{p}",
    "out_layers.3.{p}": "conv2.{p}",
    "skip_connection.{p}": "skip.{p}",
    "norm.{p}": "norm.{p}",
    "qkv.{p}": "qkv.{p}",
    "proj_out.{p}": "project.{p}",
    "op.{p}": "conv.{p}",
    "conv.{p}": "conv.{p}",
    "weight": "weight",
    "bias": "bias",
}


def _official() -> dict[str, str]:
    names = {
        "time_embed.{i}.{p}": "time.{i}.{p}",
        "label_emb.weight": "labels.weight",
        "out.0.{p}": "norm.{p}",
        "out.2.{p}": "conv.{p}",
    }
    # the authors' "op" downsamples and their "conv" upsamples; both are called "conv" here
    for theirs, ours, without in (
        ("input_blocks.{i}.{j}", "down.{i}.{j}", "conv.{p}"),
        ("middle_block.{j}", "middle.{j}", "op.{p}"),
        ("output_blocks.{i}.{j}", "up.{i}.{j}", "op.{p}"),
    ):
        names |= {f"{theirs}.{o}": f"{ours}.{u}" for o, u in _INSIDE.items() if o != without}
    return {o: f"unet.{u}" for o, u in names.items()}


OFFICIAL = (
    _official()
)  # templates of the authors' names, for a system that holds the network as `unet`


def timestep_embedding(t: np.ndarray, width: int) -> np.ndarray:
    """Cosines, then sines of t (N,), which may be fractional -> (N, width) float32.

    In NumPy: at t = 999 one unit in the last place of a frequency moves a value by 6e-5, and
    Jittor's kernels are compiled for speed.
    """
    half = width // 2
    exponent = np.float32(-math.log(10000)) * np.arange(half, dtype=np.float32) / np.float32(half)
    rates = np.exp(exponent.astype(float)).astype(
        np.float32
    )  # the float32 exp of NumPy is off by one ulp
    angles = np.asarray(t, np.float32)[:, None] * rates
    temb = np.concatenate([np.cos(angles), np.sin(angles)], 1)
    return np.pad(temb, ((0, 0), (0, width % 2)))


class UNet(nn.Module):
    """(noisy image, time) -> the predicted noise, and with `learn_sigma` what the variance is.

    num_classes: the number of class labels, for a class-conditional network; no system here uses it.
    """

    def __init__(self, config: UNetConfig, num_classes: int | None = None):
        self.config = config
        width, time = config.num_channels, 4 * config.num_channels
        self.time = nn.ModuleList([nn.Linear(width, time), nn.Identity(), nn.Linear(time, time)])
        self.num_classes = num_classes
        if num_classes is not None:
            self.labels = nn.Embedding(num_classes, time)
        widths = [int(m * width) for m in config.multipliers]
        self.down, skips = self._down(widths, time)
        top = widths[-1]
        self.middle = nn.ModuleList(
            [self._residual(top, top, time), self._attention(top), self._residual(top, top, time)]
        )
        self.up = self._up(widths, skips, time)
        self.norm = _GroupNorm(widths[0])
        self.conv = _zero(nn.Conv(widths[0], 6 if config.learn_sigma else 3, 3, padding=1))
        if config.use_fp16:
            self.convert_to_fp16()

    def _down(self, widths: list[int], time: int) -> tuple[nn.ModuleList, list[int]]:
        """The blocks of the encoder, and the number of channels of each one's output."""
        config, factor, channels = self.config, 1, widths[0]
        blocks, skips = [[nn.Conv(3, channels, 3, padding=1)]], [channels]
        for level, width in enumerate(widths):
            for _ in range(config.num_res_blocks):
                block = [self._residual(channels, width, time)]
                if factor in config.attention_factors:
                    block.append(self._attention(width))
                blocks.append(block)
                skips.append(channels := width)
            if level < len(widths) - 1:
                blocks.append([self._resample(channels, time, "down")])
                skips.append(channels)
                factor *= 2
        return _lists(blocks), skips

    def _up(self, widths: list[int], skips: list[int], time: int) -> nn.ModuleList:
        config, channels = self.config, widths[-1]
        factor, skips, blocks = 2 ** (len(widths) - 1), list(skips), []
        for level, width in reversed(list(enumerate(widths))):
            for i in range(config.num_res_blocks + 1):
                block = [self._residual(channels + skips.pop(), width, time)]
                if factor in config.attention_factors:
                    block.append(self._attention(width, config.num_heads_upsample))
                if level and i == config.num_res_blocks:
                    block.append(self._resample(width, time, "up"))
                    factor //= 2
                blocks.append(block)
                channels = width
        return _lists(blocks)

    def _residual(self, width: int, out: int, time: int, resample: str | None = None) -> Residual:
        c = self.config
        return Residual(width, out, time, c.use_scale_shift_norm, c.dropout, resample)

    def _resample(self, width: int, time: int, direction: str) -> nn.Module:
        if self.config.resblock_updown:
            return self._residual(width, width, time, direction)
        return Downsample(width) if direction == "down" else Upsample(width)

    def _attention(self, width: int, heads: int = -1) -> Attention:
        c = self.config
        heads = c.num_heads if heads == -1 else heads
        if c.num_head_channels != -1:
            heads = width // c.num_head_channels
        if heads < 1 or width % heads:
            raise UserError(
                f"{width} channels cannot be divided into heads of {c.num_head_channels}"
            )
        return Attention(width, heads, not c.use_new_attention_order)

    def execute(self, x: jt.Var, t: np.ndarray, labels: np.ndarray | None = None) -> jt.Var:
        """Maps x (N, 3, H, W) at the times t (N,), with labels (N,) of classes, to (N, 3, H, W).

        With learn_sigma the output has 6 channels. Sides must be multiples of `config.multiple`. Raises UserError for other sides, and for labels where
        the network has no classes or the reverse.
        """
        c = self.config
        if any(side % c.multiple for side in x.shape[2:]):
            raise UserError(
                f"the UNet's input must have sides that are multiples of {c.multiple}, not {x.shape}"
            )
        if (self.num_classes is None) != (labels is None):
            raise UserError("class labels belong to a network with num_classes, and only to one")
        time = silu(self.embed(t, labels))
        skips = []
        for block in self.down:
            x = _run(block, x, time)
            skips.append(x)
        x = _run(self.middle, x, time)
        for block in self.up:
            x = _run(block, jt.concat([x, skips.pop()], 1), time)
        return conv(self.norm(x, silu=True), self.conv.weight, self.conv.bias)

    def embed(self, t: np.ndarray, labels: np.ndarray | None = None) -> jt.Var:
        """Embeds the times t (N,), and labels (N,) if any, to (N, 4 num_channels)."""
        first, _, second = self.time
        temb = jt.array(timestep_embedding(t, self.config.num_channels)).stop_grad()
        time = second(silu(first(temb)))
        return time if labels is None else time + self.labels(jt.array(labels))

    def convert_to_fp16(self) -> None:
        """Holds the weights of the convolutions of all blocks in half precision."""
        for block in (*self.down, self.middle, *self.up):
            for name, module in block.named_modules():
                is_convolution = isinstance(module, nn.Conv) or name.rsplit(".", 1)[-1] in (
                    "qkv",
                    "project",
                )
                for parameter in module.parameters() if is_convolution else ():
                    parameter.assign(parameter.float16())


class Residual(nn.Module):
    """Two 3x3 convolutions with the time embedding between them, and a skip connection; may resample."""

    def __init__(
        self,
        width: int,
        out: int,
        time: int,
        scale_shift: bool,
        dropout: float,
        resample: str | None,
    ):
        self.scale_shift, self.resample = scale_shift, resample
        self.norm1 = _GroupNorm(width)
        self.conv1 = nn.Conv(width, out, 3, padding=1)
        self.time = nn.Linear(time, 2 * out if scale_shift else out)
        self.norm2 = _GroupNorm(out)
        self.dropout = nn.Dropout(dropout) if dropout else None
        self.conv2 = _zero(nn.Conv(out, out, 3, padding=1))
        self.skip = nn.Conv(width, out, 1) if width != out else None

    def execute(self, x: jt.Var, time: jt.Var) -> jt.Var:
        """Maps x (N, width, H, W), with time (N, 4 num_channels) after SiLU, to (N, out, H', W')."""
        h = self.norm1(x, silu=True)
        if self.resample:
            h, x = (_resampled(v, self.resample) for v in (h, x))
        h = self.modulated(_conv(h, self.conv1), self.time(time))
        if self.dropout is not None:
            h = self.dropout(h)
        h = _conv(h, self.conv2)
        return h + (x if self.skip is None else _conv(x, self.skip))

    def modulated(self, h: jt.Var, time: jt.Var) -> jt.Var:
        """Normalizes h with the time's scale and shift, or after the time is added; then SiLU."""
        if not self.scale_shift:
            return self.norm2(h + time.unsqueeze(-1).unsqueeze(-1), silu=True)
        scale, shift = time.chunk(2, 1)
        weight, bias = self.norm2.weight * (1 + scale), self.norm2.bias * (1 + scale) + shift
        return group_norm(h, GROUPS, weight, bias, silu=True)


class Attention(nn.Module):
    """Self-attention between all pixels, with a skip connection; its projections are 1-D convolutions."""

    def __init__(self, width: int, heads: int, heads_first: bool):
        self.heads, self.heads_first = heads, heads_first
        self.norm = _GroupNorm(width)
        self.qkv = _Projection(width, 3 * width)
        self.project = _zero(_Projection(width, width))

    def execute(self, x: jt.Var, time: jt.Var) -> jt.Var:
        """Attends over x (N, width, H, W); the shape stays."""
        qkv = self.qkv(self.norm(x))
        return x + self.project(pixel_attention(qkv, self.heads, self.heads_first))


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2."""

    def __init__(self, width: int):
        self.conv = nn.Conv(width, width, 3, 2, 1)

    def execute(self, x: jt.Var, time: jt.Var) -> jt.Var:
        """(N, C, H, W) -> (N, C, H / 2, W / 2)."""
        return nn.conv2d(x, self.conv.weight.float32(), self.conv.bias.float32(), 2, 1)


class Upsample(nn.Module):
    """The nearest pixel at twice the size, then a 3x3 convolution."""

    def __init__(self, width: int):
        self.conv = nn.Conv(width, width, 3, padding=1)

    def execute(self, x: jt.Var, time: jt.Var) -> jt.Var:
        """(N, C, H, W) -> (N, C, 2H, 2W)."""
        return _conv(_resampled(x, "up"), self.conv)


class _GroupNorm(nn.Module):
    def __init__(self, width: int):
        self.weight, self.bias = jt.ones(width), jt.zeros(width)

    def execute(self, x: jt.Var, silu: bool = False) -> jt.Var:
        return group_norm(x, GROUPS, self.weight, self.bias, silu=silu)


class _Projection(nn.Module):
    def __init__(self, width: int, out: int):
        bound = width**-0.5
        self.weight = jt.init.uniform([out, width, 1], "float32", -bound, bound)
        self.bias = jt.init.uniform([out], "float32", -bound, bound)

    def execute(self, x: jt.Var) -> jt.Var:
        return conv1x1(x, self.weight.float32().unsqueeze(-1), self.bias.float32())


def _conv(x: jt.Var, layer: nn.Conv) -> jt.Var:
    operator = conv1x1 if layer.weight.shape[2] == 1 else conv
    return operator(x, layer.weight.float32(), layer.bias.float32())


def _resampled(x: jt.Var, direction: str) -> jt.Var:
    n, c, h, w = x.shape
    if direction == "up":
        return nearest(x, 2 * h, 2 * w)
    return x.reshape(n, c, h // 2, 2, w // 2, 2).mean(5).mean(3)


def _run(block: nn.ModuleList, x: jt.Var, time: jt.Var) -> jt.Var:
    for layer in block:
        x = _conv(x, layer) if isinstance(layer, nn.Conv) else layer(x, time)
    return x


def _zero(layer: nn.Module) -> nn.Module:
    """Sets the parameters of a layer to 0, so that an untrained block changes nothing."""
    for parameter in layer.parameters():
        parameter.assign(jt.zeros(parameter.shape))
    return layer


def _lists(blocks: list[list[nn.Module]]) -> nn.ModuleList:
    return nn.ModuleList([nn.ModuleList(block) for block in blocks])
