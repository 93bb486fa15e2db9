"""SFDFuse: the system that the trainer, the tester and the command line use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jfusion.checkpoint import NameMap
from jfusion.layers.decomposition import OFFICIAL_BASE, BaseExtractor, DetailExtractor
from jfusion.layers.losses import halved_ssim_loss
from jfusion.layers.norm import LayerNorm2d
from jfusion.layers.restormer import ChannelAttention
from jfusion.ops.activation import add_scaled, relu6, squared_relu, star_relu
from jfusion.ops.channel_attention import swapped_query_cosine_attention
from jfusion.ops.conv import conv, conv1x1, depthwise3x3
from jfusion.ops.depthwise import depthwise, pixel_shuffle, pixel_unshuffle, shuffled_gate
from jfusion.ops.expand import expand_depthwise
from jfusion.ops.matmul import matmul
from jfusion.ops.resize import bilinear, pad
from jfusion.runtime import jt, nn
from jfusion.systems.base import Batch, Stage, cut
from jfusion.systems.cddfuse.system import WIDTH, CDDFuse, sum_of_halves
from jfusion.systems.sfdfuse.config import Config

# ---- pieces ------------------------------------------------------------------------------------


def drop_path(x: jt.Var, rate: float) -> jt.Var:
    """Leaves a sample out with probability `rate`, and scales the others up."""
    kept = (jt.rand(x.shape[0], 1, 1, 1) >= rate).float32()
    return x * (kept / (1 - rate))


def even(x: jt.Var) -> jt.Var:
    """Without the last row or column of an odd size."""
    h, w = x.shape[2:]
    return x[:, :, : h // 2 * 2, : w // 2 * 2] if h % 2 or w % 2 else x


class ShuffleGate(nn.Module):
    """1x1 to twice the hidden width, pixel shuffle, depthwise 7x7 of one half times GELU of the other, back."""

    def __init__(self, hidden: int = 2 * WIDTH):
        width = hidden // 4
        self.expand = nn.Conv(WIDTH, 2 * hidden, 1, bias=False)
        self.depthwise = nn.Conv(width, width, 7, groups=width, bias=False)
        self.project = nn.Conv(hidden, WIDTH, 1, bias=False)

    def execute(self, x: jt.Var) -> jt.Var:
        """X (N, 64, H, W) -> the same shape."""
        a, b = (conv1x1(x, half) for half in self.expand.weight.chunk(2, 0))
        return conv1x1(self.gate(a, b), self.project.weight)

    def gate(self, a: jt.Var, b: jt.Var) -> jt.Var:
        """Both halves, not shuffled (N, hidden, H, W) -> the same shape."""
        return shuffled_gate(a, b, self.depthwise.weight, "gelu")


class DualShuffleGate(ShuffleGate):
    """The same with a depthwise 5x5, and mish of a dilated depthwise 3x3, in the place of the gate."""

    def __init__(self):
        super().__init__()
        del self.depthwise
        half = WIDTH // 2
        self.depthwise5 = nn.Conv(half, half, 5, groups=half, bias=False)
        self.dilated = nn.Conv(half, half, 3, groups=half, bias=False)

    def gate(self, a: jt.Var, b: jt.Var) -> jt.Var:
        """A dilation of two pixels of the shuffled image is one pixel of each of its four phases."""
        kernel = self.dilated.weight.reshape(-1, 1, 9).broadcast((WIDTH // 2, 4, 9))
        b = depthwise3x3(b, kernel.reshape(2 * WIDTH, 1, 3, 3))
        return shuffled_gate(a, b, self.depthwise5.weight, "mish")


class TransformerBlock(nn.Module):
    """Restormer's attention, and the pixel-shuffle gate as its feed-forward."""

    def __init__(self):
        self.norm1 = LayerNorm2d(WIDTH)
        self.attention = ChannelAttention(WIDTH, 8)
        self.norm2 = LayerNorm2d(WIDTH)
        self.feed_forward = ShuffleGate()

    def execute(self, x: jt.Var, drop: float) -> jt.Var:
        x = x + self.attention(x, self.norm1)
        return x + self.feed_forward(self.norm2(x))


