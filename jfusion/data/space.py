"""Two medical volumes in one space: resampling by affines, slices as images, NIfTI and a mosaic.

A volume is brought into the space of another one by the affines of their files, which say where each
voxel is in the scanner. Nothing is registered here: two volumes whose files disagree stay apart.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jfusion.data import image
from jfusion.data.depth import Range, RangePolicy, to_uint8
from jfusion.data.volume import TO_RAS, Volume, canonical
from jfusion.errors import UserError, optional
from jfusion.files import replacing

PERCENTILE = 0.5  # the default window: from this percentile of the values to its mirror
MOSAIC = 20  # at most so many slices are shown
MOSAIC_SIDE = 256  # pixels of a slice's longer side in the mosaic, at most
FWHM = 2.355  # of a Gaussian, in standard deviations


def resample(moving: Volume, fixed: Volume) -> tuple[np.ndarray, np.ndarray]:
    """The values of `moving` at the voxels of `fixed`, and where there are any.

    Trilinear; a volume of finer voxels is smoothed to the coarser ones first. Volumes without an
    affine must have one shape, and are taken voxel by voxel. Returns values of the type of `moving` and
    the shape of `fixed` (its lowest value outside), and a mask (x, y, z). Raises UserError when the
    volumes do not overlap, or one does not say where it is.
    """
    from scipy import ndimage
    from tqdm import tqdm

    shape = fixed.values.shape[:3]
    if moving.affine is None or fixed.affine is None:
        if moving.values.shape[:3] == shape and moving.affine is fixed.affine:
            return moving.values, np.ones(shape, bool)
        why = fixed.uneven if fixed.affine is None else moving.uneven
        raise UserError(
            f"a volume does not say where its voxels are ({why or 'no affine in the file'}); convert both "
            "to NIfTI in one space first"
        )
    to_moving = np.linalg.inv(moving.affine) @ fixed.affine
    if np.allclose(to_moving, np.eye(4), atol=1e-4) and moving.values.shape[:3] == shape:
        return moving.values, np.ones(shape, bool)
    size = np.array(moving.values.shape[:3])[:, None, None]
    channels = np.atleast_1d(np.moveaxis(_smoothed(moving, to_moving), 3, 0))
    out = np.full((len(channels), *shape), moving.values.min(), channels.dtype)
    inside = np.zeros(shape, bool)
    rows, columns = np.mgrid[: shape[0], : shape[1]].reshape(2, -1)
    for k in tqdm(range(shape[2]), desc="resampling", unit="slice", delay=2):
        index = np.stack([rows, columns, np.full_like(rows, k), np.ones_like(rows)])
        at = (to_moving @ index)[:3].reshape(3, *shape[:2])
        within = ((at >= -0.5 - 1e-6) & (at <= size - 0.5 + 1e-6)).all(0)
        inside[..., k] = within
        for source, target in zip(channels, out, strict=True):
            values = ndimage.map_coordinates(source, at[:, within], order=1, mode="nearest")
            target[within, k] = np.round(values) if source.dtype == np.uint8 else values
    if not inside.any():
        raise UserError(
            "the two volumes do not overlap: their files place them in different spaces; register them "
            "first (for example with SimpleITK or ANTs)"
        )
    return (out[0] if moving.values.ndim == 3 else np.moveaxis(out, 0, 3)), inside


def _smoothed(moving: Volume, to_moving: np.ndarray) -> np.ndarray:
    """The values (x, y, z, C) as voxels of the fixed volume's size would see them."""
    from scipy import ndimage

    ratio = np.abs(to_moving[:3, :3]).max(1)  # moving voxels in one of the fixed volume, by axis
    sigma = np.sqrt(np.maximum(ratio**2 - 1, 0)) / FWHM
    values = moving.values if moving.values.ndim == 4 else moving.values[..., None]
    if not sigma.any():
        return values
    each = [ndimage.gaussian_filter(c, sigma, mode="nearest") for c in np.moveaxis(values, 3, 0)]
    return np.stack(each, 3)


def window_of(values: np.ndarray, policy: RangePolicy) -> Range | None:
    """The values of a volume that become black and white; None for color.

    With the policy "auto" from the 0.5th to the 99.5th percentile; where more than half of the volume is
    its lowest value (air, no measurement), of the rest. "full" is from the lowest value to the highest.
    """
    if values.dtype == np.uint8 and values.ndim == 4:
        return None
    low, high = float(values.min()), float(values.max())
    if policy.kind == "auto":
        empty = np.mean(values == low) > 0.5
        seen = values[values > low] if empty and high > low else values
        ends = np.percentile(seen, [PERCENTILE, 100 - PERCENTILE])
        low, high = (low if empty else float(ends[0])), float(ends[1])
    elif policy.kind != "full":
        low, high = policy.resolve([values])
    return Range(low, high if high > low else low + 1)


