"""Thermal images: temperatures of radiometric files, palettes, and the overlay of what is hot.

A radiometric JPEG of a FLIR camera holds the sensor's values behind its picture; the library flyr (the
optional extra `thermal`) makes temperatures of them. Other cameras write TIFF or PNG of 16 bits, in counts
or in a fraction of a Kelvin.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from jfusion.data import image
from jfusion.data.depth import Range
from jfusion.errors import UserError, printable
from jfusion.files import replacing

ZERO = 273.15  # Kelvin of 0 degrees Celsius
PLAUSIBLE = (-50.0, 200.0)  # degrees Celsius of what thermal cameras for daily use show
Palette = Literal["white-hot", "black-hot", "iron", "rainbow"]
# Colors from cold to hot, evenly spaced.
ANCHORS: dict[str, list[tuple[int, int, int]]] = {
    "white-hot": [(0, 0, 0), (255, 255, 255)],
    "black-hot": [(255, 255, 255), (0, 0, 0)],
    "iron": [
        *((0, 0, 20), (45, 0, 120), (135, 0, 150), (200, 30, 100)),
        *((235, 95, 20), (250, 165, 10), (255, 225, 90), (255, 255, 245)),
    ],
    "rainbow": [
        *((20, 0, 90), (0, 40, 220), (0, 170, 230), (0, 200, 90)),
        *((170, 220, 0), (255, 200, 0), (250, 90, 0), (210, 0, 30)),
    ],
}


class Unit(NamedTuple):
    """What the values of a deep image are: degrees Celsius = factor x value - offset. factor 0: counts."""

    factor: float
    offset: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Unit:
        """From the option: counts, celsius, kelvin, or the Kelvin of one count (0.01K). Raises UserError."""
        known = {"counts": cls(0.0), "celsius": cls(1.0), "kelvin": cls(1.0, ZERO)}
        match = re.fullmatch(r"(0?\.[0-9]+|[0-9]+(?:\.[0-9]*)?)K", text)
        if match and float(match[1]) > 0:
            return cls(float(match[1]), ZERO)
        if text not in known:
            raise UserError(
                f"--unit must be counts, celsius, kelvin, or the Kelvin of one count such as 0.01K, not {text!r}"
            )
        return known[text]

    def celsius(self, values: np.ndarray) -> np.ndarray:
        """Degrees Celsius, float32."""
        return (values.astype(np.float64) * self.factor - self.offset).astype(np.float32)


class ThermalReader(image.Reader):
    """A reader of images that gives gray ones of a known unit, and radiometric JPEGs, in degrees Celsius.

    unit: see `Unit.parse`. The range of values is then one of temperatures, one for a whole folder.
    """

    def __init__(
        self, value_range: str = "auto", max_pixels: float = image.MAX_PIXELS, unit: str = "counts"
    ):
        super().__init__(value_range, max_pixels)
        self.unit = Unit.parse(unit)

    def prepare(self, paths: Iterable[str | Path], side: str) -> Range | None:
        """As of any reader; a note where the values look like hundredths of a Kelvin and nobody said so."""
        chosen = super().prepare(paths, side)
        if chosen is not None and not self.unit.factor and chosen.high > 10_000:
            low, high = (x / 100 - ZERO for x in chosen)
            if PLAUSIBLE[0] <= low < high <= PLAUSIBLE[1]:
                self.note(
                    f"images {side}: these values may be hundredths of a Kelvin, {low:.1f} to {high:.1f} degrees "
                    "Celsius; --unit 0.01K reads them so"
                )
        return chosen

    def check_unit(self, paths: Iterable[str | Path]) -> None:
        """Raises UserError for a unit that is of no use, since none of the images A has deep values."""
        if not self.unit.factor:
            return
        for path in paths:
            try:
                if image.is_deep(path) or is_radiometric(path):
                    return
            except UserError:  # it cannot be read, as will be said
                return
        raise UserError(
            "--unit says what images of more than 8 bits hold, and none of the images A has more; leave it out"
        )

    def celsius(self, path: str | Path) -> np.ndarray | None:
        """The temperatures of an image (H, W) float32 in degrees Celsius; None where it has none."""
        if not (self.unit.factor or is_radiometric(path)):
            return None
        pixels = self._decoded(Path(path))
        return pixels if pixels.dtype == np.float32 and pixels.ndim == 2 else None

    def _deep_images(self, paths: Iterable[str | Path]) -> Iterator[np.ndarray]:
        files = list(paths)
        yield from super()._deep_images(files)
        for path in filter(is_radiometric, files):
            pixels = self._decoded(Path(path))
            if pixels.dtype == np.float32:
                yield pixels

    def _decoded(self, path: Path) -> np.ndarray:
        if is_radiometric(path) and (temperatures := self._radiometric(path)) is not None:
            return temperatures
        pixels = super()._decoded(path)
        if self.unit.factor and pixels.dtype != np.uint8 and pixels.ndim == 2:
            return self.unit.celsius(pixels)
        return pixels

    def _radiometric(self, path: Path) -> np.ndarray | None:
        """The temperatures behind a JPEG's picture; None, with a note, where they cannot be read."""
        try:
            import flyr
        except ImportError:
            self.note(
                f"{path.name} holds temperatures, and its picture is used; pip install 'jfusion[thermal]' "
                "reads them"
            )
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                values = np.asarray(flyr.unpack(str(path)).celsius, np.float32)
        except (
            Exception
        ) as error:  # the library raises many kinds for a record that it does not know
            reason = printable(" ".join(str(error).split()) or type(error).__name__, 100)
            self.note(
                f"{path.name} holds no temperatures that flyr reads ({reason}); its picture is used"
            )
            return None
        if values.ndim != 2 or not np.isfinite(values).all():
            self.note(f"{path.name} holds temperatures that are not finite; its picture is used")
            return None
        return values


