"""Systems with networks in Jittor: parameters, checkpoints, training; and those that sample."""

from __future__ import annotations

from typing import Any

import numpy as np

from jfusion.arrays import is_var
from jfusion.checkpoint import weights
from jfusion.errors import UserError
from jfusion.runtime import jt, nn
from jfusion.systems import stretch
from jfusion.systems.base import Batch, OptimizerConfig, Stage, System


class NetworkSystem(System, nn.Module):
    """A published system: its networks as attributes, its losses and its recipe.

    Parameters are the Vars that `state_dict` names; a Var whose gradient is stopped is a buffer, which
    is saved and loaded, and not trained. In `_fuse`, arrays are Vars.
    """

    @property
    def needs_weights(self) -> bool:
        """Whether the system has parameters, which a checkpoint must bring."""
        return bool(self.state_dict())

    # ---- training

    def stages(self) -> list[Stage]:
        """The phases of training in order."""
        raise UserError(f"{self.name} is not trained: it has no losses")

    def losses(self, batch: Batch, stage: Stage) -> dict[str, jt.Var]:
        """Named scalars, "total" (what is minimized) first."""
        raise UserError(f"{self.name} is not trained: it has no losses")

    def optimizers(self, stage: Stage) -> list[OptimizerConfig]:
        """What is trained in `stage`, and how."""
        raise UserError(f"{self.name} is not trained: it has no losses")

    def preview(self, batch: Batch) -> jt.Var:
        """What the images of a training run show next to a and b, (N, C, H, W) in [0, 1]."""
        return self.fuse(batch.a, batch.b, batch.text)

    # ---- what every system has

    def _run(self, a: Any, b: Any, text: Any | None, seed: int | None, callback: Any) -> Any:
        """`_fuse` on Vars, without keeping what a gradient would need; NumPy arrays give an array."""
        inputs = [x if x is None or is_var(x) else jt.array(np.float32(x)) for x in (a, b, text)]
        with jt.no_grad():
            fused = self._fuse(*inputs, seed, callback)
        return fused if is_var(a) else fused.numpy()

    def trainable(self) -> dict[str, jt.Var]:
        """The parameters by name, without the buffers."""
        return {name: p for name, p in self.state_dict().items() if not p.is_stop_grad()}

    def state(self) -> dict[str, np.ndarray]:
        """All parameters and buffers by name, as NumPy arrays."""
        return {name: p.numpy() for name, p in self.state_dict().items()}

    def load_state(self, state: dict[str, np.ndarray], where: str = "the checkpoint") -> None:
        """Loads parameters by our names, strictly. Raises UserError that lists every name that does not fit."""
        weights.load_state(self, state, where)

    def load_official(self, state: dict[str, np.ndarray], where: str = "the checkpoint") -> None:
        """Loads parameters by the authors' names, strictly but for those that `WEIGHTS` ignores."""
        weights.load_official(self, state, where)


class SamplingSystem(NetworkSystem):
    """A system whose result takes many steps from noise, which can be shown and recorded."""

    def preview_step(self, x: jt.Var, size: tuple[int, int]) -> np.ndarray:
        """The state x of a step as gray images of `size`, (N, h, w) uint8."""
        raise NotImplementedError


def min_max_normalize(fused: jt.Var) -> jt.Var:
    """Min-max normalization of each image (C, H, W) of the batch to [0, 1]; a flat one gives 0.

    Of a clip or a volume, by the extremes that hold for all of it (stretch.py).

    In NumPy: Jittor's kernels may multiply by a reciprocal, and then the maximum is not 1.
    """
    pixels = fused.numpy()
    low, high = stretch.ends(*(f(pixels, (1, 2, 3), keepdims=True) for f in (np.min, np.max)))
    normalized = (pixels - low) / np.maximum(high - low, np.float32(1e-12))
    return jt.array(np.clip(normalized, 0, 1))
