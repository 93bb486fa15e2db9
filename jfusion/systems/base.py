"""The contract of a system: what the trainer, the tester and the command line rely on.

`System` is a method of fusion and needs no Jittor; `NetworkSystem` (network.py) adds parameters and
training, `SamplingSystem` a result that takes many steps. A new system is one folder and one line in
registry.py, or a package of its own (see there).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from jfusion.checkpoint import WeightMap
from jfusion.config import SystemConfig
from jfusion.data import color
from jfusion.data.h5 import Pair
from jfusion.errors import UserError

if TYPE_CHECKING:
    from jfusion.runtime import jt


class FusedImage(NamedTuple):
    """A fused image as it is written: gray (H, W) uint8, and rgb (H, W, 3) uint8 where it has color."""

    gray: np.ndarray
    rgb: np.ndarray | None = None

    @property
    def image(self) -> np.ndarray:
        """The colored image where there is one, otherwise the gray one."""
        return self.gray if self.rgb is None else self.rgb


class Batch(NamedTuple):
    """Pairs of one shape, for training.

    a, b (N, C, H, W) float32 in [0, 1]; text (N, L, D) float32 or None; names: those of the samples;
    dataset: the data set that they are of, "" if none is known.
    """

    a: jt.Var
    b: jt.Var
    text: jt.Var | None
    names: list[str]
    dataset: str = ""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A phase of training; most systems have one."""

    name: str
    epochs: int


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """One Adam optimizer: its parameters, learning rate and rule.

    learning_rate: epoch (counted from 0 in its stage) -> rate; or, in its place, step_rate: (step of
    the stage, steps per epoch) -> rate. clip_norm: the largest L2 norm of the whole gradient, None for
    no clipping. decoupled: the weight decay is AdamW's.
    """

    name: str
    parameters: dict[str, jt.Var]
    learning_rate: Callable[[int], float] | None
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = None
    decoupled: bool = False
    step_rate: Callable[[int, int], float] | None = None

    def rate(self, epoch: int, batch: int, per_epoch: int) -> float:
        """The learning rate of one step."""
        if self.step_rate is not None:
            return self.step_rate(epoch * per_epoch + batch, per_epoch)
        return self.learning_rate(epoch)


class System:
    """A method that fuses two images into one.

    A subclass defines `Config` and `_fuse`. Arrays of images are (N, C, H, W) float32 in [0, 1].
    """

    Config: ClassVar[type[SystemConfig]] = SystemConfig
    WEIGHTS: ClassVar[WeightMap] = WeightMap(
        {}
    )  # the authors' parameter names, and where to get files

    def __init__(self, config: SystemConfig | None = None):
        self.config = self.Config() if config is None else config

    @property
    def name(self) -> str:
        """The name in the registry: "film", ..."""
        from jfusion.systems.registry import name_of

        return name_of(type(self))

    @property
    def needs_weights(self) -> bool:
        """Whether the system has parameters, which a checkpoint must bring."""
        return False

    @property
    def reads_text(self) -> bool:
        """Whether the system needs features of a paragraph: its Config has a `text_dim`."""
        return hasattr(self.config, "text_dim")

    # ---- what a system may change

    def preprocess(self, pair: Pair, training: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """The two arrays (C, H, W) float32 in [0, 1] that `fuse` gets of a pair; the gray images here."""
        return pair.a, pair.b

    def postprocess(self, fused: np.ndarray, pair: Pair) -> FusedImage:
        """A fused array (C, h, w) in [0, 1] as an image of 8 bits, with the color that the pair gives it.

        Where `fused` is smaller than the pair, it is the upper left part of it.
        """
        return with_color_of(pair, round_to_uint8(fused)[0])

    def _fuse(
        self,
        a: Any,
        b: Any,
        text: Any | None,
        seed: int | None,
        callback: Callable[[int, Any, Any], None] | None,
    ) -> Any:
        """a, b (N, C, H, W) in [0, 1], of NumPy here and of Jittor in a `NetworkSystem` -> the fused
        images (N, C, H', W') with H' >= H; or smaller, where the published code drops a border."""
        raise NotImplementedError

    @classmethod
    def infer_settings(cls, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The settings that the tensors of a checkpoint decide, by our names or the authors'."""
        return {}

    # ---- what every system has

    def fuse(
        self,
        a: Any,
        b: Any,
        text: Any | None = None,
        *,
        seed: int | None = None,
        callback: Callable[[int, Any, Any], None] | None = None,
    ) -> Any:
        """The fused images of a batch of pairs: a, b (N, C, H, W) in [0, 1] -> (N, C, H, W) in [0, 1].

        text (N, L, text_dim): features of the paragraphs, for a system that reads them. seed fixes what
        is random. A system that takes many steps calls callback(i, x, pred_x0) after each: the step's
        index, counting down to 0, the new x, and the estimate of the final image.
        """
        self.check_text(text, a)
        fused = self._fuse(a, b, text, seed, callback)
        return fused[:, :, : a.shape[2], : a.shape[3]]

    def check_text(self, text: Any | None, a: Any) -> None:
        """Raises UserError unless `text` is (N, L, text_dim) for the N images of `a`, where it is read."""
        if not self.reads_text:
            return
        width = self.config.text_dim
        if text is None:
            raise UserError(f"{self.name} needs paragraph features, and none were given")
        if text.ndim != 3 or text.shape[0] != a.shape[0] or text.shape[2] != width:
            raise UserError(
                f"paragraph features of shape {list(text.shape)} do not fit {a.shape[0]} images and "
                f"text_dim {width}; make them with the encoder that the checkpoint was trained with"
            )


# ---- from [0, 1] to 8 bits ---------------------------------------------------------------------


def with_color_of(pair: Pair, gray: np.ndarray) -> FusedImage:
    """A fused gray image (h, w) uint8 with the chroma that the pair gives it, if any."""
    if pair.chroma is None:
        return FusedImage(gray)
    h, w = gray.shape
    return FusedImage(gray, color.with_chroma(gray, pair.chroma[:, :h, :w]))


def round_to_uint8(fused: np.ndarray) -> np.ndarray:
    """[0, 1] -> 0..255, the nearest, ties to even."""
    return np.round(fused * 255).astype(np.uint8)


def floor_to_uint8(fused: np.ndarray) -> np.ndarray:
    """[0, 1] -> 0..255, rounded down, as several authors' scripts do."""
    return (fused * np.float32(255)).astype(np.uint8)


def round_half_down_to_uint8(fused: np.ndarray) -> np.ndarray:
    """[0, 1] -> 0..255, the nearest, ties down, as some authors' image writers did."""
    return np.floor(fused * 255 + 0.499999999).astype(np.uint8)
