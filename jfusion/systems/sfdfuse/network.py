"""SFDFuse's encoder and decoder."""

from __future__ import annotations

from jfusion.layers.decomposition import BaseExtractor, DetailExtractor
from jfusion.ops.conv import conv, conv1x1
from jfusion.ops.depthwise import pixel_shuffle, pixel_unshuffle
from jfusion.ops.matmul import matmul
from jfusion.ops.resize import bilinear
from jfusion.runtime import jt, nn
from jfusion.systems.sfdfuse.blocks import (
    WIDTH,
    CGAFusion,
    ConvFormerBlock,
    DifferenceBottleneck,
    DropPath,
    DualShuffleGate,
    Interaction,
    ShuffleGate,
    TransformerBlock,
    Wavelet,
)


def _blocks(drop_path: DropPath, first_upload: bool) -> nn.ModuleList:
    convformers = [ConvFormerBlock(drop_path, first_upload) for _ in range(2)]
    return nn.ModuleList([TransformerBlock(), TransformerBlock(), *convformers])


class Encoder(nn.Module):
    """Maps an image to its base and its detail features, each joined with a band of the wavelet."""

    def __init__(self, drop_path: DropPath, first_upload: bool):
        self.patch = nn.Conv(1, WIDTH, 3, padding=1, bias=False)
        self.blocks = _blocks(drop_path, first_upload)
        gate = ShuffleGate(hidden=WIDTH) if first_upload else None
        self.base = BaseExtractor(WIDTH, feed_forward=gate)
        self.wavelet = Wavelet()
        self.detail = DetailExtractor(WIDTH, 3, DifferenceBottleneck)
        self.upsample = nn.ConvTranspose(3 * WIDTH, WIDTH, 2, 2)
        self.meet_base = Interaction(ShuffleGate)
        self.meet_detail = Interaction(DualShuffleGate)

    def execute(self, x: jt.Var) -> tuple[jt.Var, jt.Var]:
        """Maps x (N, 1, H, W) in [0, 1] to base and detail features (N, 64, H, W); H, W even."""
        embedded = x = conv(x, self.patch.weight)
        for block in self.blocks:
            x = block(x)
        low, high = self.bands(embedded)
        base = self.meet_base(jt.concat([self.base(x), low]))
        return base, self.meet_detail(jt.concat([self.detail(x), high]))

    def bands(self, x: jt.Var) -> tuple[jt.Var, jt.Var]:
        """Returns the low and the high frequencies of x at its size, (N, 64, H, W) each.

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
    """Makes an image of base and detail features, and of the image that is added to the logits."""

    def __init__(self, drop_path: DropPath, first_upload: bool):
        self.reduce = nn.Conv(2 * WIDTH, WIDTH, 1, bias=False)
        self.reduce.weight.stop_grad()  # not used; the authors' files have it
        self.merge = CGAFusion()
        self.blocks = _blocks(drop_path, first_upload)
        self.narrow = nn.Conv(WIDTH, WIDTH // 2, 3, padding=1, bias=False)
        self.to_image = nn.Conv(WIDTH // 2, 1, 3, padding=1, bias=False)

    def execute(self, image: jt.Var, base: jt.Var, detail: jt.Var) -> jt.Var:
        """base, detail (N, 64, H, W), image (N, 1, H, W) -> (N, 1, H, W) in (0, 1)."""
        return jt.sigmoid(self.logits(image, self.merge(base, detail)))

    def logits(self, image: jt.Var, merged: jt.Var) -> jt.Var:
        """Maps merged features (N, 64, H, W) and the image to the input of the sigmoid."""
        x = merged
        for block in self.blocks:
            x = block(x)
        return self.head(x + merged) + image

    def head(self, x: jt.Var) -> jt.Var:
        """Maps x (N, 64, H, W) to one channel, (N, 1, H, W)."""
        return conv(nn.leaky_relu(conv(x, self.narrow.weight), 0.01), self.to_image.weight)