def fuse_volumes(
    a: Volume,
    b: Volume,
    fuse: Callable[[np.ndarray, np.ndarray], np.ndarray],
    windows: tuple[Range | None, Range | None],
    colormaps: tuple[Callable | None, Callable | None] = (None, None),
    measure: Callable[[np.ndarray, np.ndarray], None] | None = None,
) -> Volume:
    """The fused volume in A's space, (x, y, z) or (x, y, z, 3) uint8.

    fuse: two axial slices (H, W, 3) uint8, anterior up and the patient's right on the left -> the fused
    one, (H, W) or (H, W, 3) uint8. windows: see `window_of`. colormaps: what gives gray levels of any shape
    a last axis of RGB. measure: sees all slices of both before. Where B has no voxel, A stands in for it.
    """
    from tqdm import tqdm

    moved, inside = resample(b, a)
    levels = [
        _rgb(to_uint8(x, window), colormap)
        for x, window, colormap in zip((a.values, moved), windows, colormaps, strict=True)
    ]
    levels[1][~inside] = levels[0][~inside]
    views = [axial(a._replace(values=x)) for x in levels]
    if measure is not None:
        measure(*views)
    pairs = zip(*views, strict=True)
    slices = [fuse(x, y) for x, y in tqdm(pairs, "fusing", len(views[0]), unit="slice", delay=2)]
    if len({s.ndim for s in slices}) > 1:  # a slice without color in a colored volume
        slices = [s if s.ndim == 3 else _rgb(s) for s in slices]
    return a._replace(values=from_axial(np.stack(slices), a))


def _rgb(levels: np.ndarray, colormap: Callable | None = None) -> np.ndarray:
    """Levels (..., 3) of levels (x, y, z), (y, x), or of colors (x, y, z, 3), which are copied."""
    if levels.ndim == 4:
        return levels.copy()
    return np.repeat(levels[..., None], 3, -1) if colormap is None else colormap(levels)


def axial(volume: Volume) -> np.ndarray:
    """Axial slices from below upwards, anterior up and the patient's right on the left: (z, y, x, ...)."""
    values = canonical(_placed(volume)).values[::-1, ::-1]
    return values.transpose(2, 1, 0, *range(3, values.ndim))


def from_axial(slices: np.ndarray, like: Volume) -> np.ndarray:
    """The inverse of `axial`: values in the order of the voxels of `like`."""
    values = slices.transpose(2, 1, 0, *range(3, slices.ndim))[::-1, ::-1]
    from nibabel import orientations

    stored = orientations.io_orientation(_placed(like).affine)
    canon = np.array([[0, 1], [1, 1], [2, 1]])
    return orientations.apply_orientation(values, orientations.ornt_transform(canon, stored))


def _placed(volume: Volume) -> Volume:
    """A volume without an affine as scanners store it: rows to the left, columns to the back."""
    return volume if volume.affine is not None else volume._replace(affine=TO_RAS)


def write_nifti(path: str | Path, volume: Volume) -> None:
    """Writes a volume of 8 bits as NIfTI: scalar, or RGB (x, y, z, 3). Raises UserError."""
    nibabel = optional("nibabel", "nibabel", "writing NIfTI", "medical")
    values = np.ascontiguousarray(volume.values)
    if values.ndim == 4:
        values = values.view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    affine = _placed(volume).affine
    content = nibabel.Nifti1Image(values, affine)
    content.set_qform(affine, 1)
    content.set_sform(affine, 1)
    content.header.set_xyzt_units("mm")
    with replacing(path, "the volume", "volume") as temporary:
        data = content.to_bytes()
        packed = Path(path).suffix.lower() == ".gz"
        temporary.write_bytes(gzip.compress(data, 6, mtime=0) if packed else data)


def mosaic(volume: Volume) -> np.ndarray:
    """A sheet of at most 20 axial slices, evenly spread over those that show anything; (H, W, 3) uint8.

    Anterior is up and the patient's right on the left, as an R says; voxels get their true proportions.
    """
    from PIL import Image, ImageDraw

    slices = axial(volume)
    shown = np.flatnonzero(slices.reshape(len(slices), -1).any(1))
    shown = shown if len(shown) else np.arange(len(slices))
    chosen = shown[np.unique(np.linspace(0, len(shown) - 1, MOSAIC).round().astype(int))]
    spacing = np.linalg.norm(canonical(_placed(volume)).affine[:3, :3], axis=0)
    width, height = spacing[0] * slices.shape[2], spacing[1] * slices.shape[1]
    scale = MOSAIC_SIDE / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    columns = int(np.ceil(np.sqrt(len(chosen))))
    rows = -(-len(chosen) // columns)
    sheet = Image.new("RGB", (columns * size[0], rows * size[1]))
    for i, k in enumerate(chosen):
        place = (i % columns * size[0], i // columns * size[1])
        sheet.paste(Image.fromarray(slices[k]).convert("RGB").resize(size, Image.BILINEAR), place)
        ImageDraw.Draw(sheet).text((place[0] + 3, place[1] + size[1] // 2 - 5), "R", (255, 255, 0))
    return np.asarray(sheet)


def write_fused(path: str | Path, picture: str | Path, volume: Volume) -> None:
    """Writes a fused volume as NIfTI, and its mosaic as PNG. Raises UserError."""
    write_nifti(path, volume)
    image.write(picture, mosaic(volume))