class ConvFormerBlock(nn.Module):
    """MetaFormer (Yu et al., 2022) with a separable convolution; each branch scaled per channel."""

    def __init__(self, first_upload: bool):
        self.scale1, self.scale2 = jt.full((WIDTH,), 1e-5), jt.full((WIDTH,), 1e-5)
        self.norm1 = LayerNorm2d(WIDTH)
        self.mixer = SeparableMixer()
        self.norm2 = LayerNorm2d(WIDTH)
        if first_upload:
            self.gate = DualShuffleGate()
        else:
            self.mlp = SquaredMlp()

    def execute(self, x: jt.Var, drop: float) -> jt.Var:
        for scale, branch, norm in (
            (self.scale1, self.mixer, self.norm1),
            (self.scale2, self.mlp if hasattr(self, "mlp") else self.gate, self.norm2),
        ):
            out = branch(norm(x))
            x = add_scaled(x, drop_path(out, drop) if drop else out, scale)
        return x


class SeparableMixer(nn.Module):
    """1x1, StarReLU, depthwise 7x7, 1x1, plus the input."""

    def __init__(self):
        self.expand = nn.Conv(WIDTH, 2 * WIDTH, 1, bias=False)
        self.star_scale, self.star_bias = jt.ones(1), jt.zeros(1)
        self.depthwise = nn.Conv(2 * WIDTH, 2 * WIDTH, 7, groups=2 * WIDTH, bias=False)
        self.project = nn.Conv(2 * WIDTH, WIDTH, 1, bias=False)

    def execute(self, x: jt.Var) -> jt.Var:
        hidden = star_relu(conv1x1(x, self.expand.weight), self.star_scale, self.star_bias)
        return conv1x1(depthwise(hidden, self.depthwise.weight), self.project.weight) + x


class SquaredMlp(nn.Module):
    """1x1, relu^2, LayerNorm, 1x1."""

    def __init__(self):
        self.expand = nn.Conv(WIDTH, 4 * WIDTH, 1, bias=False)
        self.norm = LayerNorm2d(4 * WIDTH)
        self.project = nn.Conv(4 * WIDTH, WIDTH, 1, bias=False)

    def execute(self, x: jt.Var) -> jt.Var:
        hidden = self.norm(squared_relu(conv1x1(x, self.expand.weight)))
        return conv1x1(hidden, self.project.weight)


class DifferenceConv(nn.Module):
    """DEConv (Chen et al., 2024): five 3x3 convolutions, four of them of differences, as their sum."""

    def __init__(self):
        for name, size in (
            ("central", 2),
            ("angular", 2),
            ("plain", 2),
            ("across", 1),
            ("down", 1),
        ):
            bound = (WIDTH * 3**size) ** -0.5
            for p, shape in (("weight", [WIDTH, WIDTH] + [3] * size), ("bias", [WIDTH])):
                setattr(self, f"{name}_{p}", jt.init.uniform(shape, "float32", -bound, bound))

    def execute(self, x: jt.Var) -> jt.Var:
        """X (N, 64, H, W) -> the same shape."""
        central, across, down, angular, plain = self.kernels()
        return conv(x, plain + angular + down + across + central, self.bias())

    def kernels(self) -> tuple[jt.Var, ...]:
        """Central, horizontal, vertical and angular differences, and the plain kernel."""
        w = self.central_weight
        centre = jt.array(np.float32([[0, 0, 0], [0, 1, 0], [0, 0, 0]])).stop_grad()
        central = w - w.sum(3, keepdims=True).sum(2, keepdims=True) * centre
        turned = self.angular_weight.reshape(WIDTH, WIDTH, 9)
        angular = turned - turned[:, :, [3, 0, 1, 6, 4, 2, 7, 8, 5]]
        sides = jt.array(np.float32([1, 0, -1])).stop_grad()
        across = self.across_weight.unsqueeze(3) * sides
        down = self.down_weight.unsqueeze(2) * sides.reshape(3, 1)
        return central, across, down, angular.reshape(w.shape), self.plain_weight

    def bias(self) -> jt.Var:
        """The sum of the five."""
        return (
            self.central_bias
            + self.across_bias
            + self.down_bias
            + self.angular_bias
            + self.plain_bias
        )


