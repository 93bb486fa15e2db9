"""What a thermal image adds to a fused one: its temperatures in a sidecar, and an overlay of what is hot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jfusion.data import image, thermal
from jfusion.data.h5 import Pair
from jfusion.data.thermal import ThermalReader
from jfusion.fusing.alignment import Alignment
from jfusion.fusing.plan import Item

if TYPE_CHECKING:
    from jfusion.commands.fuse import Options

MIDDLE = 128  # the level from which A is hot, where nobody says it


@dataclass
class Heat:
    """Writes, next to the results, temperature/<name>.tif where A has temperatures, and overlay/<name>.png.

    palette: None for no overlay. blend: the part of its colors. hotter_than: the threshold, in degrees
    Celsius where A has temperatures, otherwise in levels 0..255; None for the middle of the range.
    """

    reader: ThermalReader
    alignment: Alignment
    palette: thermal.Palette | None
    blend: float
    hotter_than: float | None

    @classmethod
    def of(cls, options: Options, reader: ThermalReader, alignment: Alignment) -> Heat:
        """As the options of the command say."""
        return cls(reader, alignment, options.palette, options.blend, options.hotter_than)

    def write(self, item: Item, pair: Pair, results: list[np.ndarray]) -> None:
        """For the results of a pair, of 8 or 16 bits. Raises UserError."""
        celsius = self.reader.celsius(item.a)
        if celsius is not None:
            celsius = self.alignment.values(item.name, celsius, pair.a.shape[1:])
            folder = item.outputs[0].parent / "temperature"
            thermal.write_temperatures(folder / f"{item.outputs[0].stem}.tif", celsius)
        if self.palette is None:
            return
        levels = np.round(pair.a[0] * 255).astype(np.uint8)
        if self.hotter_than is None:
            hot = levels >= MIDDLE
        else:
            hot = (levels if celsius is None else celsius) >= self.hotter_than  # NaN is not hot
        for path, result in zip(item.outputs, results, strict=True):
            pixels = result if result.dtype == np.uint8 else (result >> 8).astype(np.uint8)
            shown = thermal.overlay(pixels, levels, hot, self.palette, self.blend)
            image.write(path.parent / "overlay" / f"{path.stem}.png", shown)
