"""The fused image in 8 or 16 bits, and whose color it gets."""

from __future__ import annotations

import numpy as np

from jfusion.data import color
from jfusion.data.h5 import Pair
from jfusion.data.layout import task
from jfusion.errors import UserError
from jfusion.systems import registry


def color_rule(task_name: str, in_color: tuple[bool, bool], chosen: str = "auto") -> str:
    """Whose color a fused image gets: "a", "b", "weighted" (both) or "none".

    chosen: what the user said. With "auto" it is that of the one image that has color, and where both
    have, that of the task.
    """
    if chosen != "auto":
        return chosen
    alone = {(True, False): "a", (False, True): "b", (False, False): "none"}
    return alone.get(in_color) or task(task_name).chroma


def check_bits(system: str, bits: int) -> None:
    """Raises UserError for 16 bits of a system whose images have 8 bits by its own rule."""
    if bits == 16 and registry.system_class(system).EIGHT_BITS:
        raise UserError(f"{system} makes images of 8 bits; leave out --bits 16")


def to_uint16(fused: np.ndarray, pair: Pair) -> np.ndarray:
    """A fused array (C, h, w) in [0, 1] as (h, w) or (h, w, 3) uint16, with the color of the pair."""
    if fused.shape[0] == 3:
        unit = np.moveaxis(fused, 0, 2)
        return _rounded(unit if color.is_color(unit) else unit[..., 0])
    gray = _rounded(fused[0])
    chroma = pair.chroma
    if chroma is None:
        return gray
    h, w = gray.shape
    return color.with_chroma(gray, chroma[:, :h, :w])


def _rounded(unit: np.ndarray) -> np.ndarray:
    return np.round(np.clip(unit, 0, 1) * np.float32(65535)).astype(np.uint16)
