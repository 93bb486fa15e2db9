"""LFDT-Fusion: the system that the trainer, the tester and the command line use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from jfusion.checkpoint import NameMap
from jfusion.data.h5 import Pair
from jfusion.diffusion import solvers
from jfusion.diffusion.noise import TorchNoise
from jfusion.diffusion.process import Estimate
from jfusion.diffusion.samplers import Callback, ddim
from jfusion.diffusion.schedule import Schedule
from jfusion.errors import UserError
from jfusion.layers.losses import guided_fusion_losses
from jfusion.layers.norm import LayerNorm2d
from jfusion.layers.restormer import ChannelAttention
from jfusion.ops.activation import prelu, silu, tanh
from jfusion.ops.channel_attention import cosine_attention
from jfusion.ops.conv import conv, conv1x1, silu_conv
from jfusion.ops.depthwise import pixel_shuffle
from jfusion.ops.expand import expand_depthwise
from jfusion.ops.matmul import matmul
from jfusion.ops.norm import channel_layer_norm, leaky_batch_norm
from jfusion.ops.resize import bilinear, nearest, pad_to_multiple
from jfusion.ops.softmax import softmax
from jfusion.runtime import jt, mpi, nn
from jfusion.systems.base import Batch, ParameterGroup, Picture, Stage, System, cut
from jfusion.systems.lfdt.config import Config

SOLVERS = {  # and "DDIM", which has a table of its own
    "ddp-solver": (solvers.dpm_solver_pp_2s, solvers.whole_levels),
    "ddp-solver++": (solvers.dpm_solver_pp_2m, solvers.whole_levels),
    "Deis": (solvers.deis, solvers.whole_levels),
    "Unipc": (solvers.unipc, solvers.whole_levels),
    "Heun": (solvers.heun, solvers.fractional_levels),
    "Euler": (solvers.euler, solvers.fractional_levels),
    "LMS": (solvers.lms, solvers.fractional_levels),
    "PNDM": (solvers.pndm, solvers.pndm_levels),
}
IN_SIGMA = ("Heun", "Euler", "LMS")  # x is the clean latent plus sigma times the noise
LATENT = 8  # channels of one image's latent
HEAD_WIDTHS = (128, 64, 32, 16)
SEED = 0


# ---- the autoencoder ---------------------------------------------------------------------------


class ResBlock(nn.Module):
    """Two 3x3 convolutions, each with SiLU, and a skip."""

    def __init__(self, width: int, out: int):
        self.conv1 = nn.Conv(width, out, 3, padding=1, bias=False)
        self.conv2 = nn.Conv(out, out, 3, padding=1, bias=False)
        self.skip = nn.Conv(width, out, 1, bias=False) if width != out else None

    def execute(self, x: jt.Var) -> jt.Var:
        """(N, width, H, W) -> (N, out, H, W)."""
        u = silu(silu_conv(conv(x, self.conv1.weight), self.conv2.weight))
        return u + (x if self.skip is None else conv1x1(x, self.skip.weight))


class ScaleNorm(nn.Module):
    """LayerNorm over the channels of each pixel, with a scale and no shift."""

    def __init__(self, width: int):
        self.scale = jt.ones((1, width, 1, 1))

    def execute(self, x: jt.Var) -> jt.Var:
        scale = self.scale.reshape(-1)
        return channel_layer_norm(x, scale, jt.zeros_like(scale))


class LinearAttention(nn.Module):
    """Attention whose softmaxes are of q over channels and of k over pixels (Shen et al., 2021)."""

    HEADS, SIZE = 4, 32

    def __init__(self, width: int):
        inner = self.HEADS * self.SIZE
        self.norm = ScaleNorm(width)
        self.qkv = nn.Conv(width, 3 * inner, 1, bias=False)
        self.project = nn.Conv(inner, width, 1)
        self.norm_out = ScaleNorm(width)

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


class Down(nn.Module):
    """4x4 convolution of stride 2."""

    def __init__(self, width: int, out: int):
        self.conv = nn.Conv(width, out, 4, 2, 1)

    def execute(self, x: jt.Var) -> jt.Var:
        """(N, width, H, W) -> (N, out, H / 2, W / 2)."""
        return self.conv(x)


class Up(nn.Module):
    """Each pixel four times, then a 3x3 convolution."""

    def __init__(self, width: int, out: int):
        self.conv = nn.Conv(width, out, 3, padding=1)

    def execute(self, x: jt.Var) -> jt.Var:
        """(N, width, H, W) -> (N, out, 2H, 2W)."""
        x = nearest(x, 2 * x.shape[2], 2 * x.shape[3])
        return conv(x, self.conv.weight, self.conv.bias)


class Plain(nn.Module):
    """3x3 convolution that keeps the size."""

    def __init__(self, width: int, out: int):
        self.conv = nn.Conv(width, out, 3, padding=1, bias=False)

    def execute(self, x: jt.Var) -> jt.Var:
        """(N, width, H, W) -> (N, out, H, W)."""
        return conv(x, self.conv.weight)


class BatchNorm(nn.Module):
    """Over the batch in training, by the running statistics otherwise; then LeakyReLU."""

    def __init__(self, width: int):
        self.weight, self.bias = jt.ones(width), jt.zeros(width)
        self.running_mean, self.running_var = (
            v.stop_grad() for v in (jt.zeros(width), jt.ones(width))
        )

    def execute(self, x: jt.Var) -> jt.Var:
        """(N, C, H, W) -> the same shape."""
        if self.is_training():
            plain = x.detach()
            mean = mpi.mean(plain.mean(3).mean(2).mean(0))
            centred = plain - mean.reshape(1, -1, 1, 1)
            var = mpi.mean((centred * centred).mean(3).mean(2).mean(0))
            count = x.shape[0] * x.shape[2] * x.shape[3] * mpi.count()
            self._follow(mean, var * (count / max(1, count - 1)))
            return leaky_batch_norm(x, self.weight, self.bias, mean, var, mpi.mean)
        scale = self.weight / jt.sqrt(self.running_var + 1e-5)
        shift = self.bias - self.running_mean * scale
        y = x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)
        return nn.leaky_relu(y, 0.2)

    def _follow(self, mean: jt.Var, var: jt.Var) -> None:
        """In NumPy: what Jittor fuses into a sum moves its last bit, and a resumed run fuses otherwise."""
        for running, now in ((self.running_mean, mean), (self.running_var, var)):
            moved = np.float32(0.9) * running.numpy() + np.float32(0.1) * now.numpy()
            running.update(jt.array(moved).stop_grad())


class SkipFusion(nn.Module):
    """Both encoders' features of one place, merged."""

    def __init__(self, width: int):
        self.conv = nn.Conv(2 * width, width, 3, padding=1)
        self.norm = BatchNorm(width)

    def execute(self, first: jt.Var, second: jt.Var) -> jt.Var:
        """Two (N, width, H, W) -> the same shape."""
        x = conv(jt.concat([first, second], 1), self.conv.weight, self.conv.bias)
        return self.norm(x)


