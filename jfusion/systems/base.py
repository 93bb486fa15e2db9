"""The contract of a system: what the trainer, the tester and the command line rely on.

A new system is one file that subclasses `System`, and one line in `names.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from jfusion.checkpoint import NameMap, check_names
from jfusion.data import image
from jfusion.data.h5 import Pair
from jfusion.errors import UserError
from jfusion.runtime import jt, nn


class Picture(NamedTuple):
    """A fused image as it is written: gray (H, W) uint8, and shown, the same or (H, W, 3) in colour."""

    gray: np.ndarray
    shown: np.ndarray


class Batch(NamedTuple):
    """Pairs of one shape: a, b (N, C, H, W) in [0, 1]; text (N, L, D) or None; the samples' names."""

    a: jt.Var
    b: jt.Var
    text: jt.Var | None
    names: list[str]


@dataclasses.dataclass(frozen=True)
class Stage:
    """A phase of training; most systems have one."""

    name: str
    epochs: int


@dataclasses.dataclass(frozen=True)
class ParameterGroup:
    """Parameters that one Adam optimiser moves.

    learning_rate: epoch (counted from 0 in its stage) -> rate; or, in its place, step_rate: (step of
    the stage, steps per epoch) -> rate. clip_norm: the largest L2 norm of the group's gradient, None
    for no clipping. decoupled: the weight decay is AdamW's.
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


class System(nn.Module):
    """One published system: its networks as attributes, and the methods below."""

    NAME: ClassVar[str]
    Config: ClassVar[type]  # a frozen dataclass: sizes, and the paper's training recipe as defaults
    OFFICIAL: ClassVar[NameMap]  # the authors' parameter names -> ours
    DEAD: ClassVar[tuple[str, ...]] = ()  # prefixes of the authors' names that change nothing
    OPTIONAL: ClassVar[tuple[str, ...]] = ()  # the same, but we have them too; a file may lack them
    USES_TEXT: ClassVar[bool] = False
    KEEP_REST: ClassVar[bool] = False  # whether an epoch ends with an incomplete batch
    CROP: ClassVar[tuple[int, int] | None] = (
        None  # of training windows, unless --crop says otherwise
    )
    AUGMENT: ClassVar[bool] = False  # whether it is trained on random flips and quarter turns
    SINGLE_IMAGES: ClassVar[bool] = False  # whether it can be trained on a folder of images
    STEPWISE: ClassVar[bool] = False  # whether `fuse` takes many steps, from noise
    PRESET: ClassVar[str] = "film"  # the evaluator that its paper used, see jfusion.metrics

    TAKES: ClassVar[tuple[str, ...]] = ()  # other systems whose checkpoints it takes
    WARM: ClassVar[dict[str, Any]] = {}  # settings that need the same kernels, for `jfusion doctor`
    GET_WEIGHTS: ClassVar[str] = ""  # for a system that is not trained: where its weights come from

    def __init__(self, config: Any):
        self.config = config

    # ---- what a system defines

    def execute(self, a: jt.Var, b: jt.Var, text: jt.Var | None = None) -> jt.Var:
        """The network itself, before any post-processing."""
        raise NotImplementedError

    def stages(self) -> list[Stage]:
        """The phases of training in order."""
        raise NotImplementedError

    def losses(self, batch: Batch, stage: Stage) -> dict[str, jt.Var]:
        """Named scalars, "total" (what is minimised) first."""
        raise NotImplementedError

    def parameter_groups(self, stage: Stage) -> list[ParameterGroup]:
        """What is trained in `stage`, and how."""
        raise NotImplementedError

    def fuse(
        self,
        a: jt.Var,
        b: jt.Var,
        text: jt.Var | None = None,
        *,
        seed: int | None = None,
        callback: Callable[[int, jt.Var, jt.Var], None] | None = None,
    ) -> jt.Var:
        """The fused image with the reference's post-processing: (N, C, H, W) in [0, 1], any size.

        seed fixes what is random. Systems that take many steps call callback(k, x, clean) after each:
        the step's index, counting down to 0, the new x, and the estimate of the clean image.
        """
        raise NotImplementedError

    def planes(self, pair: Pair, training: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """What the networks see of a pair: a, b (C, H, W) float32 in [0, 1]; gray unless overridden."""
        return pair.a, pair.b

    def picture(self, fused: np.ndarray, pair: Pair) -> Picture:
        """A fused image (C, h, w) as it is written, with the chroma that the pair gives it.

        Where `fused` is smaller than the pair, it is the upper left of it.
        """
        gray, chroma = self.to_uint8(fused)[0], pair.chroma
        if chroma is None:
            return Picture(gray, gray)
        h, w = gray.shape
        return Picture(gray, image.with_chroma(gray, chroma[:, :h, :w]))

    def frame(self, x: jt.Var, size: tuple[int, int]) -> np.ndarray:
        """A step of `fuse` as pictures (N, h, w) uint8, for recordings; of a `STEPWISE` system."""
        raise NotImplementedError

    def of(self, dataset: str) -> System:
        """The system as it treats pairs of this data set, with the same networks."""
        return self

    def turns(self, datasets: list[str]) -> list[int]:
        """Which of several training sets take turns, an epoch each, drawn at random; one may come twice."""
        listed = ", ".join(datasets)
        raise UserError(
            f"{self.NAME} is trained on one set at a time, and these were given: {listed}"
        )

    def preview(self, batch: Batch) -> jt.Var:
        """What the pictures of a training run show beside a and b."""
        return self.fuse(batch.a, batch.b, batch.text)

    def to_uint8(self, fused: np.ndarray) -> np.ndarray:
        """The reference's way from [0, 1] to the 0..255 that it saves; rounds unless overridden."""
        return np.round(fused * 255).astype(np.uint8)

    @classmethod
    def settings_of(cls, model: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The settings that the authors' tensors decide: their files carry no configuration."""
        return {}

    def row_names(self) -> tuple[str, ...]:
        """What the papers' tables call this system with these settings; () for its usual name."""
        return ()

    def hints(self, task: str) -> list[str]:
        """A line for each setting that does not suit the task (IVF, MIF, ...)."""
        return []

    # ---- what every system has

    def state(self) -> dict[str, np.ndarray]:
        """All parameters by name."""
        return {name: p.numpy() for name, p in self.state_dict().items()}

    def load_state(
        self, state: dict[str, np.ndarray], where: str = "the checkpoint", take: bool = False
    ) -> None:
        """Takes over parameters by our names; strict: one error lists every name that does not fit.

        take: empties `state` on the way, so that large weights are never in memory twice.
        """
        own = self.state_dict()
        check_names({k: v.shape for k, v in own.items()}, state, where, self.NAME)
        for name, parameter in own.items():
            value = state.pop(name) if take else state[name]
            parameter.update(jt.array(np.ascontiguousarray(value, np.float32)))
            parameter.start_grad()
            if value.size == 1:  # as a constant, Jittor cannot always spread it over an image
                parameter.sync()

    def load_official(
        self, state: dict[str, np.ndarray], where: str = "the checkpoint", take: bool = False
    ) -> None:
        """Takes over parameters by the authors' names; strict, but for `DEAD` and `OPTIONAL` ones, and
        for the batches that PyTorch's BatchNorm counts.
        """
        own = {self.OFFICIAL.official(name): v for name, v in self.state_dict().items()}
        kept = {name: v.numpy() for name, v in own.items() if name.startswith(self.OPTIONAL)}
        found = {
            name: v
            for name, v in state.items()
            if not name.startswith(self.DEAD) and not name.endswith(".num_batches_tracked")
        }
        found = {**kept, **found}
        check_names({name: v.shape for name, v in own.items()}, found, where, self.NAME)
        if take:
            state.clear()
        self.load_state({self.OFFICIAL.ours(name): found.pop(name) for name in own}, where, True)

    def load_any(
        self,
        state: dict[str, np.ndarray],
        where: str = "the checkpoint",
        partial: bool = False,
        take: bool = False,
    ) -> None:
        """Ours or the authors', told apart by the names; strict.

        partial: takes what fits, keeps the present values of the rest, and prints both lists. take: as
        `load_state`.
        """
        own = self.state_dict()
        ours = sum(name in own for name in state)
        official = sum(self.OFFICIAL.ours(name) in own for name in state)
        if partial:
            state = {self.OFFICIAL.ours(k) if official > ours else k: v for k, v in state.items()}
            self.load_state(self._what_fits(state, where), where)
        else:
            (self.load_official if official > ours else self.load_state)(state, where, take)

    def _what_fits(self, state: dict[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
        own = self.state()
        shapes = {name: np.shape(value) for name, value in state.items()}
        fits = [name for name, value in own.items() if shapes.get(name) == value.shape]
        if not fits:
            raise UserError(f"{where}: none of its {len(state)} tensors fits {self.NAME}")
        kept = [name for name in own if name not in fits]
        skipped = [f"{name} {list(shape)}" for name, shape in shapes.items() if name not in fits]
        print(f"{where}: {len(fits)} of {len(own)} tensors taken")
        for what, names in (("skipped from the file", skipped), ("left as they were", kept)):
            if names:
                print(f"  {len(names)} {what}: {', '.join(names)}")
        return {**own, **{name: state[name] for name in fits}}

    def need_text(self, text: jt.Var | None, a: jt.Var) -> None:
        """Raises UserError unless `text` is (N, L, config.text_dim) for the N images of `a`."""
        width = self.config.text_dim
        if text is None:
            raise UserError(f"{self.NAME} needs paragraph features, and none were given")
        if text.ndim != 3 or text.shape[0] != a.shape[0] or text.shape[2] != width:
            raise UserError(
                f"paragraph features of shape {list(text.shape)} do not fit {a.shape[0]} images and "
                f"text_dim {width}; make them with the encoder that the checkpoint was trained with"
            )


def stretch(fused: jt.Var) -> jt.Var:
    """Each image (C, H, W) of the batch to [0, 1]; a flat one gives 0.

    In NumPy: Jittor's kernels may multiply by a reciprocal, and then the maximum is not 1.
    """
    pixels = fused.numpy()
    low, high = (f(pixels, (1, 2, 3), keepdims=True) for f in (np.min, np.max))
    return jt.array((pixels - low) / np.maximum(high - low, np.float32(1e-12)))


def cut(fused: np.ndarray) -> np.ndarray:
    """[0, 1] -> 0..255, the fraction cut off, as several authors' scripts do."""
    return (fused * np.float32(255)).astype(np.uint8)


def ties_down(fused: np.ndarray) -> np.ndarray:
    """[0, 1] -> 0..255, the nearest, ties down, as some authors' writers did."""
    return np.floor(fused * 255 + 0.499999999).astype(np.uint8)
