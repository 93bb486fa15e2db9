"""The blocks of SFDFuse's networks. Every feature map has 64 channels."""

from __future__ import annotations

import numpy as np

from jfusion.layers.decomposition import sum_of_halves
from jfusion.layers.norm import LayerNorm2d
from jfusion.layers.restormer import ChannelAttention
from jfusion.ops.activation import add_scaled, relu6, squared_relu, star_relu
from jfusion.ops.channel_attention import swapped_query_cosine_attention
from jfusion.ops.conv import conv, conv1x1, depthwise3x3
from jfusion.ops.depthwise import depthwise, shuffled_gate
from jfusion.ops.expand import expand_depthwise
from jfusion.ops.resize import pad
from jfusion.runtime import jt, nn

WIDTH = 64  # channels of every feature map
HEADS = 8

# ---- feed-forwards -----------------------------------------------------------------------------


class ShuffleGate(nn.Module):
    """A feed-forward at twice the resolution.

    1x1 to twice the hidden channels, pixel shuffle, a depthwise 7x7 of the first half times GELU of the
    second, pixel unshuffle, 1x1 back.
    """

    def __init__(self, hidden: int = 2 * WIDTH):
        width = hidden // 4
        self.expand = nn.Conv(WIDTH, 2 * hidden, 1, bias=False)
        self.depthwise = nn.Conv(width, width, 7, groups=width, bias=False)
        self.project = nn.Conv(hidden, WIDTH, 1, bias=False)

    def execute(self, x: jt.Var, added: jt.Var | None = None) -> jt.Var:
        """Maps x (N, 64, H, W), normalized, to the same shape, plus `added`."""
        a, b = (conv1x1(x, half) for half in self.expand.weight.chunk(2, 0))
        return conv1x1(self.gate(a, b), self.project.weight, added=added)

    def gate(self, a: jt.Var, b: jt.Var) -> jt.Var:
        """Gates a by b, both (N, hidden, H, W), not shuffled; the shape stays."""
        return shuffled_gate(a, b, self.depthwise.weight, "gelu")