class Source(nn.Module):
    """One image's encoder."""

    def __init__(self, widths: tuple[int, ...]):
        self.first = nn.Conv(1, widths[0], 3, padding=1, bias=False)
        last = len(widths) - 2
        self.levels = nn.ModuleList()
        for i, (width, out) in enumerate(pairwise(widths)):
            middle = LinearAttention(width) if i == last else nn.Identity()
            change = Plain(width, out) if i == last else Down(width, out)
            self.levels.append(
                nn.ModuleList([ResBlock(width, width), ResBlock(width, width), middle, change])
            )
        self.latent = ResBlock(widths[-1], LATENT)

    def execute(self, x: jt.Var) -> tuple[jt.Var, list[jt.Var]]:
        """(N, 1, H, W) -> the latent (N, 8, H / 4, W / 4), and seven maps for the skips."""
        x = conv(x, self.first.weight)
        kept = [x]
        for first, second, middle, change in self.levels:
            kept.append(x := first(x))
            kept.append(x := middle(second(x)))
            x = change(x)
        return self.latent(x), kept


class Encoder(nn.Module):
    """Both encoders, and the merging of what the decoder skips to."""

    def __init__(self, width: int):
        widths = _widths(width)
        self.source1, self.source2 = Source(widths), Source(widths)
        # the authors' network has two more than three levels can use; their files hold them
        each = [width, *(w for w in (width, *widths[1:]) for _ in range(2))]
        self.skips = nn.ModuleList([SkipFusion(w) for w in each])

    def execute(self, a: jt.Var, b: jt.Var) -> tuple[jt.Var, list[jt.Var]]:
        """Two (N, 1, H, W) -> the latent (N, 16, H' / 4, W' / 4) and the skips; H' a multiple of 8."""
        a, b = (pad_to_multiple(x, 8, "reflect") for x in (a, b))
        (first, of_a), (second, of_b) = self.source1(a), self.source2(b)
        pairs = zip(of_a, of_b, strict=True)
        merged = [self.skips[k](x, y) for k, (x, y) in enumerate(pairs)]
        return jt.concat([first, second], 1), merged


