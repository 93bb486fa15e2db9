"""FILM as a system: its network, losses and recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jfusion.checkpoint import WeightCard, WeightMap
from jfusion.data.h5 import Pair
from jfusion.layers import restormer, tiles
from jfusion.layers.losses import fusion_loss, lp_ssim_loss
from jfusion.runtime import jt
from jfusion.systems.base import (
    Batch,
    FusedImage,
    OptimizerConfig,
    Stage,
    floor_to_uint8,
    with_color_of,
)
from jfusion.systems.film.config import Config
from jfusion.systems.film.network import WIDTH, Decoder, GuidedBlock, TextProjection
from jfusion.systems.network import NetworkSystem, min_max_normalize


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


class FILM(NetworkSystem):
    """The network, its losses and its recipe."""

    Config = Config
    WEIGHTS = WeightMap(
        _official(),
        card=WeightCard(
            where="the authors' repository, Zhaozixiang1228/IF-FILM on GitHub (models/IVF.pth, ...)",
            license="none stated",
            paper="Image Fusion via Vision-Language Model, ICML 2024",
        ),
    )

    TILING = tiles.Tiling(limit=1_000_000, pixels=1 << 17, halo=4, passes=10, channels=128)

    def __init__(self, config: Config):
        super().__init__(config)
        self.text_projection = TextProjection(config)
        self.block1 = GuidedBlock(1, config)
        self.block2 = GuidedBlock(WIDTH, config)
        self.block3 = GuidedBlock(WIDTH, config)
        self.decoder = Decoder()

    def execute(self, a: jt.Var, b: jt.Var, text: jt.Var | None = None) -> jt.Var:
        """Fuses a, b (N, 1, H, W) in [0, 1] with text (N, T, text_dim) to (N, 1, H, W) in (0, 1)."""
        self.check_text(text, a)
        text = self.text_projection(text)
        for block in (self.block1, self.block2, self.block3):
            a, b = block(a, b, text)
        return jt.sigmoid(self.decoder(a, b))

    def _fuse(
        self, a: jt.Var, b: jt.Var, text: jt.Var, seed: int | None, callback: Callable | None
    ) -> jt.Var:
        """The output of the network, min-max normalized per image unless `normalize` is off."""
        fused = tiles.whole(self, a, b, text, tiling=self.TILING)
        return min_max_normalize(fused) if self.config.normalize else fused

    def postprocess(self, fused: np.ndarray, pair: Pair) -> FusedImage:
        """Rounds down, as the authors' test script does."""
        return with_color_of(pair, floor_to_uint8(fused)[0])

    @classmethod
    def infer_settings(cls, state: dict[str, np.ndarray]) -> dict[str, Any]:
        """Returns text_dim, hidden_dim and image2text_dim, which the shapes of two weights decide.

        No shape depends on token_size: it comes from the configuration that `save` stores with the
        weights, or from the user.
        """
        ours = {cls.WEIGHTS.ours(name): value for name, value in state.items()}
        settings = {}
        for name, dims in (
            ("text_projection.weight", {"hidden_dim": 0, "text_dim": 1}),
            ("block1.A.to_tokens.weight", {"image2text_dim": 0}),
        ):
            shape = np.shape(ours.get(name))
            if len(shape) > max(dims.values()):
                settings |= {setting: int(shape[axis]) for setting, axis in dims.items()}
        return settings

    def stages(self) -> list[Stage]:
        """Returns the one stage."""
        return [Stage("fusion", self.config.epochs)]

    def optimizers(self, stage: Stage) -> list[OptimizerConfig]:
        """Returns one Adam for all parameters; its rate falls by `decay` every `decay_every` epochs."""
        c = self.config

        def rate(epoch: int) -> float:
            return c.learning_rate * c.decay ** (epoch // c.decay_every)

        return [OptimizerConfig("all", self.trainable(), rate)]

    def losses(self, batch: Batch, stage: Stage) -> dict[str, jt.Var]:
        """Returns the losses of FILM, equation 6, and the Lp / SSIM terms of its code, "total" first."""
        c = self.config
        fused = self(batch.a, batch.b, batch.text)
        fusion, intensity, gradient = fusion_loss(batch.a, batch.b, fused, c.gradient_weight)
        # At weight 0 they are only logged: 0 times the infinite gradient of the root would be NaN.
        compared = fused if c.ssim_weight else fused.detach()
        weight = int((fused.shape[2] * fused.shape[3]) ** 0.5)
        ssim_a, ssim_b = (lp_ssim_loss(x, compared, weight)[0] for x in (batch.a, batch.b))
        total = fusion + c.ssim_weight * (ssim_a + ssim_b) if c.ssim_weight else fusion
        return {
            "total": total,
            "fusion": fusion,
            "intensity": intensity,
            "gradient": gradient,
            "lp_ssim_a": ssim_a,
            "lp_ssim_b": ssim_b,
        }
