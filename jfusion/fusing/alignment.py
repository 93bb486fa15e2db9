"""Image A laid on image B before they are fused: by a calibration, and by a whole-pixel shift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from jfusion.data import calibration, color, image
from jfusion.data.alignment import Shift, estimate_shift, move
from jfusion.data.calibration import Calibration
from jfusion.errors import counted

if TYPE_CHECKING:
    from jfusion.commands.fuse import Options


@dataclass
class Alignment:
    """What moves A onto B; where A has nothing then, B's gray image stands in for it.

    calibration: a homography of the rig, if there is one. shift: whether a shift is estimated; common: the
    one of all frames of a clip, where it is known. found: the shifts of pairs, by name.
    """

    calibration: Calibration | None = None
    shift: bool = False
    common: Shift | None = None
    found: dict[str, Shift] = field(default_factory=dict)

    @classmethod
    def of(cls, options: Options) -> Alignment:
        """As the options of the command say. Raises UserError for a calibration that cannot be read."""
        rig = calibration.read(options.calib) if options.calib else None
        return cls(rig, options.align == "shift")

    @property
    def moves(self) -> bool:
        """Whether A is moved at all, so that no note has to say that it should be."""
        return self.calibration is not None or self.shift

    def learn(self, pairs: Sequence[tuple[np.ndarray, np.ndarray]], name: str) -> None:
        """Estimates the shift that images of one clip have in common; (H, W, 3) uint8 of any sizes."""
        if self.shift and self.common is None:
            laid = [self._on_grid(a, b) for a, b in pairs]
            self.common = self._estimated(laid, name)

    def apply(self, name: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """A on B's grid, (H, W, 3) uint8; A of any size, b (H, W, 3) uint8."""
        a, b = self._on_grid(a, b)
        if not self.shift:
            return a
        shift = self.found[name] = self.common or self._estimated([(a, b)], name)
        return move(a, shift, _gray(b)) if shift.length else a

    def values(self, name: str, x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """What belongs to A's pixels, such as temperatures (h, w) float32, laid on B's grid as `apply` did.

        Returns (H, W) float32, NaN where A has nothing. Bilinear.
        """
        from PIL import Image

        nothing = np.full(size, np.nan, np.float32)
        if self.calibration is not None:
            out = self.calibration.apply(x[..., None], nothing[..., None])[..., 0]
        else:
            out = np.asarray(Image.fromarray(x).resize(size[::-1], Image.Resampling.BILINEAR))
        shift = self.found.get(name)
        return move(out, shift, nothing) if shift is not None and shift.length else out

    def _on_grid(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.calibration is not None:
            return self.calibration.apply(a, _gray(b)), b
        return image.resample(a, *b.shape[:2]), b

    def _estimated(self, pairs: list[tuple[np.ndarray, np.ndarray]], name: str) -> Shift:
        """The shift, or none where it is not certain; a note says which."""
        from tqdm import tqdm

        shift = estimate_shift([(color.gray(a), color.gray(b)) for a, b in pairs])
        if shift.certainty < 1:
            tqdm.write(f"note: {name}: no shift is certain; A stays where it is")
            return Shift(0, 0, 0.0)
        if shift.length:
            tqdm.write(
                f"note: {name}: A is moved by {counted(shift.columns, 'column', '+d')} and {counted(shift.rows, 'row', '+d')}"
            )
        return shift


def _gray(rgb: np.ndarray) -> np.ndarray:
    """A gray image (H, W, 3) uint8."""
    return np.repeat(color.gray(rgb).astype(np.uint8)[..., None], 3, 2)
