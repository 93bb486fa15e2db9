"""SFDFuse as a system: its networks and what it does with its features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jfusion.checkpoint import WeightCard, WeightMap
from jfusion.data.h5 import Pair
from jfusion.layers.losses import halved_ssim_loss
from jfusion.ops.resize import pad
from jfusion.runtime import jt
from jfusion.systems.base import Batch, FusedImage, Stage, floor_to_uint8, with_color_of
from jfusion.systems.cddfuse.two_phase import TwoPhaseSystem
from jfusion.systems.sfdfuse.blocks import DropPath, DualShuffleGate, Interaction, ShuffleGate
from jfusion.systems.sfdfuse.config import Config
from jfusion.systems.sfdfuse.names import OFFICIAL
from jfusion.systems.sfdfuse.network import Decoder, Encoder


class SFDFuse(TwoPhaseSystem):
    """The four networks; a and b need four pixels or more a side."""

    Config = Config
    smallest_side = 4
    WEIGHTS = WeightMap(
        OFFICIAL,
        ignored=("DIDF_Decoder_Phase.fusion2.",),
        optional=("DIDF_Decoder_Phase.reduce_channel.",),
        card=WeightCard(
            where="the authors' repository, zxp771/SFDFuse on GitHub (models/SFDFuse_best.pth)",
            license="none stated",
            paper="SFDFuse: Spatial and Frequency Feature Decomposition for Visible and Infrared "
            "Image Fusion, 2025",
        ),
    )
    config: Config

    def __init__(self, config: Config):
        super().__init__(config)
        first_upload = config.network == "first_upload"
        self.drop_path = DropPath(config.drop_path)
        self.encoder = Encoder(self.drop_path, first_upload)
        self.decoder = Decoder(self.drop_path, first_upload)
        self.base_fusion = Interaction(ShuffleGate)
        self.detail_fusion = Interaction(DualShuffleGate)

    @classmethod
    def infer_settings(cls, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Returns which network the tensors are of: the two differ in the ConvFormer blocks."""
        name = "DIDF_Encoder.encoder_level1.2.mlp.project_in.weight"
        first_upload = name in state or cls.WEIGHTS.ours(name) in state
        return {"network": "first_upload" if first_upload else "released"}

    def execute(self, a: jt.Var, b: jt.Var) -> jt.Var:
        """Fuses a, b (N, 1, H, W) in [0, 1] to an image (N, 1, H, W) in (0, 1).

        The wavelet needs even sizes. The border of an odd one is repeated, and cropped again from
        the result; with odd_size="released" its last row or column is dropped.
        """
        if self.config.odd_size == "released":
            return super().execute(_crop_to_even(a), _crop_to_even(b))
        h, w = a.shape[2:]
        return super().execute(_pad_to_even(a), _pad_to_even(b))[:, :, :h, :w]

    def encode(self, a: jt.Var, b: jt.Var) -> tuple[jt.Var, jt.Var]:
        """Returns the base and the detail features of both images, (2N, 64, H, W) each."""
        if not jt.flags.no_grad:
            return self.encoder(jt.concat([a, b]))
        of_a = self.encoder(a)
        jt.sync(of_a)  # one image after the other: half the memory
        return tuple(jt.concat(maps) for maps in zip(of_a, self.encoder(b), strict=True))

    def reconstruct(self, a: jt.Var, b: jt.Var, base: jt.Var, detail: jt.Var) -> jt.Var:
        """Decodes each image from its base features and the details that `phase1_detail` names."""
        if self.config.phase1_detail == "released":
            of_b = detail[detail.shape[0] // 2 :]
            detail = jt.concat([of_b, of_b])
        return self.decoder(jt.concat([a, b]), base, detail)

    def decode_fused(self, a: jt.Var, b: jt.Var, base: jt.Var, detail: jt.Var) -> jt.Var:
        """Decodes the features of both images, merged, and the image that `skip` names."""
        image = a + b if self.config.skip == "sum" else b
        return self.decoder(image, self.base_fusion(base), self.detail_fusion(detail))

    def ssim_loss(self, x: jt.Var, y: jt.Var) -> jt.Var:
        """Returns the SSIM loss of the version of kornia that the authors' code needs, a scalar."""
        return halved_ssim_loss(x, y)

    def losses(self, batch: Batch, stage: Stage) -> dict[str, jt.Var]:
        """Returns CDDFuse's losses, with drop-path and another SSIM loss, which phase II has too."""
        even = batch._replace(a=_crop_to_even(batch.a), b=_crop_to_even(batch.b))
        with self.drop_path:
            return super().losses(even, stage)

    def fusion_losses(self, a: jt.Var, b: jt.Var, fused: jt.Var) -> dict[str, jt.Var]:
        """Returns the losses of phase II without the decomposition; a, b, fused (N, 1, H, W)."""
        parts = super().fusion_losses(a, b, fused)
        return {**parts, "ssim": self.ssim_loss(jt.maximum(a, b), fused)}

    def postprocess(self, fused: np.ndarray, pair: Pair) -> FusedImage:
        """Rounds down, as the authors' test script does."""
        return with_color_of(pair, floor_to_uint8(fused)[0])


def _crop_to_even(x: jt.Var) -> jt.Var:
    """Drops the last row or column of an odd size."""
    h, w = x.shape[2:]
    return x[:, :, : h // 2 * 2, : w // 2 * 2] if h % 2 or w % 2 else x


def _pad_to_even(x: jt.Var) -> jt.Var:
    """Repeats the last row or column of an odd size."""
    h, w = x.shape[2:]
    return pad(x, 1, "edge")[:, :, 1 : h + 1 + h % 2, 1 : w + 1 + w % 2] if h % 2 or w % 2 else x
