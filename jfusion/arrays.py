"""The images that a caller in Python hands over: NumPy arrays, PIL images or Jittor Vars, one or many.

One image is (H, W) for gray or (H, W, 3) for color, as image files are read; a PIL image; or, of a
network's kind, (C, H, W). A batch is (N, C, H, W), or a list of images. Values are uint8, or floating
point in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jfusion.errors import UserError

TOLERANCE = 1e-4  # beyond [0, 1]: what resizing and rounding leave


@dataclass(frozen=True)
class Images:
    """Images as NumPy arrays, and how they were handed over.

    arrays: one for each image, (H, W) or (H, W, 3), uint8 or floating point. kind: "numpy", "pil" or
    "jittor". layout: "image" for one image, "list", or "NCHW", "CHW" for arrays of a network's kind.
    """

    arrays: list[np.ndarray]
    kind: str
    layout: str

    @property
    def is_uint8(self) -> bool:
        """Whether the values are whole numbers 0..255 by their type."""
        return all(x.dtype == np.uint8 for x in self.arrays)


def is_var(x: Any) -> bool:
    """Whether x is a Jittor Var; does not import Jittor."""
    return type(x).__module__.partition(".")[0] in ("jittor", "jittor_core") and hasattr(x, "numpy")


def is_pil(x: Any) -> bool:
    """Whether x is a PIL image; does not import Pillow."""
    return any(c.__module__.startswith("PIL.") and c.__name__ == "Image" for c in type(x).__mro__)


def read(x: Any, name: str) -> Images:
    """The images in x; `name` stands for it in errors.

    Raises UserError for another type or rank, for no image at all, and for values that are not finite.
    """
    if is_pil(x):
        return Images([_of_pil(x, name)], "pil", "image")
    if isinstance(x, list | tuple):
        parts = [read(item, f"{name}[{i}]") for i, item in enumerate(x)]
        if not parts or any(p.layout not in ("image", "CHW") for p in parts):
            raise UserError(f"{name} must be an image or a list of single images")
        return Images([p.arrays[0] for p in parts], parts[0].kind, "list")
    if not is_var(x) and not isinstance(x, np.ndarray):
        raise UserError(
            f"{name} must be a NumPy array, a PIL image, a Jittor Var or a list of these, not "
            f"{type(x).__name__}"
        )
    values = np.asarray(x.numpy() if is_var(x) else x)
    kind = "jittor" if is_var(x) else "numpy"
    if values.dtype.kind not in "uif":
        raise UserError(f"{name} must hold numbers, not {values.dtype}")
    if not values.size:
        raise UserError(
            f"{name} is empty (shape {values.shape}); an image has one pixel or more a side"
        )
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UserError(f"{name} has values that are not finite (NaN or infinity)")
    arrays, layout = _by_rank(values, name, kind)
    return Images(arrays, kind, layout)


def _by_rank(values: np.ndarray, name: str, kind: str) -> tuple[list[np.ndarray], str]:
    """The single images of an array, and its layout."""
    shape = values.shape
    if values.ndim == 4 and shape[1] in (1, 3):
        return [_channels_last(v) for v in values], "NCHW"
    if values.ndim == 3 and kind == "numpy" and shape[2] in (1, 3):
        return [values if shape[2] == 3 else values[..., 0]], "image"
    if values.ndim == 3 and shape[0] in (1, 3):
        return [_channels_last(values)], "CHW"
    if values.ndim == 2:
        return [values], "image"
    raise UserError(
        f"{name} must be (H, W), (H, W, 3), (C, H, W) or (N, C, H, W) with 1 or 3 channels, not {shape}"
    )


def _channels_last(x: np.ndarray) -> np.ndarray:
    return x[0] if len(x) == 1 else np.moveaxis(x, 0, -1)


def _of_pil(x: Any, name: str) -> np.ndarray:
    if 0 in x.size:
        raise UserError(f"{name} is a PIL image of {x.width}x{x.height}, which has no pixels")
    if x.mode in ("L", "1"):
        return np.asarray(x.convert("L"))
    if x.mode in ("RGB", "RGBA", "P", "LA", "PA", "CMYK", "YCbCr"):
        return np.asarray(x.convert("RGB"))
    raise UserError(
        f"{name} is a PIL image of mode {x.mode}; pass it as an array in [0, 1], scaled by its range"
    )


def check_unit_range(images: Images, name: str) -> None:
    """Raises UserError unless floating-point values are in [0, 1]; other integers than uint8 are refused."""
    for x in images.arrays:
        if x.dtype == np.uint8:
            continue
        low, high = x.min(), x.max()
        if x.dtype.kind != "f" or low < -TOLERANCE or high > 1 + TOLERANCE:
            raise UserError(
                f"{name} holds {x.dtype} values from {low:g} to {high:g}; pass uint8, or floating point "
                "in [0, 1] (divide by the range)"
            )


def write(arrays: list[np.ndarray], like: Images) -> Any:
    """Images as they were handed over: the kind, the layout and the type of values of `like`.

    arrays: one for each image, (H, W) or (H, W, 3), uint8 or float32 in [0, 1].
    """
    if not like.is_uint8 and like.kind != "pil":
        arrays = [x / np.float32(255) if x.dtype == np.uint8 else x for x in arrays]
    images = [_like(x, like) for x in arrays]
    if like.layout == "list":
        return images
    if like.layout != "NCHW":
        return images[0]
    if like.kind == "jittor":
        from jfusion.runtime import jt

        return jt.array(np.stack(images))
    return np.stack(images)


def _like(x: np.ndarray, like: Images) -> Any:
    if like.kind == "pil":
        from PIL import Image

        return Image.fromarray(x)
    if like.layout in ("NCHW", "CHW"):
        x = x[None] if x.ndim == 2 else np.moveaxis(x, -1, 0)
    if like.kind == "jittor" and like.layout != "NCHW":
        from jfusion.runtime import jt

        return jt.array(np.ascontiguousarray(x))
    return np.ascontiguousarray(x)
