"""CDDFuse's encoder and decoder, and the authors' names of the parameters."""

from __future__ import annotations

from jfusion.layers import restormer, tiles
from jfusion.layers.decomposition import (
    OFFICIAL_BASE,
    OFFICIAL_DETAIL,
    BaseExtractor,
    DetailExtractor,
)
from jfusion.layers.restormer import Restormer
from jfusion.ops.conv import conv, conv1x1
from jfusion.runtime import jt, nn

WIDTH = 64  # channels of every feature map


class Encoder(nn.Module):
    """Maps an image to its base features, its detail features, and what both are extracted from."""

    def __init__(self) -> None:
        self.patch = nn.Conv(1, WIDTH, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList([Restormer(WIDTH, expansion=2) for _ in range(4)])
        self.base = BaseExtractor(WIDTH)
        self.detail = DetailExtractor(WIDTH, 3)

    def execute(self, x: jt.Var) -> tuple[jt.Var, jt.Var, jt.Var]:
        """Maps x (N, 1, H, W) in [0, 1] to base, detail and shared features, (N, 64, H, W) each."""
        x = conv(x, self.patch.weight)
        for block in self.blocks:
            x = block(x)
        (x,) = tiles.cut(x)
        return self.base(x), self.detail(x), x


class Decoder(nn.Module):
    """Makes an image of base and detail features, and of the image that is added to the logits."""

    def __init__(self) -> None:
        self.reduce = nn.Conv(2 * WIDTH, WIDTH, 1, bias=False)
        self.blocks = nn.ModuleList([Restormer(WIDTH, expansion=2) for _ in range(4)])
        self.narrow = nn.Conv(WIDTH, WIDTH // 2, 3, padding=1, bias=False)
        self.to_image = nn.Conv(WIDTH // 2, 1, 3, padding=1, bias=False)

    def execute(self, image: jt.Var | None, base: jt.Var, detail: jt.Var) -> jt.Var:
        """base, detail (N, 64, H, W), image (N, 1, H, W) or None -> (N, 1, H, W) in (0, 1)."""
        return jt.sigmoid(self.logits(image, self.features(base, detail)))

    def features(self, base: jt.Var, detail: jt.Var) -> jt.Var:
        """Applies the 1x1 convolution to [base, detail], without concatenating the two in memory."""
        first, second = self.reduce.weight.split(WIDTH, 1)
        return conv1x1(detail, second, added=conv1x1(base, first))

    def logits(self, image: jt.Var | None, x: jt.Var) -> jt.Var:
        """Maps x (N, 64, H, W) and the image that is added to the input of the sigmoid, (N, 1, H, W)."""
        for block in self.blocks:
            x = block(x)
        out = self.head(x)
        return out if image is None else out + image

    def head(self, x: jt.Var) -> jt.Var:
        """Maps x (N, 64, H, W) to one channel, (N, 1, H, W)."""
        return conv(nn.leaky_relu(conv(x, self.narrow.weight), 0.01), self.to_image.weight)


def official_names() -> dict[str, str]:
    """Templates of the authors' parameter names -> ours; their file holds four networks."""
    blocks = restormer.OFFICIAL.items()
    encoder = {
        "patch_embed.proj.weight": "patch.weight",
        **{f"encoder_level1.{{n}}.{o}": f"blocks.{{n}}.{u}" for o, u in blocks},
        **{f"baseFeature.{o}": f"base.{u}" for o, u in OFFICIAL_BASE.items()},
        **{f"detailFeature.{o}": f"detail.{u}" for o, u in OFFICIAL_DETAIL.items()},
    }
    decoder = {
        "reduce_channel.weight": "reduce.weight",
        **{f"encoder_level2.{{n}}.{o}": f"blocks.{{n}}.{u}" for o, u in blocks},
        "output.0.weight": "narrow.weight",
        "output.2.weight": "to_image.weight",
    }
    networks = {
        ("DIDF_Encoder.", "encoder."): encoder,
        ("DIDF_Decoder.", "decoder."): decoder,
        ("BaseFuseLayer.", "base_fusion."): OFFICIAL_BASE,
        ("DetailFuseLayer.", "detail_fusion."): OFFICIAL_DETAIL,
    }
    return {o + k: u + v for (o, u), names in networks.items() for k, v in names.items()}
