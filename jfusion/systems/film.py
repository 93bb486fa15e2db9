"""FILM: Image Fusion via Vision-Language Model (Zhao et al., ICML 2024).

A paragraph that describes the scene, encoded once, steers three blocks of cross-attention; each
block treats the two images in separate branches; a Restormer decoder joins them. Checked against
the authors' code (commit 26a2f01) by `tests/systems/test_film.py`.

Quirks that the released weights depend on, and which are kept: a token is `hidden_dim` consecutive
values of the flattened (channel, row, column) order, so it spans pixels; the token grid is one
size for every image; padding tokens of the text count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jfusion.checkpoint import NameMap
from jfusion.config import setting
from jfusion.errors import UserError
from jfusion.layers import restormer
from jfusion.layers.activation import prelu
from jfusion.layers.attention import CrossAttention
from jfusion.layers.conv import conv, conv1x1
from jfusion.layers.losses import fusion_loss, lp_ssim_loss
from jfusion.layers.matmul import linear
from jfusion.layers.resize import nearest
from jfusion.layers.restormer import Restormer
from jfusion.runtime import jt, nn
from jfusion.systems.base import Batch, ParameterGroup, Stage, System, cut, stretch

WIDTH = 32  # channels of the image features


@dataclass(frozen=True)
class Config:
    """The network of the released weights and the paper's recipe."""

    text_dim: int = setting(768, "width of the paragraph features")
    hidden_dim: int = setting(256, "width of a token, E in the paper's code")
    image2text_dim: int = setting(32, "channels that an image gives to its tokens, D")
    token_size: tuple[int, int] = setting(
        (288, 384), "grid that every image is resampled to for its tokens"
    )
    stretch: bool = setting(
        True, "stretch each fused image to its full range, as the authors' test script"
    )
    epochs: int = setting(150, "epochs of training")
    batch_size: int = setting(2, "pairs per step; an incomplete last batch is dropped")
    learning_rate: float = setting(1e-5, "Adam's rate at the start")
    decay: float = setting(0.6, "factor of the rate every decay_every epochs")
    decay_every: int = setting(50, "epochs between decays")
    gradient_weight: float = setting(20.0, "weight of the gradient term in the loss")
    ssim_weight: float = setting(0.0, "weight of the Lp / SSIM terms; they are logged at 0 too")

    def __post_init__(self) -> None:
        h, w = self.token_size
        if self.hidden_dim % 8 or self.image2text_dim * h * w % self.hidden_dim:
            raise UserError(
                f"film: hidden_dim {self.hidden_dim} must be a multiple of 8 and divide "
                f"image2text_dim x token_size = {self.image2text_dim * h * w}"
            )


