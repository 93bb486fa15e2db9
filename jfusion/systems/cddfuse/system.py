"""CDDFuse as a system: its networks and what it does with its features."""

from __future__ import annotations

import numpy as np

from jfusion.checkpoint import WeightCard, WeightMap
from jfusion.data.h5 import Pair
from jfusion.layers import tiles
from jfusion.layers.decomposition import BaseExtractor, DetailExtractor, sum_of_halves
from jfusion.layers.losses import kornia_ssim_loss
from jfusion.runtime import jt
from jfusion.systems.base import FusedImage, round_half_down_to_uint8, with_color_of
from jfusion.systems.cddfuse.config import Config
from jfusion.systems.cddfuse.network import WIDTH, Decoder, Encoder, official_names
from jfusion.systems.cddfuse.two_phase import TwoPhaseSystem


class CDDFuse(TwoPhaseSystem):
    """The four networks; a and b need two pixels or more a side."""

    Config = Config
    smallest_side = 2
    WEIGHTS = WeightMap(
        official_names(),
        card=WeightCard(
            where="the authors' repository, Zhaozixiang1228/MMIF-CDDFuse on GitHub "
            "(models/CDDFuse_IVF.pth, models/CDDFuse_MIF.pth)",
            license="none stated",
            paper="CDDFuse: Correlation-Driven Dual-Branch Feature Decomposition for Multi-Modality "
            "Image Fusion, CVPR 2023",
        ),
    )
    TILING = tiles.Tiling(limit=500_000, pixels=1 << 17, halo=8, passes=11, channels=256)
    config: Config

    def __init__(self, config: Config):
        super().__init__(config)
        self.encoder, self.decoder = Encoder(), Decoder()
        self.base_fusion, self.detail_fusion = BaseExtractor(WIDTH), DetailExtractor(WIDTH, 1)

    def encode(self, a: jt.Var, b: jt.Var) -> tuple[jt.Var, jt.Var]:
        """Returns the base and the detail features of both images, (2N, 64, H, W) each."""
        if not tiles.active():
            return self.encoder(jt.concat([a, b]))[:2]
        # one image after the other, in half the memory
        of_a, of_b = tiles.branches(lambda: self.encoder(a)[:2], lambda: self.encoder(b)[:2])
        base, detail = (jt.concat(maps) for maps in zip(of_a, of_b, strict=True))
        return base, detail

    def reconstruct(self, a: jt.Var, b: jt.Var, base: jt.Var, detail: jt.Var) -> jt.Var:
        """Decodes each image from its own features; the image is added unless `skip` is none."""
        image = None if self.config.skip == "none" else jt.concat([a, b])
        return self.decoder(image, base, detail)

    def decode_fused(self, a: jt.Var, b: jt.Var, base: jt.Var, detail: jt.Var) -> jt.Var:
        """Fuses the sums of the features, decodes them, and adds the image that `skip` names."""
        image = {"visible": b, "sum": a + b, "none": None}[self.config.skip]
        base, detail = tiles.cut(sum_of_halves(base), sum_of_halves(detail))
        return self.decoder(image, self.base_fusion(base), self.detail_fusion(detail))

    def ssim_loss(self, x: jt.Var, y: jt.Var) -> jt.Var:
        """Returns the SSIM loss of the version of kornia that the authors used, a scalar."""
        return kornia_ssim_loss(x, y)

    def postprocess(self, fused: np.ndarray, pair: Pair) -> FusedImage:
        """Rounds to the nearest, ties down, as the image writer of the authors' script does."""
        return with_color_of(pair, round_half_down_to_uint8(fused)[0])
