"""FILM's network: a projection of the text, guided blocks for each image, a Restormer decoder."""

from __future__ import annotations

from jfusion.layers import tiles
from jfusion.layers.restormer import Restormer
from jfusion.ops.activation import prelu
from jfusion.ops.conv import conv, conv1x1
from jfusion.ops.matmul import linear
from jfusion.ops.resize import nearest
from jfusion.runtime import jt, nn
from jfusion.systems.film.attention import CrossAttention
from jfusion.systems.film.config import Config

WIDTH = 32  # channels of the image features


class Branch(nn.Module):
    """The branch of one image in a guided block."""

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
        """Maps x (N, C, H, W) and text (N, T, E), projected, to (N, 32, H, W)."""
        (encoded,) = tiles.cut(self.encode(x))
        tokens = self.tokens(encoded)
        guided = self.modulate(tokens, self.guidance(tokens, text), encoded.shape)
        skip = prelu(guided, self.from_tokens_slope) + encoded
        # the 1x1 convolution of [encoded, skip], without putting the two together in memory
        first, second = self.merge.weight.split(WIDTH, 1)
        merged = conv1x1(skip, second, added=conv1x1(encoded, first, self.merge.bias))
        return prelu(merged, self.merge_slope)

    def encode(self, x: jt.Var) -> jt.Var:
        """Extracts the features of x: (N, C, H, W) -> (N, 32, H, W)."""
        return self.encoder(prelu(conv(x, self.stem.weight), self.stem_slope))

    def tokens(self, encoded: jt.Var) -> jt.Var:
        """Makes tokens (N, D * th * tw / E, E) of features (N, 32, H, W).

        Each is E consecutive values of the map of D channels, resampled to the token size (th, tw).
        """
        grid = tiles.sample(
            conv1x1(encoded, self.to_tokens.weight, self.to_tokens.bias), *self.token_size
        )
        return grid.reshape(grid.shape[0], -1, self.dim)

    def guidance(self, tokens: jt.Var, text: jt.Var) -> jt.Var:
        """Returns the vector (N, 1, E) that scales the tokens; its absolute values sum to 1."""
        pooled = self.cross_attention.pooled(text, tokens)
        return (pooled / jt.maximum(jt.abs(pooled).sum(-1, keepdims=True), 1e-12)).unsqueeze(1)

    def modulate(self, tokens: jt.Var, vector: jt.Var, shape: tuple[int, ...]) -> jt.Var:
        """Scales the tokens, and brings the map back to `shape` with 32 channels.

        The 1x1 convolution and the nearest-neighbor resize commute, so the convolution runs on the
        smaller map.
        """
        n, _, h, w = shape
        grid = (tokens * vector).reshape(n, -1, *self.token_size)
        size, weights = (h, w), (self.from_tokens.weight, self.from_tokens.bias)
        if h * w < self.token_size[0] * self.token_size[1] and not tiles.active():
            return conv1x1(nearest(grid, *size), *weights)
        return tiles.spread(tiles.once(lambda: conv1x1(grid, *weights)), *size)


class GuidedBlock(nn.Module):
    """The branches A and B of one block; they do not see each other."""

    def __init__(self, channels: int, config: Config):
        self.A = Branch(channels, config)
        self.B = Branch(channels, config)

    def execute(self, a: jt.Var, b: jt.Var, text: jt.Var) -> tuple[jt.Var, jt.Var]:
        """Maps a, b (N, C, H, W) and text (N, T, E), projected, to two maps (N, 32, H, W)."""
        return tiles.branches(lambda: self.A(a, text), lambda: self.B(b, text))


class Decoder(nn.Module):
    """Joins the two branches into the logits of one image."""

    def __init__(self) -> None:
        self.joint = Restormer(2 * WIDTH)
        self.reduce = nn.Conv(2 * WIDTH, WIDTH, 1)
        self.refine1 = Restormer(WIDTH)
        self.refine2 = Restormer(WIDTH)
        self.to_image = nn.Conv(WIDTH, 1, 1)

    def execute(self, a: jt.Var, b: jt.Var) -> jt.Var:
        """Maps the features of both images, (N, 32, H, W) each, to logits (N, 1, H, W)."""
        x = self.joint(jt.concat([a, b], 1))
        x = conv1x1(x, self.reduce.weight, self.reduce.bias)
        x = self.refine2(self.refine1(x))
        return conv1x1(x, self.to_image.weight, self.to_image.bias)


class TextProjection(nn.Module):
    """A linear map of each text token; its weight is (E, text_dim, 1), as the authors' Conv1d has it."""

    def __init__(self, config: Config):
        bound = config.text_dim**-0.5
        self.weight = jt.init.uniform(
            [config.hidden_dim, config.text_dim, 1], "float32", -bound, bound
        )
        self.bias = jt.init.uniform([config.hidden_dim], "float32", -bound, bound)

    def execute(self, text: jt.Var) -> jt.Var:
        """Projects text (N, T, text_dim) to (N, T, E)."""
        return linear(text, self.weight.reshape(self.weight.shape[:2]), self.bias)