class Decoder(nn.Module):
    """The fused latent and the skips -> the image."""

    def __init__(self, width: int):
        widths = _widths(width)
        self.first = ResBlock(LATENT, widths[-1])
        self.levels = nn.ModuleList()
        for i in reversed(range(len(widths) - 1)):
            now, out, top = widths[i + 1], widths[i], i == len(widths) - 2
            middle = LinearAttention(now) if top else nn.Identity()
            change = Up(now, out) if i else Plain(now, out)
            blocks = [ResBlock(now + out, now), ResBlock(now + out, now), middle, change]
            self.levels.append(nn.ModuleList(blocks))
        self.last = nn.Conv(width, 1, 3, padding=1)

    def execute(self, latent: jt.Var, skips: list[jt.Var]) -> jt.Var:
        """Latent (N, 8, H / 4, W / 4) -> (N, 1, H, W) in (-1, 1)."""
        return tanh(self.logits(latent, skips))

    def logits(self, latent: jt.Var, skips: list[jt.Var]) -> jt.Var:
        """What the tanh gets."""
        x, skips = self.first(latent), list(skips)
        for first, second, middle, change in self.levels:
            x = first(jt.concat([x, skips.pop()], 1))
            x = change(middle(second(jt.concat([x, skips.pop()], 1))))
        return conv(x + skips.pop(), self.last.weight, self.last.bias)


def _widths(width: int) -> tuple[int, ...]:
    return (width, width, 2 * width, 4 * width)


# ---- the denoiser ------------------------------------------------------------------------------


def time_embedding(t: np.ndarray, width: int) -> jt.Var:
    """Sines, then cosines of t (N,) -> (N, width). In NumPy: t reaches 999."""
    half = width // 2
    rates = np.exp(np.arange(half, dtype=np.float32) * np.float32(-np.log(10000) / (half - 1)))
    angles = np.asarray(t, np.float32)[:, None] * rates
    return jt.array(np.concatenate([np.sin(angles), np.cos(angles)], 1)).stop_grad()


class TransformerBlock(nn.Module):
    """Channel attention and a feed-forward, each after a norm that the time scales and shifts."""

    def __init__(self, width: int, heads: int, factor: float):
        hidden = int(width * factor)
        self.norm1, self.norm2 = LayerNorm2d(width), LayerNorm2d(width)
        self.attention = ChannelAttention(width, heads)
        self.expand = nn.Conv(width, hidden, 1, bias=False)
        self.project = nn.Conv(hidden, width, 1, bias=False)
        self.time = nn.Linear(width, 4 * width)

    def execute(self, x: jt.Var, t: np.ndarray) -> jt.Var:
        """X (N, width, H, W), t (1,) for all samples, or (N,) -> the same shape."""
        waves = silu(time_embedding(t, x.shape[1]))
        shift1, scale1, shift2, scale2 = self.time(silu(waves)).chunk(4, 1)
        x = x + self.attend(_modulated(x, self.norm1, shift1, scale1))
        return x + self.feed_forward(_modulated(x, self.norm2, shift2, scale2))

    def attend(self, x: jt.Var) -> jt.Var:
        """x, normalised and modulated."""
        own = self.attention
        qkv = expand_depthwise(x, own.qkv.weight, own.depthwise.weight)
        return conv1x1(cosine_attention(qkv, own.temperature), own.project.weight)

    def feed_forward(self, x: jt.Var) -> jt.Var:
        """1x1, GELU, 1x1."""
        return conv1x1(nn.gelu(conv1x1(x, self.expand.weight)), self.project.weight)


def _modulated(x: jt.Var, norm: LayerNorm2d, shift: jt.Var, scale: jt.Var) -> jt.Var:
    """norm(x) * (1 + scale) + shift; shift, scale (1 or N, C)."""
    if scale.shape[0] == 1:  # one time for all samples: into the norm's own weight and bias
        more = 1 + scale[0]
        return channel_layer_norm(x, norm.weight * more, norm.bias * more + shift[0])
    return norm(x) * (1 + scale).unsqueeze(-1).unsqueeze(-1) + shift.unsqueeze(-1).unsqueeze(-1)