class Branch(nn.Module):
    """One image's way through a guided block; the same module serves both modalities."""

    def __init__(self, channels: int, config: Config):
        tokens = config.image2text_dim
        self.token_size, self.dim = config.token_size, config.hidden_dim
        self.stem = nn.Conv(channels, WIDTH, 3, padding=1, bias=False)
        self.stem_slope = jt.array([0.25])
        self.encoder = Restormer(WIDTH)
        self.to_tokens = nn.Conv(WIDTH, tokens, 1)
        self.cross_attention = CrossAttention(config.hidden_dim)
        self.from_tokens = nn.Conv(tokens, WIDTH, 1)
        self.from_tokens_slope = jt.array([0.25])
        self.merge = nn.Conv(2 * WIDTH, WIDTH, 1)
        self.merge_slope = jt.array([0.25])

    def execute(self, x: jt.Var, text: jt.Var) -> jt.Var:
        """x (N, C, H, W), text (N, T, E), already projected -> (N, 32, H, W)."""
        encoded = self.encode(x)
        tokens = self.tokens(encoded)
        guided = self.modulate(tokens, self.guidance(tokens, text), encoded.shape)
        skip = prelu(guided, self.from_tokens_slope) + encoded
        # the 1x1 convolution of [encoded, skip], without putting the two together in memory
        first, second = self.merge.weight.split(WIDTH, 1)
        merged = conv1x1(encoded, first, self.merge.bias) + conv1x1(skip, second)
        return prelu(merged, self.merge_slope)

    def encode(self, x: jt.Var) -> jt.Var:
        """(N, C, H, W) -> (N, 32, H, W)."""
        return self.encoder(prelu(conv(x, self.stem.weight), self.stem_slope))

    def tokens(self, encoded: jt.Var) -> jt.Var:
        """(N, 32, H, W) -> (N, D*288*384/E, E): E consecutive values of the resampled map each."""
        grid = nearest(
            conv1x1(encoded, self.to_tokens.weight, self.to_tokens.bias), *self.token_size
        )
        return grid.reshape(grid.shape[0], -1, self.dim)

    def guidance(self, tokens: jt.Var, text: jt.Var) -> jt.Var:
        """The vector (N, 1, E) that scales the tokens; its absolute values sum to 1."""
        pooled = self.cross_attention.pooled(text, tokens)
        return (pooled / jt.maximum(jt.abs(pooled).sum(-1, keepdims=True), 1e-12)).unsqueeze(1)

    def modulate(self, tokens: jt.Var, vector: jt.Var, shape: tuple[int, ...]) -> jt.Var:
        """Scales the tokens, and brings the map back to `shape` with 32 channels.

        The 1x1 convolution and the nearest resize commute, so the convolution runs on the smaller map.
        """
        n, _, h, w = shape
        grid = (tokens * vector).reshape(n, -1, *self.token_size)
        size, weights = (h, w), (self.from_tokens.weight, self.from_tokens.bias)
        if h * w < self.token_size[0] * self.token_size[1]:
            return conv1x1(nearest(grid, *size), *weights)
        return nearest(conv1x1(grid, *weights), *size)


class GuidedBlock(nn.Module):
    """The branches A and B of one block; they do not see each other."""

    def __init__(self, channels: int, config: Config):
        self.A = Branch(channels, config)
        self.B = Branch(channels, config)

    def execute(self, a: jt.Var, b: jt.Var, text: jt.Var) -> tuple[jt.Var, jt.Var]:
        return self.A(a, text), self.B(b, text)


class Decoder(nn.Module):
    """Joins the two branches into the logits of one image."""

    def __init__(self) -> None:
        self.joint = Restormer(2 * WIDTH)
        self.reduce = nn.Conv(2 * WIDTH, WIDTH, 1)
        self.refine1 = Restormer(WIDTH)
        self.refine2 = Restormer(WIDTH)
        self.to_image = nn.Conv(WIDTH, 1, 1)

    def execute(self, a: jt.Var, b: jt.Var) -> jt.Var:
        """a, b (N, 32, H, W) -> (N, 1, H, W)."""
        x = self.joint(jt.concat([a, b], 1))
        x = conv1x1(x, self.reduce.weight, self.reduce.bias)
        x = self.refine2(self.refine1(x))
        return conv1x1(x, self.to_image.weight, self.to_image.bias)


class TextProjection(nn.Module):
    """A linear map of each paragraph token; the weight is (E, text_dim, 1) as the authors' Conv1d."""

    def __init__(self, config: Config):
        bound = config.text_dim**-0.5
        self.weight = jt.init.uniform(
            [config.hidden_dim, config.text_dim, 1], "float32", -bound, bound
        )
        self.bias = jt.init.uniform([config.hidden_dim], "float32", -bound, bound)

    def execute(self, text: jt.Var) -> jt.Var:
        """(N, T, text_dim) -> (N, T, E)."""
        return linear(text, self.weight.reshape(self.weight.shape[:2]), self.bias)


