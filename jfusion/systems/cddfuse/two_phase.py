"""The recipe that CDDFuse and SFDFuse share: reconstruct each image, then train the fusion."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from jfusion.layers import tiles
from jfusion.layers.losses import (
    decomposition_loss,
    fusion_loss,
    mean_squared_error,
    spatial_gradient_loss,
)
from jfusion.runtime import jt
from jfusion.systems.base import Batch, OptimizerConfig, Stage
from jfusion.systems.cddfuse.config import TwoPhaseConfig
from jfusion.systems.network import NetworkSystem, min_max_normalize

LOWEST_RATE = 1e-6  # no learning rate falls below it


class TwoPhaseSystem(NetworkSystem):
    """Networks that decompose two images into base and detail features, trained in two phases.

    A subclass sets the networks `encoder`, `decoder`, `base_fusion` and `detail_fusion`, each of which
    has an optimizer, and defines `encode`, `reconstruct`, `decode_fused` and `ssim_loss`.

    a is the infrared and b the visible image, (N, 1, H, W) in [0, 1]. A map of features holds those of
    a first and those of b behind them in the batch: (2N, C, H, W).
    """

    config: TwoPhaseConfig
    # How large images are fused; None: in one piece.
    TILING: ClassVar[tiles.Tiling | None] = None

    def encode(self, a: jt.Var, b: jt.Var) -> tuple[jt.Var, jt.Var]:
        """Returns the base and the detail features of both images, (2N, C, H, W) each."""
        raise NotImplementedError

    def reconstruct(self, a: jt.Var, b: jt.Var, base: jt.Var, detail: jt.Var) -> jt.Var:
        """Decodes each image from its own features (phase I): (2N, 1, H, W) in (0, 1)."""
        raise NotImplementedError

    def decode_fused(self, a: jt.Var, b: jt.Var, base: jt.Var, detail: jt.Var) -> jt.Var:
        """Fuses the features of both images and decodes them (phase II): (N, 1, H, W) in (0, 1)."""
        raise NotImplementedError

    def ssim_loss(self, x: jt.Var, y: jt.Var) -> jt.Var:
        """Returns the structural loss of two images (N, 1, H, W), a scalar."""
        raise NotImplementedError

    def execute(self, a: jt.Var, b: jt.Var) -> jt.Var:
        """Fuses a, b (N, 1, H, W) in [0, 1] to an image (N, 1, H, W) in (0, 1)."""
        return self.decode_fused(a, b, *self.encode(a, b))

    def _fuse(
        self,
        a: jt.Var,
        b: jt.Var,
        text: jt.Var | None,
        seed: int | None,
        callback: Callable | None,
    ) -> jt.Var:
        """The output of the network, min-max normalized per image."""
        fused = tiles.whole(self, a, b, tiling=self.TILING) if self.TILING else self(a, b)
        return min_max_normalize(fused)

    # ---- training

    def stages(self) -> list[Stage]:
        """Returns the two phases."""
        c = self.config
        return [Stage("reconstruction", c.phase1_epochs), Stage("fusion", c.phase2_epochs)]

    def optimizers(self, stage: Stage) -> list[OptimizerConfig]:
        """Returns one Adam for each network; encoder and decoder keep theirs in phase II."""
        if stage.name == "reconstruction":
            return [self._optimizer("encoder", 0), self._optimizer("decoder", 0)]
        before = self.config.phase1_epochs
        return [
            self._optimizer("encoder", before),
            self._optimizer("decoder", before),
            self._optimizer("base_fusion", 0),
            self._optimizer("detail_fusion", 0),
        ]

    def _optimizer(self, network: str, epochs_before: int) -> OptimizerConfig:
        """The Adam of one network, which was trained for `epochs_before` epochs before the stage."""
        c = self.config

        def rate(epoch: int) -> float:
            decayed = c.learning_rate * c.decay ** ((epoch + epochs_before) // c.decay_every)
            return max(decayed, min(LOWEST_RATE, c.learning_rate))

        prefix = f"{network}."
        parameters = {k: p for k, p in self.trainable().items() if k.startswith(prefix)}
        return OptimizerConfig(network, parameters, rate, clip_norm=c.clip_norm)

    def losses(self, batch: Batch, stage: Stage) -> dict[str, jt.Var]:
        """Returns the losses of one phase, "total" first (CDDFuse, equations 7 to 10)."""
        a, b = batch.a, batch.b
        base, detail = self.encode(a, b)
        decomposition = decomposition_loss(base.chunk(2), detail.chunk(2))
        if stage.name == "reconstruction":
            parts = self.reconstruction_losses(a, b, self.reconstruct(a, b, base, detail))
            weight = self.config.gradient_weight
        else:
            parts = self.fusion_losses(a, b, self.decode_fused(a, b, base, detail))
            weight = self.config.fusion_gradient_weight
        total = sum(weight * v if k == "gradient" else v for k, v in parts.items())
        return {
            "total": total + self.config.decomposition_weight * decomposition,
            **parts,
            "decomposition": decomposition,
        }

    def reconstruction_losses(
        self, a: jt.Var, b: jt.Var, reconstructed: jt.Var
    ) -> dict[str, jt.Var]:
        """Returns the losses of phase I without the decomposition; the gradients are those of b alone.

        reconstructed (2N, 1, H, W) holds a and, behind it in the batch, b.
        """
        of_a, of_b = reconstructed.chunk(2)
        return {
            "reconstruction_a": self._reconstruction_loss(a, of_a),
            "reconstruction_b": self._reconstruction_loss(b, of_b),
            "gradient": spatial_gradient_loss(b, of_b),
        }

    def _reconstruction_loss(self, x: jt.Var, reconstructed: jt.Var) -> jt.Var:
        """ssim_weight * the SSIM loss + the mean squared error."""
        ssim = self.ssim_loss(x, reconstructed)
        return self.config.ssim_weight * ssim + mean_squared_error(x, reconstructed)

    def fusion_losses(self, a: jt.Var, b: jt.Var, fused: jt.Var) -> dict[str, jt.Var]:
        """Returns the losses of phase II without the decomposition; a, b, fused (N, 1, H, W)."""
        weight = self.config.fusion_gradient_weight
        _, intensity, gradient = fusion_loss(b, a, fused, weight)
        return {"intensity": intensity, "gradient": gradient}