class DualShuffleGate(ShuffleGate):
    """A `ShuffleGate` whose gate is a depthwise 5x5 times mish of a dilated depthwise 3x3."""

    def __init__(self) -> None:
        super().__init__()
        del self.depthwise
        half = WIDTH // 2
        self.depthwise5 = nn.Conv(half, half, 5, groups=half, bias=False)
        self.dilated = nn.Conv(half, half, 3, groups=half, bias=False)

    def gate(self, a: jt.Var, b: jt.Var) -> jt.Var:
        """Gates a by b, both (N, hidden, H, W), not shuffled; the shape stays.

        A dilation of two pixels of the shuffled image is one pixel of each of its four phases.
        """
        kernel = self.dilated.weight.reshape(-1, 1, 9).broadcast((WIDTH // 2, 4, 9))
        b = depthwise3x3(b, kernel.reshape(2 * WIDTH, 1, 3, 3))
        return shuffled_gate(a, b, self.depthwise5.weight, "mish")


class SquaredMlp(nn.Module):
    """1x1 to four times the channels, ReLU^2, LayerNorm, 1x1 back."""

    def __init__(self) -> None:
        self.expand = nn.Conv(WIDTH, 4 * WIDTH, 1, bias=False)
        self.norm = LayerNorm2d(4 * WIDTH)
        self.project = nn.Conv(4 * WIDTH, WIDTH, 1, bias=False)

    def execute(self, x: jt.Var) -> jt.Var:
        """Maps x (N, 64, H, W), normalized, to the same shape."""
        hidden = self.norm(squared_relu(conv1x1(x, self.expand.weight)))
        return conv1x1(hidden, self.project.weight)


# ---- the blocks of encoder and decoder ---------------------------------------------------------


class DropPath:
    """Stochastic depth (Huang et al., 2016): leaves a sample of a branch out with probability `rate`.

    It is active inside `with drop_path:`, which the losses of a training step use, and changes nothing
    elsewhere. One object serves all blocks of a system.
    """

    def __init__(self, rate: float):
        self.rate, self.active = rate, False

    def __call__(self, x: jt.Var) -> jt.Var:
        """Drops samples of x (N, C, H, W) and scales up the others, so that the mean stays."""
        if not (self.active and self.rate):
            return x
        return x * (self.keep(x.shape[0]) / (1 - self.rate))

    def keep(self, samples: int) -> jt.Var:
        """Draws which samples stay: 1 or 0, (N, 1, 1, 1)."""
        return (jt.rand(samples, 1, 1, 1) >= self.rate).float32()

    def __enter__(self) -> None:
        """Begins to drop."""
        self.active = True

    def __exit__(self, *error: object) -> None:
        """Stops dropping."""
        self.active = False


class TransformerBlock(nn.Module):
    """Restormer's attention, and a `ShuffleGate` as its feed-forward."""

    def __init__(self) -> None:
        self.norm1 = LayerNorm2d(WIDTH)
        self.attention = ChannelAttention(WIDTH, HEADS)
        self.norm2 = LayerNorm2d(WIDTH)
        self.feed_forward = ShuffleGate()

    def execute(self, x: jt.Var) -> jt.Var:
        """Maps x (N, 64, H, W) to the same shape."""
        x = self.attention(x, self.norm1, added=x)
        return self.feed_forward(self.norm2(x), added=x)


class ConvFormerBlock(nn.Module):
    """MetaFormer (Yu et al., 2022) with a separable convolution; each branch scaled per channel.

    In the authors' first upload the second branch is a `DualShuffleGate`.
    """

    def __init__(self, drop_path: DropPath, first_upload: bool):
        self.drop_path = drop_path
        self.scale1, self.scale2 = jt.full((WIDTH,), 1e-5), jt.full((WIDTH,), 1e-5)
        self.norm1 = LayerNorm2d(WIDTH)
        self.mixer = SeparableMixer()
        self.norm2 = LayerNorm2d(WIDTH)
        if first_upload:
            self.gate = DualShuffleGate()
        else:
            self.mlp = SquaredMlp()

    def execute(self, x: jt.Var) -> jt.Var:
        """Maps x (N, 64, H, W) to the same shape."""
        second = self.mlp if hasattr(self, "mlp") else self.gate
        x = add_scaled(x, self.drop_path(self.mixer(self.norm1(x))), self.scale1)
        return add_scaled(x, self.drop_path(second(self.norm2(x))), self.scale2)


class SeparableMixer(nn.Module):
    """1x1 to twice the channels, StarReLU, depthwise 7x7, 1x1 back, plus the input."""

    def __init__(self) -> None:
        self.expand = nn.Conv(WIDTH, 2 * WIDTH, 1, bias=False)
        self.star_scale, self.star_bias = jt.ones(1), jt.zeros(1)
        self.depthwise = nn.Conv(2 * WIDTH, 2 * WIDTH, 7, groups=2 * WIDTH, bias=False)
        self.project = nn.Conv(2 * WIDTH, WIDTH, 1, bias=False)

    def execute(self, x: jt.Var) -> jt.Var:
        """Maps x (N, 64, H, W), normalized, to the same shape."""
        hidden = star_relu(conv1x1(x, self.expand.weight), self.star_scale, self.star_bias)
        return conv1x1(depthwise(hidden, self.depthwise.weight), self.project.weight, added=x)


# ---- details -----------------------------------------------------------------------------------


class DEConv(nn.Module):
    """The detail-enhanced convolution of DEA-Net (Chen et al., 2024), with its biases.

    The sum of five 3x3 convolutions, four of which are of differences, computed as one whose kernel is
    the sum of the five.
    """

    def __init__(self) -> None:
        sizes = {"central": 2, "angular": 2, "plain": 2, "across": 1, "down": 1}
        for name, size in sizes.items():
            bound = (WIDTH * 3**size) ** -0.5
            for p, shape in (("weight", [WIDTH, WIDTH] + [3] * size), ("bias", [WIDTH])):
                setattr(self, f"{name}_{p}", jt.init.uniform(shape, "float32", -bound, bound))

    def execute(self, x: jt.Var) -> jt.Var:
        """Maps x (N, 64, H, W) to the same shape."""
        central, across, down, angular, plain = self.kernels()
        return conv(x, plain + angular + down + across + central, self.bias())

    def kernels(self) -> tuple[jt.Var, ...]:
        """Returns five kernels, (64, 64, 3, 3) each.

        Those of the central, horizontal, vertical and angular differences, and the plain one.
        """
        w = self.central_weight
        center = jt.array(np.float32([[0, 0, 0], [0, 1, 0], [0, 0, 0]])).stop_grad()
        central = w - w.sum(3, keepdims=True).sum(2, keepdims=True) * center
        ring = self.angular_weight.reshape(WIDTH, WIDTH, 9)
        angular = ring - ring[:, :, [3, 0, 1, 6, 4, 2, 7, 8, 5]]  # the next one around the center
        sides = jt.array(np.float32([1, 0, -1])).stop_grad()
        across = self.across_weight.unsqueeze(3) * sides
        down = self.down_weight.unsqueeze(2) * sides.reshape(3, 1)
        return central, across, down, angular.reshape(w.shape), self.plain_weight

    def bias(self) -> jt.Var:
        """Returns the sum of the five biases, (64,)."""
        return (
            self.central_bias
            + self.across_bias
            + self.down_bias
            + self.angular_bias
            + self.plain_bias
        )


class DifferenceBottleneck(nn.Module):
    """CDDFuse's bottleneck with a `DEConv` in its middle."""

    def __init__(self, channels: int):
        self.expand = nn.Conv(channels, 2 * channels, 1, bias=False)
        self.middle = DEConv()
        self.project = nn.Conv(2 * channels, channels, 1, bias=False)

    def execute(self, x: jt.Var) -> jt.Var:
        """Maps x (N, channels, H, W) to the same shape."""
        hidden = relu6(self.middle(relu6(conv1x1(x, self.expand.weight))))
        return conv1x1(hidden, self.project.weight)


class Wavelet(nn.Module):
    """One level of the Haar transform; its filters are buffers that the checkpoints carry."""

    def __init__(self) -> None:
        signs = np.float32(
            [[[1, 1], [1, 1]], [[1, 1], [-1, -1]], [[1, -1], [1, -1]], [[1, -1], [-1, 1]]]
        )
        filters = np.tile(signs[:, None] / 2, (WIDTH, 1, 1, 1))
        self.analysis = jt.array(filters).stop_grad()
        self.synthesis = jt.array(filters).stop_grad()  # not used; the authors' files have it

    def bands(self) -> tuple[jt.Var, jt.Var]:
        """Returns matrices from the pixels of a 2x2 block, four of each channel, to the bands.

        (64, 256) to ll, and (192, 256) to lh, hl and hh.
        """
        filters = self.analysis.reshape(WIDTH, 4, 4).transpose(1, 0, 2)
        identity = jt.array(np.eye(WIDTH, dtype=np.float32)).reshape(1, WIDTH, WIDTH, 1)
        matrix = (identity * filters.unsqueeze(2)).reshape(4, WIDTH, 4 * WIDTH)
        return matrix[0], matrix[1:].reshape(3 * WIDTH, 4 * WIDTH)


# ---- two feature maps to one -------------------------------------------------------------------


class Interaction(nn.Module):
    """Merges two feature maps by attention across them; the order of the two does not matter."""

    def __init__(self, feed_forward: type[nn.Module]):
        self.norm1 = LayerNorm2d(WIDTH)
        self.attention = ChannelAttention(WIDTH, HEADS)
        self.norm2 = LayerNorm2d(WIDTH)
        self.feed_forward = feed_forward()

    def execute(self, maps: jt.Var) -> jt.Var:
        """Merges two maps, one behind the other in the batch: (2N, 64, H, W) -> (N, 64, H, W)."""
        merged = self.across(self.norm1(maps))
        return self.feed_forward(self.norm2(merged), added=merged)

    def across(self, maps: jt.Var) -> jt.Var:
        """Attention of each normalized map with the other one's queries, plus the sum of the maps."""
        weights = self.attention
        qkv = expand_depthwise(maps, weights.qkv.weight, weights.depthwise.weight)
        out = sum_of_halves(swapped_query_cosine_attention(qkv, weights.temperature))
        return conv1x1(out, weights.project.weight, added=sum_of_halves(maps))


class CGAFusion(nn.Module):
    """DEA-Net's fusion (Chen et al., 2024): spatial, channel and pixel attention merge two maps."""

    def __init__(self) -> None:
        channels = 2 * WIDTH
        self.spatial = nn.Conv(2, 1, 7)
        self.squeeze = nn.Conv(channels, channels // 8, 1)
        self.excite = nn.Conv(channels // 8, channels, 1)
        self.pixel = nn.Conv(2 * channels, channels, 7, groups=channels)
        self.project = nn.Conv(channels, WIDTH, 1)

    def execute(self, base: jt.Var, detail: jt.Var) -> jt.Var:
        """Merges base and detail (N, 64, H, W), at least four pixels a side, to the same shape."""
        x = jt.concat([base, detail], 1)
        gate = self.pixel_gate(x, self.spatial_map(x) + self.channel_vector(x))
        return conv1x1(x * nn.gelu(gate) + x, self.project.weight, self.project.bias)

    def spatial_map(self, x: jt.Var) -> jt.Var:
        """Spatial attention: (N, 128, H, W) -> (N, 1, H, W)."""
        maps = jt.concat([x.mean(1, keepdims=True), x.max(1, keepdims=True)], 1)
        return nn.conv2d(pad(maps, 3, "reflect"), self.spatial.weight, self.spatial.bias)

    def channel_vector(self, x: jt.Var) -> jt.Var:
        """Channel attention: (N, 128, H, W) -> (N, 128, 1, 1)."""
        mean = x.mean(3, keepdims=True).mean(2, keepdims=True)
        hidden = jt.maximum(conv1x1(mean, self.squeeze.weight, self.squeeze.bias), 0)
        return conv1x1(hidden, self.excite.weight, self.excite.bias)

    def pixel_gate(self, x: jt.Var, pattern: jt.Var) -> jt.Var:
        """Pixel attention: x and `pattern`, both (N, 128, H, W), to a gate in (0, 1).

        pattern is the sum of the other two attentions. A 7x7 convolution of each channel of x with its
        own of `pattern`, as two depthwise ones.
        """
        of_x, of_pattern = (self.pixel.weight[:, i : i + 1] for i in (0, 1))
        out = depthwise(pad(x, 3, "reflect"), of_x, padding=0)
        out = out + depthwise(pad(pattern, 3, "reflect"), of_pattern, padding=0)
        return jt.sigmoid(out + self.pixel.bias.reshape(1, -1, 1, 1))
