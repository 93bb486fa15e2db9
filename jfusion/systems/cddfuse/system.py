"""CDDFuse: the system that the trainer, the tester and the command line use."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from jfusion.checkpoint import NameMap
from jfusion.layers import restormer
from jfusion.layers.decomposition import (
    OFFICIAL_BASE,
    OFFICIAL_DETAIL,
    BaseExtractor,
    DetailExtractor,
)
from jfusion.layers.losses import (
    decomposition_loss,
    fusion_loss,
    kornia_ssim_loss,
    spatial_gradient_loss,
)
from jfusion.layers.restormer import Restormer
from jfusion.ops.conv import conv, conv1x1
from jfusion.runtime import jt, nn
from jfusion.systems.base import Batch, ParameterGroup, Stage, System, stretch, ties_down
from jfusion.systems.cddfuse.config import Config

WIDTH = 64
FLOOR = 1e-6  # no learning rate falls below it


class Encoder(nn.Module):
    """Image -> (base, detail, shared features)."""

    def __init__(self):
        self.patch = nn.Conv(1, WIDTH, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList([Restormer(WIDTH, expansion=2) for _ in range(4)])
        self.base = BaseExtractor(WIDTH)
        self.detail = DetailExtractor(WIDTH, 3)

    def execute(self, x: jt.Var) -> tuple[jt.Var, jt.Var, jt.Var]:
        """X (N, 1, H, W) -> three maps (N, 64, H, W)."""
        x = conv(x, self.patch.weight)
        for block in self.blocks:
            x = block(x)
        return self.base(x), self.detail(x), x


class Decoder(nn.Module):
    """(image to add or None, base, detail) -> image in (0, 1)."""

    def __init__(self):
        self.reduce = nn.Conv(2 * WIDTH, WIDTH, 1, bias=False)
        self.blocks = nn.ModuleList([Restormer(WIDTH, expansion=2) for _ in range(4)])
        self.narrow = nn.Conv(WIDTH, WIDTH // 2, 3, padding=1, bias=False)
        self.to_image = nn.Conv(WIDTH // 2, 1, 3, padding=1, bias=False)

    def execute(self, image: jt.Var | None, base: jt.Var, detail: jt.Var) -> jt.Var:
        """base, detail (N, 64, H, W), image (N, 1, H, W) -> (N, 1, H, W)."""
        return jt.sigmoid(self.logits(image, self.features(base, detail)))

    def features(self, base: jt.Var, detail: jt.Var) -> jt.Var:
        """The 1x1 convolution of [base, detail], without putting the two together in memory."""
        first, second = self.reduce.weight.split(WIDTH, 1)
        return conv1x1(base, first) + conv1x1(detail, second)

    def logits(self, image: jt.Var | None, x: jt.Var) -> jt.Var:
        """What the sigmoid gets."""
        for block in self.blocks:
            x = block(x)
        out = self.head(x)
        return out if image is None else out + image

    def head(self, x: jt.Var) -> jt.Var:
        """(N, 64, H, W) -> (N, 1, H, W)."""
        return conv(nn.leaky_relu(conv(x, self.narrow.weight), 0.01), self.to_image.weight)


def sum_of_halves(x: jt.Var) -> jt.Var:
    """The first half of the batch plus the second: (2N, C, H, W) -> (N, C, H, W)."""
    n, *shape = x.shape
    return x.reshape(2, n // 2, *shape).sum(0)


def _official() -> dict[str, str]:
    blocks = restormer.OFFICIAL.items()
    parts = {
        "DIDF_Encoder.": {
            "patch_embed.proj.weight": "patch.weight",
            **{f"encoder_level1.{{n}}.{o}": f"blocks.{{n}}.{u}" for o, u in blocks},
            **{f"baseFeature.{o}": f"base.{u}" for o, u in OFFICIAL_BASE.items()},
            **{f"detailFeature.{o}": f"detail.{u}" for o, u in OFFICIAL_DETAIL.items()},
        },
        "DIDF_Decoder.": {
            "reduce_channel.weight": "reduce.weight",
            **{f"encoder_level2.{{n}}.{o}": f"blocks.{{n}}.{u}" for o, u in blocks},
            "output.0.weight": "narrow.weight",
            "output.2.weight": "to_image.weight",
        },
        "BaseFuseLayer.": OFFICIAL_BASE,
        "DetailFuseLayer.": OFFICIAL_DETAIL,
    }
    ours = ("encoder.", "decoder.", "base_fusion.", "detail_fusion.")
    return {
        network + o: prefix + u
        for (network, names), prefix in zip(parts.items(), ours, strict=True)
        for o, u in names.items()
    }


class CDDFuse(System):
    """The four networks, their losses and recipe."""

    NAME = "cddfuse"
    Config = Config
    OFFICIAL = NameMap(_official())
    KEEP_REST = True
    PRESET = "cddfuse"
    CONSTANT: ClassVar[tuple[str, ...]] = ()  # names that are saved but not trained
    ssim_loss = staticmethod(kornia_ssim_loss)

    def __init__(self, config: Config):
        super().__init__(config)
        self.make_networks()

    def make_networks(self) -> None:
        """The four networks that a checkpoint holds."""
        self.encoder, self.decoder = Encoder(), Decoder()
        self.base_fusion, self.detail_fusion = BaseExtractor(WIDTH), DetailExtractor(WIDTH, 1)

    def execute(self, a: jt.Var, b: jt.Var, text: jt.Var | None = None) -> jt.Var:
        """a, b (N, 1, H, W) in [0, 1], two pixels or more a side -> (N, 1, H, W) in (0, 1)."""
        return self._decode_fused(a, b, *self._encode(a, b))

    def _encode(self, a: jt.Var, b: jt.Var) -> tuple[jt.Var, jt.Var]:
        """Base and detail (2N, 64, H, W): those of a, and behind them those of b."""
        return self.encoder(jt.concat([a, b]))[:2]

    def _decode_fused(self, a: jt.Var, b: jt.Var, base: jt.Var, detail: jt.Var) -> jt.Var:
        image = {"visible": b, "sum": a + b, "none": None}[self.config.skip]
        base, detail = sum_of_halves(base), sum_of_halves(detail)
        return self.decoder(image, self.base_fusion(base), self.detail_fusion(detail))

    def fuse(
        self,
        a: jt.Var,
        b: jt.Var,
        text: jt.Var | None = None,
        *,
        seed: int | None = None,
        callback: Callable[[int, jt.Var, jt.Var], None] | None = None,
    ) -> jt.Var:
        """The output stretched to [0, 1] per image; a flat one gives 0."""
        return stretch(self(a, b))

    def to_uint8(self, fused: np.ndarray) -> np.ndarray:
        return ties_down(fused)

    def row_names(self) -> tuple[str, ...]:
        """The medical tables have a row for each of the two published weights."""
        medical = {"sum": ("CDDFuse_IVF", "CDDFuse"), "none": ("CDDFuse_MIF", "CDDFuse*")}
        return medical.get(self.config.skip, ())

    def hints(self, task: str) -> list[str]:
        """The authors' test of medical pairs adds something else before the sigmoid."""
        if task != "MIF" or self.config.skip != "visible":
            return []
        return [
            "medical pairs: the authors ran their IVF weights with --skip sum, their MIF weights "
            "with --skip none"
        ]

    def stages(self) -> list[Stage]:
        return [
            Stage("reconstruction", self.config.phase1_epochs),
            Stage("fusion", self.config.phase2_epochs),
        ]

    def parameter_groups(self, stage: Stage) -> list[ParameterGroup]:
        """One Adam for each network; the first two go on from phase I with theirs."""
        c = self.config

        def group(name: str, before: int) -> ParameterGroup:
            def rate(epoch: int) -> float:
                rate = c.learning_rate * c.decay ** ((epoch + before) // c.decay_every)
                return max(rate, min(FLOOR, c.learning_rate))

            own = getattr(self, name).state_dict().items()
            parameters = {f"{name}.{k}": p for k, p in own if f"{name}.{k}" not in self.CONSTANT}
            return ParameterGroup(name, parameters, rate, clip_norm=c.clip_norm)

        if stage.name == "reconstruction":
            return [group("encoder", 0), group("decoder", 0)]
        before = c.phase1_epochs
        return [
            group("encoder", before),
            group("decoder", before),
            group("base_fusion", 0),
            group("detail_fusion", 0),
        ]

    def losses(self, batch: Batch, stage: Stage) -> dict[str, jt.Var]:
        """Equations 7 to 10 of the paper."""
        return self._losses(batch.a, batch.b, stage)

    def _losses(self, a: jt.Var, b: jt.Var, stage: Stage, **drop: float) -> dict[str, jt.Var]:
        """Drop goes to the encoder and the decoder (SFDFuse)."""
        base, detail = self._encode(a, b, **drop)
        decomposition = decomposition_loss(base.chunk(2), detail.chunk(2))
        if stage.name == "reconstruction":
            parts = self._reconstruction(a, b, base, self._details_to_rebuild(detail), **drop)
        else:
            parts = self._fusion(a, b, self._decode_fused(a, b, base, detail, **drop))
        return {
            "total": parts.pop("sum") + self.config.decomposition_weight * decomposition,
            **parts,
            "decomposition": decomposition,
        }

    def _details_to_rebuild(self, detail: jt.Var) -> jt.Var:
        """The details that a and b are rebuilt from."""
        return detail

    def _reconstruction(
        self, a: jt.Var, b: jt.Var, base: jt.Var, detail: jt.Var, **drop: float
    ) -> dict[str, jt.Var]:
        c = self.config
        skip = None if c.skip == "none" else jt.concat([a, b])
        made = self.decoder(skip, base, detail, **drop).chunk(2)
        parts = {
            f"reconstruction_{name}": c.ssim_weight * self.ssim_loss(image, m)
            + ((image - m) ** 2).mean()
            for name, image, m in zip("ab", (a, b), made, strict=True)
        }
        parts["gradient"] = spatial_gradient_loss(b, made[1])
        return {"sum": _sum(parts, gradient=c.gradient_weight), **parts}

    def _fusion(self, a: jt.Var, b: jt.Var, fused: jt.Var) -> dict[str, jt.Var]:
        weight = self.config.fusion_gradient_weight
        total, intensity, gradient = fusion_loss(b, a, fused, weight)
        return {"sum": total, "intensity": intensity, "gradient": gradient}


def _sum(parts: dict[str, jt.Var], **weights: float) -> jt.Var:
    return sum(weights.get(name, 1.0) * value for name, value in parts.items())