def _official() -> dict[str, str]:
    block = "restormerca{i}."
    names = {"text_process.conv.{p}": "text_projection.{p}"}
    for x, attention in (("A", "cross_attentionA1"), ("B", "cross_attentionA2")):
        parts = {
            f"conv{x}1.weight": "stem.weight",
            f"prelu{x}1.weight": "stem_slope",
            f"conv{x}2.{{p}}": "from_tokens.{p}",
            f"prelu{x}2.weight": "from_tokens_slope",
            f"conv{x}3.{{p}}": "merge.{p}",
            f"prelu{x}3.weight": "merge_slope",
            f"imagef2textf{x}1.conv.{{p}}": "to_tokens.{p}",
            f"{attention}.multihead_attn.{{p}}": "cross_attention.{p}",
            f"{attention}.multihead_attn.out_proj.{{p}}": "cross_attention.out_proj.{p}",
            **{f"restormer{x}1.{o}": f"encoder.{u}" for o, u in restormer.OFFICIAL.items()},
        }
        names |= {block + o: f"block{{i}}.{x}.{u}" for o, u in parts.items()}
    for official, ours in (
        ("restormer1", "joint"),
        ("restormer2", "refine1"),
        ("restormer3", "refine2"),
    ):
        names |= {f"{official}.{o}": f"decoder.{ours}.{u}" for o, u in restormer.OFFICIAL.items()}
    return names | {"conv1.{p}": "decoder.reduce.{p}", "conv2.{p}": "decoder.to_image.{p}"}


class FILM(System):
    """The network, its losses and its recipe."""

    NAME = "film"
    Config = Config
    OFFICIAL = NameMap(_official())
    USES_TEXT = True

    def __init__(self, config: Config):
        super().__init__(config)
        self.text_projection = TextProjection(config)
        self.block1 = GuidedBlock(1, config)
        self.block2 = GuidedBlock(WIDTH, config)
        self.block3 = GuidedBlock(WIDTH, config)
        self.decoder = Decoder()

    def execute(self, a: jt.Var, b: jt.Var, text: jt.Var | None = None) -> jt.Var:
        """a, b (N, 1, H, W) in [0, 1], text (N, T, text_dim) -> (N, 1, H, W) in (0, 1)."""
        self.need_text(text, a)
        text = self.text_projection(text)
        for block in (self.block1, self.block2, self.block3):
            a, b = block(a, b, text)
        return jt.sigmoid(self.decoder(a, b))

    def fuse(
        self,
        a: jt.Var,
        b: jt.Var,
        text: jt.Var | None = None,
        *,
        seed: int | None = None,
        callback: Callable[[int, jt.Var, jt.Var], None] | None = None,
    ) -> jt.Var:
        """The output stretched to [0, 1] per image (unless `stretch` is off); a flat one gives 0."""
        fused = self(a, b, text)
        return stretch(fused) if self.config.stretch else fused

    def to_uint8(self, fused: np.ndarray) -> np.ndarray:
        return cut(fused)

    def stages(self) -> list[Stage]:
        return [Stage("fusion", self.config.epochs)]

    def parameter_groups(self, stage: Stage) -> list[ParameterGroup]:
        c = self.config

        def rate(epoch: int) -> float:
            return c.learning_rate * c.decay ** (epoch // c.decay_every)

        return [ParameterGroup("all", self.state_dict(), rate)]

    def losses(self, batch: Batch, stage: Stage) -> dict[str, jt.Var]:
        """Total, intensity, gradient, and the Lp / SSIM terms (equation 6 of the paper and its code)."""
        c = self.config
        fused = self(batch.a, batch.b, batch.text)
        fusion, intensity, gradient = fusion_loss(batch.a, batch.b, fused, c.gradient_weight)
        # At weight 0 they are only logged: 0 times the infinite slope of the root would be NaN.
        seen = fused if c.ssim_weight else fused.detach()
        weight = int((fused.shape[2] * fused.shape[3]) ** 0.5)
        ssim_a, ssim_b = (lp_ssim_loss(x, seen, weight)[0] for x in (batch.a, batch.b))
        total = fusion + c.ssim_weight * (ssim_a + ssim_b) if c.ssim_weight else fusion
        return {
            "total": total,
            "fusion": fusion,
            "intensity": intensity,
            "gradient": gradient,
            "lp_ssim_a": ssim_a,
            "lp_ssim_b": ssim_b,
        }