def is_radiometric(path: str | Path) -> bool:
    """Whether a file is a JPEG with a segment of FLIR's, in which its cameras keep the sensor's values."""
    path = Path(path)
    if path.suffix.lower() not in (".jpg", ".jpeg", ".jfif") or not path.is_file():
        return False
    with path.open("rb") as file:
        if file.read(2) != b"\xff\xd8":
            return False
        while (head := file.read(4)) and len(head) == 4 and head[0] == 0xFF and head[1] != 0xDA:
            length = int.from_bytes(head[2:], "big") - 2
            if head[1] == 0xE1 and length > 5:
                if file.read(5) == b"FLIR\0":
                    return True
                length -= 5
            file.seek(max(length, 0), 1)
    return False


def colored(levels: np.ndarray, palette: Palette) -> np.ndarray:
    """Levels (H, W) uint8 in the colors of a palette, (H, W, 3) uint8."""
    anchors = np.array(ANCHORS[palette], float)
    places = np.linspace(0, 255, len(anchors))
    table = np.stack([np.interp(np.arange(256), places, anchors[:, i]) for i in range(3)], 1)
    return np.round(table).astype(np.uint8)[levels]


def overlay(
    fused: np.ndarray, levels: np.ndarray, hot: np.ndarray, palette: Palette, blend: float
) -> np.ndarray:
    """The fused image with the palette's colors of A where it is hot, (H, W, 3) uint8.

    fused (H, W) or (H, W, 3) uint8; levels: A's, (H, W) uint8; hot: (H, W) bool; blend: the colors' part
    there, from 0 to 1.
    """
    out = (fused if fused.ndim == 3 else np.repeat(fused[..., None], 3, 2)).astype(np.float64)
    out[hot] += blend * (colored(levels[hot], palette) - out[hot])
    return np.round(out).astype(np.uint8)


def write_temperatures(path: str | Path, celsius: np.ndarray) -> None:
    """Writes temperatures (H, W) float32 in degrees Celsius as TIFF; NaN where there are none."""
    import tifffile

    about: dict[str, Any] = {"description": "temperature in degrees Celsius"}
    with replacing(path, "the temperatures", "image") as temporary:
        tifffile.imwrite(temporary, celsius.astype(np.float32), photometric="minisblack", **about)
