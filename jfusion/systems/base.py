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

from jfusion import arrays
from jfusion.checkpoint import WeightMap
from jfusion.config import SystemConfig
from jfusion.data import color
from jfusion.data.h5 import Pair
from jfusion.errors import UserError, counted

if TYPE_CHECKING:
    from jfusion.runtime import jt


BAND_PIXELS = 2_000_000  # of a band of a large image, for a method of limited radius


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
    # The channels of the arrays that `preprocess` gives for a and b.
    CHANNELS: ClassVar[tuple[int, int]] = (1, 1)
    # Whether `postprocess` is more than rounding, so that a result has 8 bits and no more.
    EIGHT_BITS: ClassVar[bool] = False
    # The authors' parameter names, and where to get their files.
    WEIGHTS: ClassVar[WeightMap] = WeightMap({})
    # Features (L, D) of a paragraph that fits every pair, where the weights bring them: `fuse` uses them
    # for a caller who has no description.
    neutral_text: np.ndarray | None = None

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

    @property
    def smallest_side(self) -> int:
        """The least height and width in pixels of an image that the system can fuse."""
        return 1

    @property
    def radius(self) -> int | None:
        """How many pixels away a pixel of the result still depends on the images; None: without a limit."""
        return None

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

    def __repr__(self) -> str:
        """The class, its name, and the settings that differ from the paper's."""
        default = {f.name: f.default for f in dataclasses.fields(self.config)}
        changed = {
            k: getattr(self.config, k) for k, v in default.items() if getattr(self.config, k) != v
        }
        settings = "".join(f", {k}={v!r}" for k, v in changed.items())
        return f"<{type(self).__name__} {self.name!r}{settings}>"

    def __str__(self) -> str:
        """As `repr`; Jittor's own lists every layer."""
        return repr(self)

    def fuse(
        self,
        a: Any,
        b: Any,
        text: Any | None = None,
        *,
        seed: int | None = None,
        callback: Callable[[int, Any, Any], None] | None = None,
    ) -> Any:
        """Fuses one pair of images or a batch of pairs, and returns the kind that it was given.

        a, b: NumPy arrays, PIL images or Jittor Vars of one size, uint8 or floating point in [0, 1].

        * One pair: (H, W) for gray, (H, W, 3) for color, or PIL images. The result is an image of the
          same size; it has color where a source has color. A list of images gives a list.
        * A batch: floating point (N, C, H, W) in [0, 1], the arrays that `preprocess` gives (C is 1 for
          both, but for systems that say otherwise) -> (N, C, H, W) in [0, 1].

        text: the features of the paragraphs, (N, L, text_dim), or (L, text_dim) for one pair, for a
        system that reads them; without it, a paragraph that fits every pair is used where the weights
        bring one. seed fixes what is random (default: the paper's). A system that takes many
        steps calls callback(i, x, pred_x0) after each: the step's index, counting down to 0, the new x,
        and the estimate of the final image. Raises UserError in one sentence for values, ranks or sizes
        that do not fit.
        """
        images = [arrays.read(x, name) for x, name in ((a, "a"), (b, "b"))]
        for x, name in zip(images, ("a", "b"), strict=True):
            arrays.check_unit_range(x, name)
        _check_sizes(*images)
        text = _read_text(text)
        if text is None and self.reads_text and self.neutral_text is not None:
            text = np.repeat(self.neutral_text[None], len(images[0].arrays), 0)
        if all(map(self._is_direct, images)):
            return self._fuse_direct(a, b, text, seed, callback)
        return arrays.write(self._fuse_images(*images, text, seed, callback), images[0])

    def _is_direct(self, images: arrays.Images) -> bool:
        """Whether images are what `preprocess` gives: floating point, and not an image of one pair in color."""
        one_gray = (
            self.CHANNELS == (1, 1) and images.layout == "image" and images.arrays[0].ndim == 2
        )
        return (
            not images.is_uint8
            and images.kind != "pil"
            and (images.layout in ("NCHW", "CHW") or one_gray)
        )

    def _fuse_direct(
        self, a: Any, b: Any, text: Any | None, seed: int | None, callback: Callable | None
    ) -> Any:
        """Arrays or Vars of two to four dimensions, through `_run` and back to the same number of them."""
        rank = len(a.shape)
        a, b = (x.reshape((*(1,) * (4 - len(x.shape)), *x.shape)) for x in (a, b))
        for x, name, channels in zip((a, b), "ab", self.CHANNELS, strict=True):
            if x.shape[1] != channels:
                raise UserError(
                    f"{self.name} needs {name} with {channels} channel{'s' * (channels > 1)}, not "
                    f"{x.shape[1]} (shape {list(x.shape)})"
                )
        least, (height, width) = self.smallest_side, a.shape[2:]
        if min(height, width) < least:
            raise UserError(
                f"{self.name} fuses images of {least} pixels or more a side, not {height}x{width}"
            )
        if text is not None and len(text.shape) == 2:
            text = text.reshape((1, *text.shape))
        self.check_text(text, a)
        if text is not None and not _is_finite(text):
            raise UserError("the paragraph features hold NaN or infinite values")
        fused = self._run(a, b, text, seed, callback)
        _check_fused(fused, a.shape[0], self.name)
        fused = fused[:, :, : a.shape[2], : a.shape[3]]
        if not _is_finite(fused):
            raise UserError(
                f"{self.name} gives NaN or infinite values for this pair; its weights are damaged or its settings wrong"
            )
        return fused.reshape(fused.shape[4 - rank :])

    def _fuse_images(
        self,
        a: arrays.Images,
        b: arrays.Images,
        text: Any | None,
        seed: int | None,
        callback: Callable | None,
    ) -> list[np.ndarray]:
        """Images of 8 bits, each pair as `jfusion fuse` does it."""
        texts = [None] * len(a.arrays) if text is None else _texts(text, len(a.arrays))
        fused = []
        for x, y, features in zip(a.arrays, b.arrays, texts, strict=True):
            pair = pair_of(_to_rgb(x), _to_rgb(y), features)
            inputs = (v[None] for v in self.preprocess(pair))
            text = None if features is None else features[None]
            out = np.asarray(self._fuse_direct(*inputs, text, seed, callback))
            fused.append(self.postprocess(out[0], pair).image)
        return fused

    def _run(self, a: Any, b: Any, text: Any | None, seed: int | None, callback: Any) -> Any:
        """`_fuse` on NumPy arrays; a Jittor Var becomes one, and the result a Var again."""
        inputs = [np.asarray(x.numpy() if arrays.is_var(x) else x, np.float32) for x in (a, b)]
        fused = self._fuse_bands(*map(_read_only, inputs), text, seed, callback)
        _check_fused(fused, len(inputs[0]), self.name)
        low, high = fused.min(), fused.max()
        if low < -arrays.TOLERANCE or high > 1 + arrays.TOLERANCE:
            raise UserError(f"{self.name} gives values from {low:g} to {high:g}, not from 0 to 1")
        if not arrays.is_var(a):
            return fused
        from jfusion.runtime import jt

        return jt.array(fused)

    def _fuse_bands(
        self, a: np.ndarray, b: np.ndarray, text: Any | None, seed: int | None, callback: Any
    ) -> np.ndarray:
        """`_fuse`, of a large image and a method of limited radius on one band of rows after another."""
        height, width = a.shape[2:]
        rows = max(1, BAND_PIXELS // width)
        if self.radius is None or height <= 2 * rows:
            return self._fuse(a, b, text, seed, callback)
        parts = []
        for first in range(0, height, rows):
            top, last = max(0, first - self.radius), min(height, first + rows)
            band = slice(top, last + self.radius)
            fused = self._fuse(a[:, :, band], b[:, :, band], text, seed, callback)
            parts.append(fused[:, :, first - top : last - top])
        return np.concatenate(parts, 2)

    def check_text(self, text: Any | None, a: Any) -> None:
        """Raises UserError unless `text` is (N, L, text_dim) for the N images of `a`, where it is read."""
        if not self.reads_text:
            return
        width = self.config.text_dim
        if text is None:
            raise UserError(f"{self.name} needs paragraph features, and none were given")
        if text.ndim == 3 and text.shape[0] != a.shape[0]:
            raise UserError(
                f"paragraph features for {counted(text.shape[0], 'pair')} do not fit {counted(a.shape[0], 'pair')} of images; give one "
                "paragraph of each pair"
            )
        if text.ndim != 3 or text.shape[1] < 1 or text.shape[2] != width:
            raise UserError(
                f"paragraph features of shape {list(text.shape)} do not fit {counted(a.shape[0], 'image')} and "
                f"text_dim {width}; make them with the encoder that the checkpoint was trained with"
            )


# ---- images of a caller ------------------------------------------------------------------------


def pair_of(
    rgb_a: np.ndarray, rgb_b: np.ndarray, text: np.ndarray | None = None, name: str = "pair"
) -> Pair:
    """A pair of two images (H, W, 3) uint8; the result gets the color of those that have color."""
    colors = [color.is_color(x) for x in (rgb_a, rgb_b)]
    rule = {(True, True): "weighted", (True, False): "a", (False, True): "b"}.get(
        tuple(colors), "none"
    )
    return Pair.of_images(name, rgb_a, rgb_b, text, rule)


def _to_rgb(x: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, 3), uint8 or in [0, 1] -> (H, W, 3) uint8."""
    eight = x if x.dtype == np.uint8 else np.round(np.clip(x, 0, 1) * 255).astype(np.uint8)
    return np.repeat(eight[..., None], 3, 2) if eight.ndim == 2 else np.ascontiguousarray(eight)


def _read_text(text: Any | None) -> Any | None:
    """Paragraph features as float32; a Var stays one. Raises UserError when they are no numbers."""
    if text is None or arrays.is_var(text):
        return text
    try:
        with np.errstate(
            over="ignore"
        ):  # what float32 cannot hold becomes infinite, which is refused
            return np.asarray(text, np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"text must hold the features of paragraphs, (N, L, D) numbers, not {type(text).__name__}; "
            "jfusion embed makes them of a paragraph"
        ) from error


def _read_only(x: np.ndarray) -> np.ndarray:
    """The same array, which a system cannot change: it may be the caller's own."""
    view = x.view()
    view.flags.writeable = False
    return view


def _check_fused(fused: Any, count: int, name: str) -> None:
    """Raises UserError unless a system gave `count` images (N, C, H, W) of floating point."""
    shape, kind = getattr(fused, "shape", None), str(getattr(fused, "dtype", ""))
    if shape is None or len(shape) != 4 or "float" not in kind:
        what = f"{kind} of shape {list(shape)}" if kind else type(fused).__name__
        raise UserError(f"{name} gives {what}, not floating-point images (N, C, H, W)")
    if shape[0] != count or shape[1] not in (1, 3) or 0 in shape:
        raise UserError(f"{name} gives images of shape {list(shape)} for {counted(count, 'pair')}")


def _texts(text: Any, count: int) -> list[np.ndarray]:
    """The features of each of `count` pairs, (L, D) float32."""
    values = text.numpy() if arrays.is_var(text) else text
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3 or len(values) != count:
        raise UserError(
            f"text must be (N, L, D) for {counted(count, 'pair')}, not {list(values.shape)}"
        )
    return list(values)


def _is_finite(x: Any) -> bool:
    return bool(np.isfinite(x.numpy() if arrays.is_var(x) else x).all())


def _check_sizes(a: arrays.Images, b: arrays.Images) -> None:
    if len(a.arrays) != len(b.arrays):
        raise UserError(
            f"a holds {counted(len(a.arrays), 'image')} and b {len(b.arrays)}; give one partner each"
        )
    for i, (x, y) in enumerate(zip(a.arrays, b.arrays, strict=True)):
        if x.shape[:2] != y.shape[:2]:
            place = f" of pair {i}" if len(a.arrays) > 1 else ""
            raise UserError(
                f"the images{place} are {x.shape[0]}x{x.shape[1]} and {y.shape[0]}x{y.shape[1]}; both must "
                "have one size"
            )


# ---- from [0, 1] to 8 bits ---------------------------------------------------------------------


def with_color_of(pair: Pair, gray: np.ndarray) -> FusedImage:
    """A fused gray image (h, w) uint8 with the chroma that the pair gives it, if any."""
    chroma = pair.chroma  # computed at each access
    if chroma is None:
        return FusedImage(gray)
    h, w = gray.shape
    return FusedImage(gray, color.with_chroma(gray, chroma[:, :h, :w]))


def round_to_uint8(fused: np.ndarray) -> np.ndarray:
    """[0, 1] -> 0..255, the nearest, ties to even."""
    return np.clip(np.round(fused * 255), 0, 255).astype(np.uint8)


def floor_to_uint8(fused: np.ndarray) -> np.ndarray:
    """[0, 1] -> 0..255, rounded down, as several authors' scripts do."""
    return np.clip(fused * np.float32(255), 0, 255).astype(np.uint8)


def round_half_down_to_uint8(fused: np.ndarray) -> np.ndarray:
    """[0, 1] -> 0..255, the nearest, ties down, as some authors' image writers did."""
    return np.clip(np.floor(fused * 255 + 0.499999999), 0, 255).astype(np.uint8)
