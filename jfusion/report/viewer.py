"""Images to compare in a browser: a divider between two of several, without files of their own.

`STYLE` and `SCRIPT` make the pieces of HTML work; they are put into a page once.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

STYLE = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
SCRIPT = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
QUALITY = 88  # of the JPEG files that stand for images on a page


class Labels(NamedTuple):
    """What the controls of a comparison are called."""

    left: str = "Left"
    right: str = "Right"
    divider: str = "Divider between the left and the right image"
    zoom: str = "Zoom"
    grid: str = "Images side by side; enlarge with + and -, move with the arrow keys"


def data_uri(pixels: np.ndarray, longest: int, quality: int = QUALITY) -> str:
    """An image (H, W) or (H, W, 3) uint8 as an address that holds it; longest: pixels of its longer side."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def slider(
    images: Mapping[str, np.ndarray],
    longest: int = 1280,
    labels: Labels | None = None,
    quality: int = QUALITY,
) -> str:
    """A divider between the first and the last of several images, and menus that choose two others.

    images: name -> (H, W) or (H, W, 3) uint8; all have the proportions of the last one. longest: pixels
    of the longer side on the page, at most. quality: of the JPEG files.
    """
    labels = labels or Labels()
    names = [html.escape(name) for name in images]
    height, width = list(images.values())[-1].shape[:2]
    pictures = []
    for name, pixels in zip(names, images.values(), strict=True):
        sides = (" jf-left" if name == names[0] else "") + (
            " jf-right" if name == names[-1] else ""
        )
        address = data_uri(pixels, longest, quality)
        pictures.append(
            f'<img class="{sides.strip()}" data-name="{name}" alt="{name}" src="{address}">'
        )
    menus = "".join(
        f'<label><span>{html.escape(label)}</span> <select data-side="{side}">{_choices(names, chosen)}</select></label>'
        for side, label, chosen in (
            ("left", labels.left, names[0]),
            ("right", labels.right, names[-1]),
        )
    )
    return (
        f'<div class="jf-viewer"><div class="jf-bar">{menus}</div>'
        f'<div class="jf-stage" style="--w:{width};--h:{height};--at:50">{"".join(pictures)}'
        f'<span class="jf-line"></span><span class="jf-tag jf-tag-left">{names[0]}</span>'
        f'<span class="jf-tag jf-tag-right">{names[-1]}</span>'
        f'<input type="range" min="0" max="100" step="0.5" value="50" '
        f'aria-label="{html.escape(labels.divider)}"></div></div>'
    )


def _choices(names: Iterable[str], chosen: str) -> str:
    return "".join(
        f"<option{' selected' if name == chosen else ''}>{name}</option>" for name in names
    )


def grid(images: Mapping[str, np.ndarray], longest: int = 960, labels: Labels | None = None) -> str:
    """Images side by side that are enlarged and moved together.

    images: name -> (H, W) or (H, W, 3) uint8, all of one size. longest: pixels of the longer side on the
    page, at most.
    """
    labels = labels or Labels()
    height, width = list(images.values())[-1].shape[:2]
    figures = []
    for name, pixels in images.items():
        label, address = html.escape(name), data_uri(pixels, longest)
        figures.append(
            f'<figure><div class="jf-window"><img alt="{label}" src="{address}" draggable="false"></div>'
            f"<figcaption>{label}</figcaption></figure>"
        )
    return (
        f'<div class="jf-group"><div class="jf-bar"><label>{html.escape(labels.zoom)} '
        f'<input class="jf-zoom" type="range" min="1" max="8" step="0.25" value="1"></label></div>'
        f'<div class="jf-grid" tabindex="0" role="group" aria-label="{html.escape(labels.grid)}" '
        f'style="--w:{width};--h:{height}">{"".join(figures)}</div></div>'
    )