class DifferenceBottleneck(nn.Module):
    """CDDFuse's bottleneck with a difference convolution in its middle."""

    def __init__(self, width: int):
        self.expand = nn.Conv(width, 2 * width, 1, bias=False)
        self.middle = DifferenceConv()
        self.project = nn.Conv(2 * width, width, 1, bias=False)

    def execute(self, x: jt.Var) -> jt.Var:
        hidden = relu6(self.middle(relu6(conv1x1(x, self.expand.weight))))
        return conv1x1(hidden, self.project.weight)


class Interaction(nn.Module):
    """Two feature maps to one by attention across them; the order of the two does not matter."""

    def __init__(self, feed_forward: type[nn.Module]):
        self.norm1 = LayerNorm2d(WIDTH)
        self.attention = ChannelAttention(WIDTH, 8)
        self.norm2 = LayerNorm2d(WIDTH)
        self.feed_forward = feed_forward()

    def execute(self, both: jt.Var) -> jt.Var:
        """Two maps, one behind the other in the batch (2N, 64, H, W) -> (N, 64, H, W)."""
        merged = self.across(self.norm1(both))
        return merged + self.feed_forward(self.norm2(merged))

    def across(self, both: jt.Var) -> jt.Var:
        """The attention of normalised maps, with queries of the other, and the sum of the two."""
        own = self.attention
        qkv = expand_depthwise(both, own.qkv.weight, own.depthwise.weight)
        out = sum_of_halves(swapped_query_cosine_attention(qkv, own.temperature))
        return conv1x1(out, own.project.weight) + sum_of_halves(both)


class Wavelet(nn.Module):
    """One level of the Haar transform; its filters are constants that the checkpoints carry."""

    def __init__(self):
        signs = np.float32(
            [[[1, 1], [1, 1]], [[1, 1], [-1, -1]], [[1, -1], [1, -1]], [[1, -1], [-1, 1]]]
        )
        filters = np.tile(signs[:, None] / 2, (WIDTH, 1, 1, 1))
        self.analysis, self.synthesis = jt.array(filters), jt.array(filters)

    def bands(self) -> tuple[jt.Var, jt.Var]:
        """Matrices from the pixels of a 2x2 block (4 to a channel) to ll, and to lh, hl and hh."""
        filters = self.analysis.detach().reshape(WIDTH, 4, 4).transpose(1, 0, 2)
        own = jt.array(np.eye(WIDTH, dtype=np.float32)).reshape(1, WIDTH, WIDTH, 1)
        matrix = (own * filters.unsqueeze(2)).reshape(4, WIDTH, 4 * WIDTH)
        return matrix[0], matrix[1:].reshape(3 * WIDTH, 4 * WIDTH)


