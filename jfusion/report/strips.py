"""Comparison strips: the sources and what each method made of them, with enlarged regions below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jfusion.errors import UserError
from jfusion.files import replacing

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont

WIDTH, GAP = 320, 8  # pixels of a column, and between columns and rows
COLORS = (
    (220, 40, 40),
    (30, 120, 220),
    (40, 160, 60),
    (230, 150, 20),
)  # of the boxes, in this order
PART = 4  # the shorter side over that of an automatic region
DETAIL = (
    2  # the side of an automatic region over that of the neighborhood whose mean does not count
)
TALLEST = 1.5  # height of an enlarged region over the width of its column
HEAD, BORDER = 26, 3  # pixels above the images for labels, and of the lines of boxes
PALETTES = ("gray", "inferno", "magma", "plasma", "viridis", "hot", "jet")

Region = tuple[int, int, int, int]  # x, y, width, height in pixels of the image


def parse_zoom(texts: Sequence[str]) -> list[Region]:
    """The regions of an option, "x,y,w,h" each; none for "auto". Raises UserError."""
    regions = []
    for text in texts:
        parts = text.split(",")
        if text == "auto":
            continue
        if len(parts) != 4 or not all(p.strip().isdecimal() for p in parts):
            raise UserError(f"--zoom must be x,y,w,h in pixels, or auto, not {text!r}")
        x, y, w, h = map(int, parts)
        if not w or not h:
            raise UserError(f"--zoom {text}: width and height must be 1 or more")
        regions.append((x, y, w, h))
    if len(regions) > len(COLORS):
        raise UserError(f"--zoom has {len(regions)} regions; {len(COLORS)} are the most")
    return regions


def automatic_region(images: Sequence[np.ndarray], part: int = PART) -> Region:
    """The square in which the images differ most, each pixel less the mean of its neighborhood.

    So details that differ are found, and not a sky of another brightness. images: of one size, (H, W)
    or (H, W, 3) uint8. The side is a `part` of the shorter one.
    """
    from scipy.ndimage import uniform_filter

    grays = [_luma(x) for x in images]
    side = max(1, min(grays[0].shape) // part)
    near = max(3, side // DETAIL)
    spread = np.var([x - uniform_filter(x, near) for x in grays], axis=0)
    sums = np.pad(spread, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    sums = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    y, x = np.unravel_index(sums.argmax(), sums.shape)
    return int(x), int(y), side, side


def _luma(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return x if x.ndim == 2 else x @ np.array([0.299, 0.587, 0.114])


def strip(
    images: Mapping[str, np.ndarray],
    regions: Sequence[Region] = (),
    palette: str = "gray",
    sources: int = 2,
) -> Image:
    """The images in a row under their labels, each region in a box, and its enlargement in a row below.

    images: label -> (H, W) or (H, W, 3) uint8 of one size, the `sources` first. regions: without one,
    where the other images differ most. palette: the colors of the first image, if it is gray; one of
    `PALETTES`. Raises UserError for images of different sizes and for a region that is not inside.
    """
    from PIL import Image as pillow
    from PIL import ImageDraw

    pixels = list(images.values())
    height, width = _size(images)
    regions = list(regions) or [automatic_region(pixels[sources:] or pixels)]
    for x, y, w, h in regions:
        if x + w > width or y + h > height:
            raise UserError(f"--zoom {x},{y},{w},{h} is not inside an image of {width}x{height}")
    crops = [_enlarged(w, h) for _, _, w, h in regions]
    scale = WIDTH / width
    shown = max(1, round(height * scale))
    total = HEAD + shown + sum(GAP + h for _, h in crops)
    canvas = pillow.new("RGB", (len(images) * (WIDTH + GAP) - GAP, total), "white")
    draw, font = ImageDraw.Draw(canvas), _font()
    for i, label in enumerate(images):
        left, top = i * (WIDTH + GAP), HEAD + shown + GAP
        original = pillow.fromarray(_rgb(pixels[i], palette if i == 0 else "gray"))
        _label(draw, label, left, font)
        canvas.paste(original.resize((WIDTH, shown), pillow.Resampling.LANCZOS), (left, HEAD))
        for (x, y, w, h), size, color in zip(regions, crops, COLORS, strict=False):
            corners = (left + x * scale, HEAD + y * scale)
            corners += (corners[0] + w * scale, corners[1] + h * scale)
            draw.rectangle([round(v) for v in corners], outline=color, width=BORDER)
            crop = original.crop((x, y, x + w, y + h)).resize(size, pillow.Resampling.BICUBIC)
            at = left + (WIDTH - size[0]) // 2
            canvas.paste(crop, (at, top))
            end = (at + size[0] - 1, top + size[1] - 1)
            draw.rectangle([at, top, *end], outline=color, width=BORDER)
            top += size[1] + GAP
    return canvas


def _size(images: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """Height and width of all images; UserError if they differ."""
    sizes = {label: x.shape[:2] for label, x in images.items()}
    if len(set(sizes.values())) != 1:
        text = ", ".join(f"{label} {h}x{w}" for label, (h, w) in sizes.items())
        raise UserError(f"sizes differ: {text}")
    return next(iter(sizes.values()))


def _enlarged(width: int, height: int) -> tuple[int, int]:
    """Width and height of a region that fills its column, or is as tall as is allowed."""
    factor = min(WIDTH / width, TALLEST * WIDTH / height)
    return max(1, round(width * factor)), max(1, round(height * factor))


def write(path: Path, image: Image) -> Path:
    """Writes a strip as PNG or PDF, by the ending of the path."""
    with replacing(path, "the strip", "figure") as temporary:
        image.save(temporary, format=path.suffix[1:].upper(), resolution=200, quality=95)
    return path


def _rgb(pixels: np.ndarray, palette: str) -> np.ndarray:
    """A gray image, also one of three equal channels, in the colors of a palette; others as they are."""
    if pixels.ndim == 3 and (pixels != pixels[..., :1]).any():
        return pixels
    gray = pixels if pixels.ndim == 2 else pixels[..., 0]
    if palette == "gray":
        return np.repeat(gray[..., None], 3, axis=2)
    from matplotlib import colormaps

    return (colormaps[palette](gray)[..., :3] * 255).round().astype(np.uint8)


def _font() -> FreeTypeFont | ImageFont:
    """The font of the labels: matplotlib's own, which knows letters beyond ASCII."""
    from matplotlib import font_manager
    from PIL import ImageFont

    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 17)


def _label(draw: object, label: str, left: int, font: FreeTypeFont | ImageFont) -> None:
    """A label over the middle of its column, shortened where it is too wide."""
    while len(label) > 1 and draw.textlength(label, font=font) > WIDTH:
        label = label.rstrip("…")[:-1] + "…"
    draw.text((left + WIDTH // 2, 12), label, fill="black", font=font, anchor="mm")