class Denoiser(nn.Module):
    """The diffusion transformer: a UNet of channel-attention blocks on the latent."""

    WIDTH, HEADS = 32, (1, 2, 4, 8)

    def __init__(self, blocks: tuple[int, ...], factor: float):
        w = [self.WIDTH * 2**i for i in range(4)]

        def stage(width: int, heads: int, count: int) -> nn.ModuleList:
            return nn.ModuleList([TransformerBlock(width, heads, factor) for _ in range(count)])

        levels = range(3)
        self.patch = nn.Conv(2 * LATENT, w[0], 3, padding=1, bias=False)
        self.encoders = nn.ModuleList([stage(w[i], self.HEADS[i], blocks[i]) for i in levels])
        self.downs = nn.ModuleList([nn.Conv(w[i], w[i + 1], 2, 2) for i in levels])
        self.latent = stage(w[3], self.HEADS[3], blocks[0])  # (sic) of the first level's depth
        self.ups = nn.ModuleList([nn.Conv(w[i + 1], 4 * w[i], 1, bias=False) for i in levels][::-1])
        deep = [stage(w[i], self.HEADS[i], blocks[i]) for i in levels]
        self.decoders = nn.ModuleList(deep[::-1])
        self.ending = nn.Conv(w[0], 2 * LATENT, 1)

    def execute(self, x: jt.Var, t: np.ndarray) -> tuple[jt.Var, list[jt.Var]]:
        """X (N, 16, H, W), 8 or more a side, t (1,) or (N,) -> the noise, four maps coarse to fine."""
        x, kept = conv(x, self.patch.weight), []
        for blocks, down in zip(self.encoders, self.downs, strict=True):
            for block in blocks:
                x = block(x, t)
            kept.append(x)
            x = down(x)
        for block in self.latent:
            x = block(x, t)
        taps = [x]
        for up, blocks in zip(self.ups, self.decoders, strict=True):
            skip = kept.pop()
            x = pixel_shuffle(conv1x1(x, up.weight))
            x = bilinear(x, *skip.shape[2:]) + skip
            for block in blocks:
                x = block(x, t)
            taps.append(x)
        return conv1x1(x, self.ending.weight, self.ending.bias), taps


# ---- the fusion head ---------------------------------------------------------------------------


class CrossAttention(nn.Module):
    """Linear attention of each half of the channels to the other; cosines plus one as weights."""

    def __init__(self, width: int, heads: int):
        self.width, self.heads = width, heads
        for i in (1, 2):
            wide = 3 * width
            setattr(self, f"temperature{i}", jt.ones((heads, 1, 1)))
            setattr(self, f"qkv{i}", nn.Conv(width, wide, 1, bias=False))
            setattr(
                self, f"depthwise{i}", nn.Conv(wide, wide, 3, padding=1, groups=wide, bias=False)
            )
            setattr(self, f"project{i}", nn.Conv(width, width, 1, bias=False))

    def execute(self, x: jt.Var) -> jt.Var:
        """(N, 2 width, H, W) -> the same shape."""
        n, _, h, w = x.shape
        sides = []
        for half, i in zip(x.chunk(2, 1), (1, 2), strict=True):
            weights = (getattr(self, f"{name}{i}").weight for name in ("qkv", "depthwise"))
            qkv = expand_depthwise(half, *weights)
            qkv = qkv.reshape(n, 3, self.heads, self.width // self.heads, h * w).transpose(
                1, 0, 2, 3, 4
            )
            sides.append((_unit(qkv[0]), _unit(qkv[1]), qkv[2]))
        out = []
        for i, ((q, _, _), (_, k, v)) in enumerate(zip(sides, sides[::-1], strict=True), 1):
            total = v.sum(-1, keepdims=True)
            above = total + matmul(matmul(v, k, tb=True), q)
            below = h * w + (k.sum(-1, keepdims=True) * q).sum(2, keepdims=True) + 1e-6
            made = (above / below * getattr(self, f"temperature{i}")).reshape(n, self.width, h, w)
            out.append(conv1x1(made, getattr(self, f"project{i}").weight))
        return jt.concat(out, 1)


def _unit(x: jt.Var) -> jt.Var:
    """Each pixel's vector of a head over its length."""
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
        return x + conv1x1(hidden, self.project.weight)


