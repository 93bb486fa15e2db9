"""Reading and writing images, colour, and the reference's resize."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jfusion.errors import UserError
from jfusion.files import replacing


def read_rgb(path: str | Path) -> np.ndarray:
    """An image file as RGB, (H, W, 3) uint8.

    Gray becomes three equal channels; alpha is dropped; 16 bits are cut to the upper 8; a palette is
    looked up; an EXIF rotation is applied (what OpenCV's colour reading does). Raises UserError.
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
    a: str | Path, b: str | Path, coloured: str = "none", background: str = "jet"
) -> tuple[np.ndarray, np.ndarray]:
    """Two images as `read_rgb`; UserError unless they have one size.

    coloured: "a" or "b" gets the pseudo-colours of `rainbow`; it must be gray.
    """
    pair = [read_rgb(a), read_rgb(b)]
    if coloured not in ("none", "a", "b"):
        raise UserError(f"--rainbow must be one of none, a, b, not {coloured!r}")
    if coloured != "none":
        i = "ab".index(coloured)
        if is_colour(pair[i]):
            raise UserError(f"{(a, b)[i]} is in colour; --rainbow is for gray images")
        pair[i] = rainbow(pair[i][..., 0], background)
    sizes = ["x".join(map(str, x.shape[:2])) for x in pair]
    if sizes[0] != sizes[1]:
        raise UserError(f"{a} is {sizes[0]} and {b} is {sizes[1]}; both must have one size")
    return pair[0], pair[1]


def gray(rgb: np.ndarray) -> np.ndarray:
    """Luma of the reference's reader: 0.299 R + 0.587 G + 0.114 B, rounded half to even.

    (H, W, 3) uint8 -> (H, W) float32 with whole numbers 0..255.
    """
    r, g, b = (rgb[..., i].astype(np.float32) for i in range(3))
    return np.round(np.float32(0.299) * r + np.float32(0.587) * g + np.float32(0.114) * b)


def gray_by_pillow(rgb: np.ndarray) -> np.ndarray:
    """Pillow's conversion to gray, in whole numbers: (H, W, 3) uint8 -> (H, W) float32 in 0..255.

    One level from `gray` in a few pixels.
    """
    from PIL import Image

    return np.asarray(Image.fromarray(rgb).convert("L"), np.float32)


def is_colour(rgb: np.ndarray) -> bool:
    """Whether the three channels differ anywhere."""
    return bool((rgb[..., :1] != rgb).any())


def chroma(rgb: np.ndarray) -> np.ndarray:
    """Cr and Cb of OpenCV's 8-bit YCrCb: (H, W, 3) uint8 -> (2, H, W) uint8."""
    r, g, b = (rgb[..., i].astype(np.float64) for i in range(3))
    y = 0.299 * r + 0.587 * g + 0.114 * b
    both = np.stack([(r - y) * 0.713 + 128, (b - y) * 0.564 + 128])
    return np.clip(np.round(both), 0, 255).astype(np.uint8)


def ycrcb(rgb: np.ndarray) -> np.ndarray:
    """OpenCV's 8-bit Y, Cr, Cb in its integer arithmetic: (H, W, 3) uint8 -> the same."""
    r, g, b = (rgb[..., i].astype(np.int64) for i in range(3))
    y = _shifted(4899 * r + 9617 * g + 1868 * b)
    cr, cb = (_shifted((x - y) * k + (128 << 14)) for x, k in ((r, 11682), (b, 9241)))
    return np.clip(np.stack([y, cr, cb], -1), 0, 255).astype(np.uint8)


def from_ycrcb(planes: np.ndarray) -> np.ndarray:
    """OpenCV's way back: Y, Cr, Cb (H, W, 3) uint8 -> RGB, the same."""
    y, cr, cb = (planes[..., i].astype(np.int64) for i in range(3))
    cr, cb = cr - 128, cb - 128
    g = y + _shifted(-5636 * cb - 11698 * cr)
    rgb = np.stack([y + _shifted(22987 * cr), g, y + _shifted(29049 * cb)], -1)
    return np.clip(rgb, 0, 255).astype(np.uint8)


def _shifted(x: np.ndarray) -> np.ndarray:
    return (x + 8192) >> 14


def rainbow(gray: np.ndarray, background: str = "jet") -> np.ndarray:
    """Pseudo-colours: OpenCV's JET table on a gray image. (H, W) uint8 -> RGB (H, W, 3) uint8.

    background "jet": 0 becomes dark blue, as in the table; "black": the blue of the lowest 32 levels
    rises from 0, so that a black background stays black (ours).
    """
    if background not in ("jet", "black"):
        raise UserError(f"--background must be one of jet, black, not {background!r}")
    v = np.arange(256)
    rising = [4 * v - 382, 4 * v - 128, 4 * v + 128 if background == "jet" else 8 * v]
    falling = [1148 - 4 * v, 892 - 4 * v, 638 - 4 * v]
    table = np.clip(np.minimum(rising, falling), 0, 255)
    table[2, 159] = 1  # the table's own rounding
    return table.T.astype(np.uint8)[gray]


def weighted_chroma(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Two chromas merged, each value weighted by its distance from gray: (2, H, W) uint8 each.

    The rule that multi-exposure work uses (Prabhakar et al., DeepFuse, ICCV 2017, equation 4).
    """
    wa, wb = np.abs(a.astype(np.float64) - 128), np.abs(b.astype(np.float64) - 128)
    total = wa + wb
    merged = np.where(total == 0, 128, (wa * a + wb * b) / np.where(total == 0, 1, total))
    return np.round(merged).astype(np.uint8)


def pair_chroma(a: np.ndarray | None, b: np.ndarray | None, rule: str) -> np.ndarray | None:
    """The chroma that a fused image gets: of a, of b, or of both "weighted"; None for gray sources.

    a, b (H, W, 3) uint8, None for a gray one -> (2, H, W) uint8. rule "none": always None.
    """
    sources = {"a": [a], "b": [b], "weighted": [a, b], "none": []}[rule]
    chromas = [chroma(x) for x in sources if x is not None]
    if not chromas:
        return None
    return weighted_chroma(*chromas) if len(chromas) == 2 else chromas[0]


def with_chroma(y: np.ndarray, crcb: np.ndarray) -> np.ndarray:
    """The RGB image of a luma (H, W) uint8 and a chroma (2, H, W) uint8, as OpenCV's inverse."""
    cr, cb = (crcb[i].astype(np.float64) - 128 for i in range(2))
    y = y.astype(np.float64)
    rgb = np.stack([y + 1.403 * cr, y - 0.714 * cr - 0.344 * cb, y + 1.773 * cb], -1)
    return np.clip(np.round(rgb), 0, 255).astype(np.uint8)


def resize(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear with half-pixel centres, edges clamped, no antialiasing, in float32 (skimage order 1).

    (H, W) -> (height, width).
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
    """OpenCV's bilinear resize of 8 bits in its integer arithmetic (weights of 11 bits).

    (H, W) or (H, W, 3) uint8 -> the same of the new size.
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
    """Writes (H, W) or (H, W, 3) uint8 in Pillow's format `kind`, under a temporary name first."""
    from PIL import Image

    with replacing(path, "the picture") as temporary:
        Image.fromarray(pixels).save(temporary, format=kind)