class AttentionMerge(nn.Module):
    """CGAFusion (Chen et al., 2024): spatial, channel and pixel attention merge two maps into one."""

    def __init__(self):
        width = 2 * WIDTH
        self.spatial = nn.Conv(2, 1, 7)
        self.squeeze = nn.Conv(width, width // 8, 1)
        self.excite = nn.Conv(width // 8, width, 1)
        self.pixel = nn.Conv(2 * width, width, 7, groups=width)
        self.project = nn.Conv(width, WIDTH, 1)

    def execute(self, base: jt.Var, detail: jt.Var) -> jt.Var:
        """base, detail (N, 64, H, W), four pixels or more a side -> the same shape."""
        x = jt.concat([base, detail], 1)
        gate = self.pixel_gate(x, self.spatial_map(x) + self.channel_vector(x))
        return conv1x1(x * nn.gelu(gate) + x, self.project.weight, self.project.bias)

    def spatial_map(self, x: jt.Var) -> jt.Var:
        """(N, 128, H, W) -> (N, 1, H, W)."""
        maps = jt.concat([x.mean(1, keepdims=True), x.max(1, keepdims=True)], 1)
        return nn.conv2d(pad(maps, 3, "reflect"), self.spatial.weight, self.spatial.bias)

    def channel_vector(self, x: jt.Var) -> jt.Var:
        """(N, 128, H, W) -> (N, 128, 1, 1)."""
        mean = x.mean(3, keepdims=True).mean(2, keepdims=True)
        hidden = jt.maximum(conv1x1(mean, self.squeeze.weight, self.squeeze.bias), 0)
        return conv1x1(hidden, self.excite.weight, self.excite.bias)

    def pixel_gate(self, x: jt.Var, pattern: jt.Var) -> jt.Var:
        """Each channel of x with its pattern, in groups of two: two depthwise convolutions."""
        own, other = (self.pixel.weight[:, i : i + 1] for i in (0, 1))
        out = depthwise(pad(x, 3, "reflect"), own, padding=0)
        out = out + depthwise(pad(pattern, 3, "reflect"), other, padding=0)
        return jt.sigmoid(out + self.pixel.bias.reshape(1, -1, 1, 1))


# ---- the networks ------------------------------------------------------------------------------


def _blocks(first_upload: bool) -> nn.ModuleList:
    convformers = [ConvFormerBlock(first_upload) for _ in range(2)]
    return nn.ModuleList([TransformerBlock(), TransformerBlock(), *convformers])


class Encoder(nn.Module):
    """Image -> (base, detail)."""

    def __init__(self, first_upload: bool):
        self.patch = nn.Conv(1, WIDTH, 3, padding=1, bias=False)
        self.blocks = _blocks(first_upload)
        gate = ShuffleGate(hidden=WIDTH) if first_upload else None
        self.base = BaseExtractor(WIDTH, feed_forward=gate)
        self.wavelet = Wavelet()
        self.detail = DetailExtractor(WIDTH, 3, DifferenceBottleneck)
        self.upsample = nn.ConvTranspose(3 * WIDTH, WIDTH, 2, 2)
        self.meet_base = Interaction(ShuffleGate)
        self.meet_detail = Interaction(DualShuffleGate)

    def execute(self, x: jt.Var, drop: float = 0.0) -> tuple[jt.Var, jt.Var]:
        """X (N, 1, H, W), even -> two maps (N, 64, H, W)."""
        embedded = x = conv(x, self.patch.weight)
        for block in self.blocks:
            x = block(x, drop)
        low, high = self.bands(embedded)
        base = self.meet_base(jt.concat([self.base(x), low]))
        return base, self.meet_detail(jt.concat([self.detail(x), high]))

    def bands(self, x: jt.Var) -> tuple[jt.Var, jt.Var]:
        """The low and the high frequencies at full size.

        The transposed 2x2 convolution of stride 2 after the high bands is a matrix and a pixel
        shuffle; the two matrices are multiplied first.
        """
        blocks = pixel_unshuffle(x)
        ll, details = self.wavelet.bands()
        low = bilinear(conv1x1(blocks, ll.unsqueeze(-1).unsqueeze(-1)), *x.shape[2:])
        enlarge = self.upsample.weight.permute(1, 2, 3, 0).reshape(4 * WIDTH, 3 * WIDTH)
        high = pixel_shuffle(conv1x1(blocks, matmul(enlarge, details).unsqueeze(-1).unsqueeze(-1)))
        return low, nn.leaky_relu(high + self.upsample.bias.reshape(1, -1, 1, 1), 0.01)


class Decoder(nn.Module):
    """(image, base, detail) -> image in (0, 1)."""

    def __init__(self, first_upload: bool):
        self.reduce = nn.Conv(2 * WIDTH, WIDTH, 1, bias=False)  # dead; the authors' files have it
        self.merge = AttentionMerge()
        self.blocks = _blocks(first_upload)
        self.narrow = nn.Conv(WIDTH, WIDTH // 2, 3, padding=1, bias=False)
        self.to_image = nn.Conv(WIDTH // 2, 1, 3, padding=1, bias=False)

    def execute(self, image: jt.Var, base: jt.Var, detail: jt.Var, drop: float = 0.0) -> jt.Var:
        """base, detail (N, 64, H, W), image (N, 1, H, W) -> (N, 1, H, W)."""
        return jt.sigmoid(self.logits(image, self.merge(base, detail), drop))

    def logits(self, image: jt.Var, merged: jt.Var, drop: float = 0.0) -> jt.Var:
        """What the sigmoid gets."""
        x = merged
        for block in self.blocks:
            x = block(x, drop)
        return self.head(x + merged) + image

    def head(self, x: jt.Var) -> jt.Var:
        """(N, 64, H, W) -> (N, 1, H, W)."""
        return conv(nn.leaky_relu(conv(x, self.narrow.weight), 0.01), self.to_image.weight)


def _official() -> dict[str, str]:
    norms = {f"norm{i}.body.{{p}}": f"norm{i}.{{p}}" for i in (1, 2)}

    def attention(name: str) -> dict[str, str]:
        return {
            f"{name}.temperature": "attention.temperature",
            f"{name}.qkv.weight": "attention.qkv.weight",
            f"{name}.qkv_dwconv.weight": "attention.depthwise.weight",
            f"{name}.project_out.weight": "attention.project.weight",
        }

    gate = {
        "ffn.project_in.weight": "feed_forward.expand.weight",
        "ffn.dwconv.weight": "feed_forward.depthwise.weight",
        "ffn.dwconv_5.weight": "feed_forward.depthwise5.weight",
        "ffn.dwconv_dilated2_1.weight": "feed_forward.dilated.weight",
        "ffn.project_out.weight": "feed_forward.project.weight",
    }
    first_upload = {
        o.replace("ffn.", "mlp."): u.replace("feed_forward.", "gate.") for o, u in gate.items()
    }
    block = {
        **norms,
        **attention("attn"),
        **gate,
        **first_upload,
        "layer_scale_{k}": "scale{k}",
        "token_mixer.pwconv1.weight": "mixer.expand.weight",
        "token_mixer.act1.scale": "mixer.star_scale",
        "token_mixer.act1.bias": "mixer.star_bias",
        "token_mixer.dwconv.weight": "mixer.depthwise.weight",
        "token_mixer.pwconv2.weight": "mixer.project.weight",
        "mlp.fc1.weight": "mlp.expand.weight",
        "mlp.norm.body.{p}": "mlp.norm.{p}",
        "mlp.fc2.weight": "mlp.project.weight",
    }
    parts = ((1, "central"), (2, "across"), (3, "down"), (4, "angular"))
    middle = {f"conv1_{i}.conv.{p}": f"{n}_{p}" for i, n in parts for p in ("weight", "bias")}
    middle |= {f"conv1_5.{p}": f"plain_{p}" for p in ("weight", "bias")}
    theta = "net.{n}.theta_{t}.bottleneckBlock"
    detail = {
        "net.{n}.shffleconv.{p}": "nodes.{n}.shuffle.{p}",
        f"{theta}.0.weight": "nodes.{n}.{t}.expand.weight",
        f"{theta}.4.weight": "nodes.{n}.{t}.project.weight",
        **{f"{theta}.2.{o}": f"nodes.{{n}}.{{t}}.middle.{u}" for o, u in middle.items()},
    }
    meet = {**norms, **attention("attention"), **gate}
    encoder = {
        "patch_embed.proj.weight": "patch.weight",
        **{f"encoder_level1.{{n}}.{o}": f"blocks.{{n}}.{u}" for o, u in block.items()},
        **{f"baseFeature.{o}": f"base.{u}" for o, u in OFFICIAL_BASE.items()},
        "FreFeature.wt_filter": "wavelet.analysis",
        "FreFeature.iwt_filter": "wavelet.synthesis",
        **{f"detailFeature.{o}": f"detail.{u}" for o, u in detail.items()},
        "upsample1.0.{p}": "upsample.{p}",
        **{f"init_fusion_b.{o}": f"meet_base.{u}" for o, u in meet.items()},
        **{f"init_fusion_d.{o}": f"meet_detail.{u}" for o, u in meet.items()},
    }
    decoder = {
        "reduce_channel.weight": "reduce.weight",
        **{f"encoder_level2.{{n}}.{o}": f"blocks.{{n}}.{u}" for o, u in block.items()},
        "output.0.weight": "narrow.weight",
        "output.2.weight": "to_image.weight",
        "fusion1.sa.sa.{p}": "merge.spatial.{p}",
        "fusion1.ca.ca.0.{p}": "merge.squeeze.{p}",
        "fusion1.ca.ca.2.{p}": "merge.excite.{p}",
        "fusion1.pa.pa2.{p}": "merge.pixel.{p}",
        "fusion1.conv.{p}": "merge.project.{p}",
    }
    networks = {
        ("DIDF_Encoder.", "encoder."): encoder,
        ("DIDF_Decoder_Phase.", "decoder."): decoder,
        ("BaseFuseLayer.", "base_fusion."): meet,
        ("DetailFuseLayer.", "detail_fusion."): meet,
    }
    return {o + k: u + v for (o, u), names in networks.items() for k, v in names.items()}


class SFDFuse(CDDFuse):
    """The four networks, their losses and recipe."""

    NAME = "sfdfuse"
    Config = Config
    OFFICIAL = NameMap(_official())
    DEAD = ("DIDF_Decoder_Phase.fusion2.",)
    OPTIONAL = ("DIDF_Decoder_Phase.reduce_channel.",)
    CONSTANT = ("encoder.wavelet.analysis", "encoder.wavelet.synthesis", "decoder.reduce.weight")
    ssim_loss = staticmethod(halved_ssim_loss)

    @classmethod
    def settings_of(cls, model: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The two networks differ in the ConvFormer's second half."""
        theirs = "DIDF_Encoder.encoder_level1.2.mlp.project_in.weight"
        return {"first_upload": theirs in model or cls.OFFICIAL.ours(theirs) in model}

    def make_networks(self) -> None:
        first = self.config.first_upload
        self.encoder, self.decoder = Encoder(first), Decoder(first)
        self.base_fusion, self.detail_fusion = (
            Interaction(ShuffleGate),
            Interaction(DualShuffleGate),
        )

    def execute(self, a: jt.Var, b: jt.Var, text: jt.Var | None = None) -> jt.Var:
        """a, b (N, 1, H, W) in [0, 1], four pixels or more a side -> (N, 1, H, W) in (0, 1).

        The wavelet needs even sizes: the border of an odd one is repeated and cut off again
        (faithful: its last row or column is dropped).
        """
        h, w = a.shape[2:]
        if self.config.faithful:
            a, b = even(a), even(b)
        elif h % 2 or w % 2:
            a, b = (pad(x, 1, "edge")[:, :, 1 : h + 1 + h % 2, 1 : w + 1 + w % 2] for x in (a, b))
        fused = self._decode_fused(a, b, *self._encode(a, b))
        return fused if self.config.faithful else fused[:, :, :h, :w]

    def _encode(self, a: jt.Var, b: jt.Var, drop: float = 0.0) -> tuple[jt.Var, jt.Var]:
        if not jt.flags.no_grad:
            return self.encoder(jt.concat([a, b]), drop)
        of_a = self.encoder(a, drop)
        jt.sync(of_a)  # one image after the other: half the memory
        return tuple(jt.concat(maps) for maps in zip(of_a, self.encoder(b, drop), strict=True))

    def _decode_fused(
        self, a: jt.Var, b: jt.Var, base: jt.Var, detail: jt.Var, drop: float = 0.0
    ) -> jt.Var:
        image = a + b if self.config.skip == "sum" else b
        return self.decoder(image, self.base_fusion(base), self.detail_fusion(detail), drop)

    def row_names(self) -> tuple[str, ...]:
        """Its tables have no medical rows."""
        return ()

    def hints(self, task: str) -> list[str]:
        """Nothing is published of it on other tasks."""
        return []

    def to_uint8(self, fused: np.ndarray) -> np.ndarray:
        return cut(fused)

    def losses(self, batch: Batch, stage: Stage) -> dict[str, jt.Var]:
        """Those of CDDFuse with another SSIM loss, which phase II has too."""
        a, b = even(batch.a), even(batch.b)
        return self._losses(a, b, stage, drop=self.config.drop_path)

    def _details_to_rebuild(self, detail: jt.Var) -> jt.Var:
        if self.config.own_detail:
            return detail
        visible = detail[detail.shape[0] // 2 :]
        return jt.concat([visible, visible])

    def _fusion(self, a: jt.Var, b: jt.Var, fused: jt.Var) -> dict[str, jt.Var]:
        parts = super()._fusion(a, b, fused)
        ssim = self.ssim_loss(jt.maximum(a, b), fused)
        return {**parts, "sum": parts["sum"] + ssim, "ssim": ssim}