class SelectiveFusion(nn.Module):
    """SKFF (Zamir et al., 2020): a softmax per channel between two maps."""

    def __init__(self, width: int):
        small = max(width // 8, 4)
        self.squeeze = nn.Conv(width, small, 1, bias=False)
        self.slope = jt.full((1,), 0.25)
        self.excite = nn.ModuleList([nn.Conv(small, width, 1, bias=False) for _ in range(2)])

    def execute(self, a: jt.Var, b: jt.Var) -> jt.Var:
        """Two (N, width, H, W) -> the same shape."""
        mean = (a + b).mean(3, keepdims=True).mean(2, keepdims=True)
        z = prelu(conv1x1(mean, self.squeeze.weight), self.slope)
        first, second = (conv1x1(z, m.weight) for m in self.excite)
        share = jt.sigmoid(first - second)  # the softmax of two
        return a * share + b * (1 - share)


class FusionHead(nn.Module):
    """The denoiser's features and the clean latent -> the fused latent in (0, 1)."""

    def __init__(self):
        heads = (8, 4, 2, 1)
        pairs = list(zip(HEAD_WIDTHS, heads, strict=True))
        self.blocks = nn.ModuleList(
            [nn.ModuleList([HeadBlock(*p) for _ in range(2)]) for p in pairs]
        )
        self.merges = nn.ModuleList([SelectiveFusion(w) for w in HEAD_WIDTHS])
        self.merge_latent = SelectiveFusion(LATENT)
        self.ending = nn.Conv(HEAD_WIDTHS[-1] + LATENT, LATENT, 3, padding=1)

    def execute(self, taps: list[jt.Var], latent: jt.Var) -> jt.Var:
        """Taps (N, 256 .. 32, ...), latent (N, 16, H, W) -> (N, 8, H, W)."""
        return tanh(self.logits(taps, latent)) / 2 + 0.5

    def logits(self, taps: list[jt.Var], latent: jt.Var) -> jt.Var:
        """What the tanh gets."""
        x = None
        for tap, blocks, merge in zip(taps, self.blocks, self.merges, strict=True):
            if x is not None:
                h, w = x.shape[2:]
                tap = tap + bilinear(bilinear(x, 2 * h, 2 * w, align_corners=True), *tap.shape[2:])
            for block in blocks:
                tap = block(tap)
            x = merge(*tap.chunk(2, 1))
        merged = self.merge_latent(*latent.chunk(2, 1))
        return conv(jt.concat([x, merged], 1), self.ending.weight, self.ending.bias)


# ---- the system --------------------------------------------------------------------------------


def _official() -> dict[str, str]:
    res = {
        "block1.proj.weight": "conv1.weight",
        "block2.proj.weight": "conv2.weight",
        "res_conv.weight": "skip.weight",
    }
    attention = {
        "fn.norm.g": "norm.scale",
        "fn.fn.to_qkv.weight": "qkv.weight",
        "fn.fn.to_out.0.{p}": "project.{p}",
        "fn.fn.to_out.1.g": "norm_out.scale",
    }
    names = {}
    for s in (1, 2):
        names[f"LDM_Enc.init_conv{s}.weight"] = f"encoder.source{s}.first.weight"
        at = f"LDM_Enc.encoder{s}.{{i}}", f"encoder.source{s}.levels.{{i}}"
        names |= {
            f"{at[0]}.{{b}}.{o}": f"{at[1]}.{{b}}.{u}" for o, u in {**res, **attention}.items()
        }
        names[f"{at[0]}.3.{{p}}"] = f"{at[1]}.3.conv.{{p}}"
        names |= {
            f"LDM_Enc.latent_conv{s}.{o}": f"encoder.source{s}.latent.{u}" for o, u in res.items()
        }
    names["LDM_Enc.conv_fuse.{k}.0.{p}"] = "encoder.skips.{k}.conv.{p}"
    names["LDM_Enc.conv_fuse.{k}.1.{p}"] = "encoder.skips.{k}.norm.{p}"
    at = "LDM_Dec.decoder.{j}", "decoder.levels.{j}"
    names |= {f"{at[0]}.{{b}}.{o}": f"{at[1]}.{{b}}.{u}" for o, u in {**res, **attention}.items()}
    names["LDM_Dec.decoder.2.3.{p}"] = "decoder.levels.2.3.conv.{p}"  # without the resize before it
    names[f"{at[0]}.3.1.{{p}}"] = f"{at[1]}.3.conv.{{p}}"
    names |= {f"LDM_Dec.post_latent_conv.{o}": f"decoder.first.{u}" for o, u in res.items()}
    names["LDM_Dec.final_conv.{p}"] = "decoder.last.{p}"
    return names | _official_latent()


def _official_latent() -> dict[str, str]:
    block = {
        "norm{n}.body.{p}": "norm{n}.{p}",
        "attn.temperature": "attention.temperature",
        "attn.qkv.weight": "attention.qkv.weight",
        "attn.qkv_dwconv.weight": "attention.depthwise.weight",
        "attn.project_out.weight": "attention.project.weight",
        "ffn.project_in.weight": "expand.weight",
        "ffn.project_out.weight": "project.weight",
        "MLP_modulation.1.{p}": "time.{p}",
    }
    head = {
        "norm{n}.body.{p}": "norm{n}.{p}",
        "attn.temperature{s}": "attention.temperature{s}",
        "attn.qkv_dwconv{s}.weight": "attention.depthwise{s}.weight",
        "attn.qkv{s}.weight": "attention.qkv{s}.weight",
        "attn.project_out{s}.weight": "attention.project{s}.weight",
        "ffn.project_in.weight": "expand.weight",
        "ffn.project_out.weight": "project.weight",
    }
    merge = {
        "conv_du.0.weight": "squeeze.weight",
        "conv_du.1.weight": "slope",
        "fcs.{f}.weight": "excite.{f}.weight",
    }
    return {
        "model.patch_embed.proj.weight": "denoiser.patch.weight",
        **{
            f"model.encoders.{{i}}.{{b}}.{o}": f"denoiser.encoders.{{i}}.{{b}}.{u}"
            for o, u in block.items()
        },
        **{
            f"model.decoders.{{i}}.{{b}}.{o}": f"denoiser.decoders.{{i}}.{{b}}.{u}"
            for o, u in block.items()
        },
        **{f"model.latent.{{b}}.{o}": f"denoiser.latent.{{b}}.{u}" for o, u in block.items()},
        "model.downs.{i}.{p}": "denoiser.downs.{i}.{p}",
        "model.ups.{i}.0.weight": "denoiser.ups.{i}.weight",
        "model.ending.{p}": "denoiser.ending.{p}",
        **{
            f"fusion.decoders.{{i}}.{{b}}.{o}": f"head.blocks.{{i}}.{{b}}.{u}"
            for o, u in head.items()
        },
        **{f"fusion.aggregate.{{i}}.0.{o}": f"head.merges.{{i}}.{u}" for o, u in merge.items()},
        **{f"fusion.last_fuse.{o}": f"head.merge_latent.{u}" for o, u in merge.items()},
        "fusion.ending.conv.{p}": "head.ending.{p}",
    }


class LFDT(System):
    """The four networks, the sampler between them, and the losses."""

    NAME = "lfdt"
    Config = Config
    OFFICIAL = NameMap(_official())
    DEAD: ClassVar[tuple[str, ...]] = ("fusion_loss.",)
    WARM: ClassVar[dict[str, Any]] = {"width": 16, "blocks": (1, 1, 1, 1), "inference_steps": 2}
    KEEP_REST = True
    CROP = (256, 256)
    AUGMENT = True

    def __init__(self, config: Config):
        super().__init__(config)
        self.encoder, self.decoder = Encoder(config.width), Decoder(config.width)
        self.denoiser, self.head = Denoiser(config.blocks, config.factor), FusionHead()
        for module in (*self.denoiser.modules(), *self.head.modules()):
            if isinstance(module, nn.Conv | nn.Linear):
                module.weight.assign(jt.randn(module.weight.shape) * 0.02)
                if module.bias is not None:
                    module.bias.assign(jt.zeros(module.bias.shape))

    @classmethod
    def settings_of(cls, model: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """MEF's transformer is narrower."""
        names = ("model.latent.0.ffn.project_in.weight", "denoiser.latent.0.expand.weight")
        hidden = next((model[name] for name in names if name in model), None)
        return {} if hidden is None else {"ffn_factor": 2.66 if hidden.shape[0] == 680 else 4.0}

    # ---- the way through

    def execute(
        self,
        a: jt.Var,
        b: jt.Var,
        text: jt.Var | None = None,
        *,
        noise: jt.Var | None = None,
        level: np.ndarray | None = None,
        callback: Callback | None = None,
    ) -> jt.Var:
        """a, b (N, 1, H, W) in [-1, 1], the authors' order -> (N, 1, H', W'), multiples of 8."""
        return self.forward(a, b, noise, level, callback)["fused"]

    def forward(
        self,
        a: jt.Var,
        b: jt.Var,
        noise: jt.Var | None = None,
        level: np.ndarray | None = None,
        callback: Callback | None = None,
    ) -> dict[str, Any]:
        """The fused image, and what is on the way: latent, noised, predicted, taps, fused_latent.

        noise: of the latent's shape (default: drawn). level: the step that DDIM starts from (N,).
        """
        latent, skips = self.encoder(a, b)
        noise = mpi.randn(latent.shape) if noise is None else noise
        found = self.denoise(latent, noise, level, callback)
        fused_latent = self.head(found["taps"], found["clean"])
        fused = self.decoder(fused_latent, skips)
        return {
            "latent": latent,
            "noise": noise,
            **found,
            "fused_latent": fused_latent,
            "fused": fused,
        }

    def denoise(
        self,
        latent: jt.Var,
        noise: jt.Var,
        level: np.ndarray | None = None,
        callback: Callback | None = None,
    ) -> dict[str, Any]:
        """Noises the latent and samples it clean; the loop starts one step before its noise (sic)."""
        seen: dict[str, Any] = {}
        if self.config.sampler == "DDIM":
            return self._ddim(latent, noise, level, callback, seen)
        c = self.config
        solve, levels_of = SOLVERS[c.sampler]
        levels = levels_of(self._table(), c.inference_steps)
        alpha, s = levels.alpha[c.noise_index], levels.s[c.noise_index]
        extra: dict[str, Any] = {"rescale": c.deis_rescale} if c.sampler == "Deis" else {}
        if c.sampler in IN_SIGMA:
            alpha, s = 1.0, levels.sigmas[c.noise_index]
            extra = {"replace": c.keep_scaled_state}
        x = float(alpha) * latent + float(s) * noise
        model = self._model(levels.times, levels.alpha, levels.s, seen)
        return {"noised": x, "clean": solve(model, x, levels, callback=callback, **extra), **seen}

    def _model(
        self, times: np.ndarray, alpha: np.ndarray, s: np.ndarray, seen: dict[str, Any]
    ) -> Callable[[jt.Var, int], Estimate]:
        """The denoiser as the samplers want it; the last call's noise and features stay in `seen`."""

        def model(x: jt.Var, k: int) -> Estimate:
            e, taps = self.denoiser(x, times[k : k + 1])
            seen.update(predicted=e, taps=taps)
            return Estimate((x - float(s[k]) * e) / float(alpha[k]), None, None)

        return model

    def _ddim(
        self,
        latent: jt.Var,
        noise: jt.Var,
        level: np.ndarray | None,
        callback: Callback | None,
        seen: dict[str, Any],
    ) -> dict[str, Any]:
        full, count = self._table(), self.config.inference_steps
        if level is None:
            level = (jt.rand(latent.shape[0]).numpy() * len(full)).astype(int)
        abar = full.abar[level].astype(np.float32).reshape(-1, 1, 1, 1)
        x = jt.array(np.sqrt(abar)) * latent + jt.array(np.sqrt(1 - abar)) * noise
        taken = np.arange(count) * (len(full) // count)
        short = full.shortened_to(taken)
        model = self._model(taken, np.sqrt(short.abar), np.sqrt(1 - short.abar), seen)
        clean = ddim(model, x, short, noise=None, callback=callback)
        return {"noised": x, "clean": clean, **seen}

    def _table(self) -> Schedule:
        low, high = (8.5e-4, 0.012) if self.config.sampler == "Heun" else (1e-4, 0.02)
        count = self.config.train_timesteps
        betas = np.linspace(low, high, count, dtype=np.float32).astype(float)
        return Schedule(betas, np.arange(count))

    def fuse(
        self,
        a: jt.Var,
        b: jt.Var,
        text: jt.Var | None = None,
        *,
        seed: int | None = None,
        callback: Callback | None = None,
    ) -> jt.Var:
        """The fused image from [-1, 1] to [0, 1]; `picture` writes it as the reference does."""
        h, w = a.shape[2:]
        if min(h, w) < 25:
            raise UserError(f"lfdt takes images of 25 pixels or more a side, not {h}x{w}")
        down = [-(-n // 8) * 2 for n in (h, w)]
        noise = TorchNoise(SEED if seed is None else seed).normal((a.shape[0], 2 * LATENT, *down))
        level = np.full(a.shape[0], self.config.train_timesteps - 1)
        inputs = self._ordered(a, b)
        fused = self(*inputs, noise=jt.array(noise), level=level, callback=callback)
        return (jt.clamp(fused[:, :, :h, :w], -1, 1) + 1) / 2

    def _ordered(self, a: jt.Var, b: jt.Var) -> list[jt.Var]:
        """a, b in [0, 1] -> what the first and the second encoder get, in [-1, 1]."""
        return [2 * x - 1 for x in ((a, b) if self.config.order == "ab" else (b, a))]

    def planes(self, pair: Pair, training: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """The lumas, not rounded; in tests the red of a where a is not in colour by its nature."""
        a, b = (_luma(*x) for x in ((pair.a, pair.rgb_a), (pair.b, pair.rgb_b)))
        if pair.rgb_a is not None and not training and self.config.kind not in ("MEF", "MFF"):
            a = (pair.rgb_a[None, ..., 0] / 255).astype(np.float32)
        return a, b

    def picture(self, fused: np.ndarray, pair: Pair) -> Picture:
        """Written as the reference does; its pictures of MEF and MFF are the gray ones."""
        y, chroma = 2 * fused - 1, _chroma(pair)
        gray = self._written(y)
        shown = gray if chroma is None else self._written(np.moveaxis(with_chroma(y, chroma), 0, 2))
        return Picture(gray[0], gray[0] if chroma is None else shown)

    def _written(self, x: np.ndarray) -> np.ndarray:
        """[-1, 1] -> uint8: above the darkest value of the whole image, the fraction cut off."""
        x = np.clip(x, -1, 1)
        if self.config.save == "linear":
            return np.round((x + 1) / 2 * 255).astype(np.uint8)
        return cut((x - x.min()) / 2)

    # ---- training

    def stages(self) -> list[Stage]:
        return [Stage("training", self.config.epochs)]

    def parameter_groups(self, stage: Stage) -> list[ParameterGroup]:
        """All but the running statistics and the skips that three levels do not reach."""
        c = self.config
        dead = ("encoder.skips.7.", "encoder.skips.8.")
        parameters = {
            name: p
            for name, p in self.state_dict().items()
            if "running_" not in name and not name.startswith(dead)
        }

        def rate(step: int, per_epoch: int) -> float:
            # the first step of the schedule is left out, and the second too for batches of one
            skipped = 2 if c.batch_size == 1 else 1
            return restarting_cosine(c.learning_rate, max(0, step - skipped), per_epoch)

        return [
            ParameterGroup(
                "networks",
                parameters,
                None,
                weight_decay=c.weight_decay,
                decoupled=True,
                step_rate=rate,
            )
        ]

    def losses(self, batch: Batch, stage: Stage) -> dict[str, jt.Var]:
        """Structure, gradient and intensity of the image, and the noise of the last call."""
        return self.losses_of(*self._ordered(batch.a, batch.b))

    def losses_of(self, a: jt.Var, b: jt.Var, **given: Any) -> dict[str, jt.Var]:
        """a, b (N, 1, H, W) in [-1, 1], sides multiples of 8, in the authors' order."""
        if any(n % 8 for n in a.shape[2:]):
            raise UserError(
                f"lfdt is trained on crops of multiples of 8, not {a.shape[2:]}: --crop 256 256"
            )
        found = self.forward(a, b, **given)
        parts = self.image_losses(a, b, found["fused"])
        goal = found["noise"] if self.config.dif_target == "noise" else found["noised"]
        parts["dif"] = ((found["predicted"] - goal) ** 2).mean(3).mean()
        return {"total": sum(parts.values()), **parts}

    def image_losses(self, a: jt.Var, b: jt.Var, fused: jt.Var) -> dict[str, jt.Var]:
        """Weighted: ssim, gradient, intensity."""
        c = self.config
        goal = jt.maximum(a, b) if c.goal == "MAX" else (a + b) / 2
        weight = 20 if c.kind in ("MEF", "MFF") else 40
        return guided_fusion_losses(a, b, fused, goal, (10, weight, weight), mpi.mean)


def restarting_cosine(start: float, steps: int, per_epoch: int) -> float:
    """The rate after so many steps of a run of 60 epochs: constant, then three falls.

    Periods of 15, 15, 15 and 16 epochs that restart at weights 1, 1, 0.5 and 0.5 of the start.
    """
    ends = [end * per_epoch for end in (15, 30, 45, 61)]
    lows, weights = (start, 1e-5, 1e-5, 1e-5), (1, 1, 0.5, 0.5)
    i = next((i for i, end in enumerate(ends) if steps <= end), len(ends) - 1)
    begin = ends[i - 1] if i else 0
    turn = np.cos(np.pi * (steps - begin) / (ends[i] - begin))
    return float(lows[i] + weights[i] * 0.5 * (start - lows[i]) * (1 + turn))


# ---- colour, on [-1, 1], where the chroma of gray is 0.5 ---------------------------------------


def to_ycrcb(rgb: np.ndarray) -> np.ndarray:
    """(..., 3, H, W) in [-1, 1] -> Y, Cr, Cb of the same shape."""
    r, g, b = (rgb[..., i, :, :] for i in range(3))
    y = np.float32(0.299) * r + np.float32(0.587) * g + np.float32(0.114) * b
    cr, cb = np.float32(0.713) * (r - y), np.float32(0.564) * (b - y)
    return np.stack([y, cr + np.float32(0.5), cb + np.float32(0.5)], -3)


def with_chroma(y: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    """Y (..., 1, H, W) and its Cr, Cb (..., 2, H, W) -> RGB (..., 3, H, W)."""
    y = y[..., 0, :, :]
    cr, cb = (chroma[..., i, :, :] - np.float32(0.5) for i in range(2))
    g = y - np.float32(0.714) * cr - np.float32(0.344) * cb
    return np.stack([y + np.float32(1.403) * cr, g, y + np.float32(1.773) * cb], -3)


def _luma(gray: np.ndarray, rgb: np.ndarray | None) -> np.ndarray:
    """(1, H, W) in [0, 1], from the colours where there are some."""
    if rgb is None:
        return gray
    return (to_ycrcb(_centred(rgb))[:1] + 1) / 2


def _chroma(pair: Pair) -> np.ndarray | None:
    """What the fused image gets, (2, H, W): of one source exactly, of both from 8 bits."""
    source = {"a": pair.rgb_a, "b": pair.rgb_b}.get(pair.rule)
    if source is not None:
        return to_ycrcb(_centred(source))[1:]
    both = pair.chroma
    return None if both is None else (both.astype(np.float32) - 128) / 127.5 + np.float32(0.5)


def _centred(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (3, H, W) float32 in [-1, 1]."""
    return np.moveaxis(rgb, 2, 0).astype(np.float32) / 255 * 2 - 1
