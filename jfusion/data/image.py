"""Reading, writing and resizing images; color is in color.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jfusion.data.color import is_color, jet
from jfusion.errors import UserError
from jfusion.files import replacing


def read_rgb(path: str | Path) -> np.ndarray:
    """An image file as RGB, (H, W, 3) uint8.

    A gray image becomes three equal channels; alpha is dropped; of 16 bits the upper 8 are kept; a
    palette is looked up; an EXIF rotation is applied (as OpenCV does when it reads color). Raises
    UserError for a file that is missing, is no image, or has values that are not finite.
    """
    from PIL import Image, ImageOps

    path = Path(path)
    if not path.is_file():
        raise UserError(f"image {path} does not exist")
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith(("I", "F")):
                deep = np.asarray(image, np.float64)
                if not np.isfinite(deep).all():
                    raise UserError(f"image {path} has values that are not finite (NaN, infinity)")
                eight = np.clip(deep // 256 if deep.max(initial=0) > 255 else deep, 0, 255)
                return np.repeat(eight.astype(np.uint8)[..., None], 3, axis=2)
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"image {path} cannot be read: {' '.join(str(error).split())}") from error


def read_pair(
    a: str | Path, b: str | Path, pseudo_color: str = "none", background: str = "jet"
) -> tuple[np.ndarray, np.ndarray]:
    """Two images as `read_rgb` returns them; UserError unless they have one size.

    pseudo_color: "a" or "b", which must be gray, gets the colors of `color.jet` on this `background`;
    "none": neither.
    """
    if pseudo_color not in ("none", "a", "b"):
        raise UserError(f"pseudo_color must be one of none, a, b, not {pseudo_color!r}")
    pair = [read_rgb(a), read_rgb(b)]
    if pseudo_color != "none":
        i = "ab".index(pseudo_color)
        if is_color(pair[i]):
            raise UserError(f"{(a, b)[i]} is in color; pseudo-colors are for gray images")
        pair[i] = jet(pair[i][..., 0], background)
    sizes = ["x".join(map(str, x.shape[:2])) for x in pair]
    if sizes[0] != sizes[1]:
        raise UserError(f"{a} is {sizes[0]} and {b} is {sizes[1]}; both must have one size")
    return pair[0], pair[1]


def resize(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resize with half-pixel centers, clamped edges and no antialiasing (skimage's order 1).

    x (H, W) -> (height, width) float32.
    """
    for axis, size in ((0, height), (1, width)):
        n = x.shape[axis]
        place = np.clip((np.arange(size) + 0.5) * n / size - 0.5, 0, n - 1)
        low = np.floor(place).astype(int)
        part = (place - low).astype(np.float32).reshape(-1, *[1] * (1 - axis))
        first, second = (np.take(x, i, axis) for i in (low, np.minimum(low + 1, n - 1)))
        x = first + (second - first) * part
    return x.astype(np.float32)


def resize_8bit(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """OpenCV's bilinear resize of 8-bit images in its integer arithmetic (weights of 11 bits).

    x (H, W) or (H, W, 3) uint8 -> (height, width) or (height, width, 3) uint8.
    """

    def places(n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        at = ((np.arange(size) + 0.5) * (n / size) - 0.5).astype(np.float32)
        low = np.floor(at).astype(int)
        return low, at - low.astype(np.float32)

    def weights(part: np.ndarray, shape: tuple[int, ...]) -> list[np.ndarray]:
        return [np.rint(p * 2048).astype(int).reshape(shape) for p in (1 - part, part)]

    deep, (rows, columns) = (1,) * (x.ndim - 2), x.shape[:2]
    left, part = places(columns, width)
    part = np.where((left < 0) | (left >= columns - 1), np.float32(0), part)
    left = np.clip(left, 0, columns - 1)
    first, second = weights(part, (1, -1, *deep))
    wide = x.astype(int)
    wide = wide[:, left] * first + wide[:, np.minimum(left + 1, columns - 1)] * second
    top, part = places(rows, height)
    first, second = weights(part, (-1, 1, *deep))
    upper, lower = (wide[np.clip(t, 0, rows - 1)] >> 4 for t in (top, top + 1))
    return ((((first * upper) >> 16) + ((second * lower) >> 16) + 2) >> 2).astype(np.uint8)


def write(path: str | Path, pixels: np.ndarray, kind: str = "png") -> None:
    """Writes pixels (H, W) or (H, W, 3) uint8 in Pillow's format `kind`, under a temporary name first.

    Raises UserError when the file cannot be written.
    """
    from PIL import Image

    with replacing(path, "the image") as temporary:
        Image.fromarray(pixels).save(temporary, format=kind)
