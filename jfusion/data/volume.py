"""Medical volumes (.mha, NIfTI, DICOM): reading, and conversion to folders of 8-bit slices.

The libraries that read them are the optional extra `medical`. Where a volume is in the patient is the
subject of space.py.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import sys
import warnings
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from jfusion.data import image
from jfusion.data.names import natural_key
from jfusion.errors import UserError, counted, missing, optional, printable, unreadable
from jfusion.files import mark_input

FORMATS = ("png", "jpg")  # jpg is what Diff-FCCF's script writes
NAN = ("refuse", "lowest")
TO_RAS = np.diag([-1.0, -1, 1, 1])  # DICOM and MetaImage count to the left and to the back
MOST_VALUES = 1 << 29  # of a volume: 4 GiB in double precision; a whole body in CT has as many
SUFFIXES = (".mha", ".mhd", ".nii", ".nii.gz", ".dcm")


class Volume(NamedTuple):
    """The values of a volume, and where they are in the patient.

    values: (x, y, z) float64 in the order in which the file has its voxels, or (x, y, z, 3) uint8 for color.
    affine: (4, 4), from the index of a voxel to millimeters right, anterior and superior (RAS+); None
    where the file does not say. uneven: why a series of slices has no affine, "" otherwise.
    """

    values: np.ndarray
    affine: np.ndarray | None
    uneven: str = ""


def is_volume(path: str | Path) -> bool:
    """Whether a path is a volume: a file of a known format, or a folder that holds DICOM and no image."""
    path = Path(path)
    if path.is_file():
        return path.name.lower().endswith(SUFFIXES) or _is_dicom(path)
    if not path.is_dir():
        return False
    files = [f for f in path.iterdir() if f.is_file() and not f.name.startswith(".")]
    return not any(map(image.is_image_name, files)) and any(map(_is_dicom, files))


def volume_name(path: str | Path) -> str:
    """The name of a volume without its ending: `brain.nii.gz` is "brain"."""
    name = Path(path).resolve().name
    ending = next((e for e in reversed(SUFFIXES) if name.lower().endswith(e)), "")
    return name[: len(name) - len(ending)]


def read_volume(path: str | Path, *, nan: str = "refuse", series: str | None = None) -> np.ndarray:
    """A volume as (slices, H, W) float64, or (slices, H, W, 3) uint8 for color.

    path: .mha, .mhd, .nii, .nii.gz, .dcm, or a folder of DICOM files, whatever their names. NIfTI volumes
    are rotated to axial slices, anterior up. DICOM values are rescaled (Hounsfield units), those of
    MONOCHROME1 inverted, and its files sorted along the patient; without positions by number, or else by
    name. nan: "refuse", or "lowest": values that are not finite become the lowest finite one. series: of
    several DICOM series in a folder, the one whose UID or description begins so. Raises UserError when
    the file is missing, of another format, damaged, or holds values that are not finite.
    """
    volume = read_in_space(path, nan=nan, series=series)
    values = volume.values
    if Path(path).name.lower().endswith((".nii", ".nii.gz")):
        values = canonical(volume).values[:, ::-1]
    return values.transpose(2, 1, 0, *range(3, values.ndim))


def read_in_space(path: str | Path, *, nan: str = "refuse", series: str | None = None) -> Volume:
    """A volume as it is stored, and where it is. Arguments and errors are those of `read_volume`."""
    path = Path(path)
    if not path.exists():
        raise missing("volume", path)
    if nan not in NAN:
        raise UserError(f"--nan must be one of {', '.join(NAN)}, not {nan!r}")
    name = path.name.lower()
    readers = {".mha": _metaimage, ".mhd": _metaimage, ".nii": _nifti, ".nii.gz": _nifti}
    read = next((r for ending, r in readers.items() if name.endswith(ending)), None)
    if read is None and (path.is_dir() or _is_dicom(path)):
        read = partial(_dicom, series=series)
    if read is None:
        raise UserError(
            f"{path} is none of .mha, .mhd, .nii, .nii.gz, a DICOM file or a folder of DICOM files"
        )
    for file in path.iterdir() if path.is_dir() else (path,):
        mark_input(file)
    try:
        volume = read(path)
    except UserError:
        raise
    except Exception as error:  # the libraries raise many kinds
        raise unreadable("volume", path, error, "it is damaged, or no volume") from error
    values = np.asarray(volume.values)
    if values.ndim == 4 and values.shape[3] == 3 and values.dtype == np.uint8:
        return volume
    if values.ndim != 3 or not values.size:
        shape = values.shape[::-1]
        raise UserError(f"volume {path} has the shape {shape}, not (slices, height, width)")
    affine = volume.affine
    if affine is not None and not (np.isfinite(affine).all() and abs(np.linalg.det(affine)) > 1e-9):
        affine = None
    return volume._replace(values=_finite(values.astype(np.float64), path, nan), affine=affine)


def canonical(volume: Volume) -> Volume:
    """The volume with its axes rotated to the nearest of right, anterior and superior."""
    if volume.affine is None:
        return volume
    _library("nibabel", "volumes")
    from nibabel import orientations

    turn = orientations.io_orientation(volume.affine)
    values = orientations.apply_orientation(volume.values, turn)
    back = orientations.inv_ornt_aff(turn, volume.values.shape[:3])
    return volume._replace(values=values, affine=volume.affine @ back)


def _finite(volume: np.ndarray, path: Path, nan: str) -> np.ndarray:
    """The volume with its values that are not finite replaced, as `nan` says."""
    finite = np.isfinite(volume)
    if finite.all():
        return volume
    if not finite.any():
        raise UserError(f"volume {path} has no finite value at all")
    if nan == "refuse":
        raise UserError(
            f"volume {path} has values that are not finite (NaN, infinity); --nan lowest replaces them by "
            "the lowest value"
        )
    return np.where(finite, volume, volume[finite].min())


def to_8bit(
    volume: np.ndarray,
    window: tuple[float, float] | None = None,
    percentile: float | None = None,
) -> np.ndarray:
    """A volume of any shape as 0..255: its smallest and largest value (or `window`) become 0 and 255.

    percentile: the window reaches from this percentile of the values to its mirror. Fractions are
    truncated, as in Diff-FCCF's script; a constant volume becomes 0; color (uint8) stays as it is.
    """
    if volume.dtype == np.uint8:
        return volume
    if percentile is not None:
        window = tuple(np.percentile(volume, [percentile, 100 - percentile]))
    low, high = (volume.min(), volume.max()) if window is None else window
    if high <= low:
        return np.zeros(volume.shape, np.uint8)
    return ((np.clip(volume, low, high) - low) / (high - low) * 255).astype(np.uint8)


def write_slices(
    source: str | Path,
    folder: str | Path,
    kind: str = "png",
    window: tuple[float, float] | None = None,
    *,
    percentile: float | None = None,
    nan: str = "refuse",
    series: str | None = None,
) -> list[Path]:
    """Writes the slices of a volume as <folder>/0.png, 1.png, ... and returns their paths.

    kind: "png" or "jpg". window, percentile: see `to_8bit`; nan, series: see `read_volume`. Raises
    UserError.
    """
    from tqdm import tqdm

    if kind not in FORMATS:
        raise UserError(f"--format must be one of {', '.join(FORMATS)}, not {kind!r}")
    if window is not None and not window[0] < window[1]:
        raise UserError(f"--window needs LOW below HIGH, not {window[0]:g} {window[1]:g}")
    if percentile is not None and (window is not None or not 0 <= percentile < 50):
        raise UserError("--percentile must be from 0 to below 50, and not together with --window")
    written = []
    slices = to_8bit(read_volume(source, nan=nan, series=series), window, percentile)
    for i, pixels in enumerate(tqdm(slices, desc=Path(source).name, unit="slice", delay=2)):
        path = Path(folder, f"{i}.{kind}")
        image.write(path, pixels, {"jpg": "jpeg"}.get(kind, kind))
        written.append(path)
    return written


def _library(name: str, what: str) -> ModuleType:
    return optional(name, name, f"reading {what}", "medical")


# ---- MetaImage, NIfTI --------------------------------------------------------------------------


def _metaimage(path: Path) -> Volume:
    sitk = _library("SimpleITK", "MetaImage (.mha, .mhd)")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with path.open("rb") as file:
        header = file.read(1 << 16)
    data, start = _data_of(path, header)
    with _silenced():
        reader.ReadImageInformation()
    count = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
    _check_count(path, count)
    one = sitk.Image(
        [1] * reader.GetDimension(), reader.GetPixelID(), reader.GetNumberOfComponents()
    )
    needed = count * sitk.GetArrayViewFromImage(one).itemsize
    if re.search(rb"^CompressedData\s*=\s*True", header, re.M | re.I):
        size = re.search(rb"^CompressedDataSize\s*=\s*(\d+)", header, re.M)
        _check_unpacked(path, data, start, int(size[1]) if size else None, needed)
    elif (there := data.stat().st_size - start) < needed:
        raise UserError(
            f"volume {path} holds {there} of {needed} bytes of values; it is truncated: get it again"
        )
    with _silenced():
        content = reader.Execute()
    values = sitk.GetArrayFromImage(content)
    order = (*range(content.GetDimension())[::-1], *range(content.GetDimension(), values.ndim))
    if content.GetDimension() != 3:
        return Volume(values.transpose(order), None)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(content.GetDirection(), (3, 3)) * content.GetSpacing()
    affine[:3, 3] = content.GetOrigin()
    return Volume(values.transpose(order), TO_RAS @ affine)


def _data_of(path: Path, header: bytes) -> tuple[Path, int]:
    """The file with the values of a MetaImage, and where they begin in it. Raises UserError."""
    if re.search(rb"^BinaryData\s*=\s*False", header, re.M | re.I):
        raise UserError(f"volume {path} has its values as text; save it with binary values")
    place = re.search(rb"^ElementDataFile[ \t]*=[ \t]*([^\r\n]*?)[ \t]*\r?\n", header, re.M)
    if place is None:
        raise UserError(f"volume {path} names no ElementDataFile; it is no MetaImage")
    name = place[1].decode("latin1")
    if name.lower() == "local":
        return path, place.end()
    data = path.parent / name
    if path.suffix.lower() == ".mha" or data.name != name or not data.is_file():
        raise UserError(
            f"volume {path} has its values in another file, {printable(name, 60)!r}, which jfusion does not "
            "open for it: .mhd may name one file next to it"
        )
    mark_input(data)
    skipped = re.search(rb"^HeaderSize\s*=\s*(\d+)", header, re.M)
    return data, int(skipped[1]) if skipped else 0


def _check_unpacked(path: Path, data: Path, start: int, length: int | None, needed: int) -> None:
    """Raises UserError unless zlib's data, `length` bytes or all to the end, unpack to `needed` bytes.

    The library would go on with what its memory happens to hold. Nothing that is unpacked here is kept.
    """
    unpacker, total = zlib.decompressobj(), 0
    with data.open("rb") as file, contextlib.suppress(zlib.error):
        file.seek(start)
        left = file.seek(0, 2) - start if length is None else length
        file.seek(start)
        while total <= needed and not unpacker.eof:
            block = unpacker.unconsumed_tail
            if not block:
                block = file.read(min(left, 1 << 20))
                left -= len(block)
            if not block:
                break
            total += len(unpacker.decompress(block, 1 << 24))
    if total != needed or not unpacker.eof:
        raise UserError(
            f"volume {path}: its compressed values do not unpack to the {needed} bytes that its header states; "
            "it is damaged: get it again"
        )


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Sends what a C library prints to nowhere: its errors are raised, too."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    kept = [os.dup(number) for number in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in (1, 2):
            os.dup2(nowhere, number)
        yield
    finally:
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        os.close(nowhere)


def _check_count(path: Path, count: int) -> None:
    """Raises UserError for a volume of so many values that it would not fit into memory."""
    if count > MOST_VALUES:
        raise UserError(
            f"volume {path} has {count / 1e6:.0f} million values, more than {MOST_VALUES / 1e6:.0f}; cut it "
            "into parts"
        )


def _nifti(path: Path) -> Volume:
    nibabel = _library("nibabel", "NIfTI")
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # what matters is raised
    content = nibabel.load(path)
    _check_count(path, math.prod(content.shape))
    stored = content.dataobj.dtype if hasattr(content.dataobj, "dtype") else np.dtype(float)
    if stored.names == ("R", "G", "B"):
        values = np.asarray(content.dataobj)
        values = np.stack([values[c] for c in stored.names], -1)
    else:
        values = content.get_fdata()
        while values.ndim > 3 and values.shape[-1] == 1:
            values = values[..., 0]
    return Volume(values, np.asarray(content.affine, float))


# ---- DICOM -------------------------------------------------------------------------------------


def _is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM does, or ends in .dcm."""
    if path.suffix.lower() == ".dcm":
        return True
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"
    return False


def _dicom(path: Path, series: str | None) -> Volume:
    pydicom = _library("pydicom", "DICOM")
    if path.is_file():
        files = [path]
    else:
        files = [f for f in path.iterdir() if f.is_file() and not f.name.startswith(".")]
        files = sorted((f for f in files if _is_dicom(f)), key=lambda f: natural_key(f.name))
    if not files:
        raise UserError(f"folder {path} holds no DICOM file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        headers = _one_series(path, [(f, pydicom.dcmread(f)) for f in files], series)
        headers = _ordered(path, headers)
        _check_count(path, sum(_count(header) for _, header in headers))
        slices = [_pixels(f, header) for f, header in headers]
    sizes = {s.shape for s in slices}
    if len(sizes) > 1:
        raise UserError(f"{path}: the slices have different sizes: {sorted(sizes)}")
    if len(slices) == 1 and _has_frames(slices[0]):
        values, affine, uneven = slices[0], None, "one file holds all slices"
    else:
        values, (affine, uneven) = np.stack(slices), _dicom_affine(headers)
    return Volume(values.transpose(2, 1, 0, *range(3, values.ndim)), affine, uneven)


def _dicom_affine(headers: list[tuple[Path, Any]]) -> tuple[np.ndarray | None, str]:
    """The affine of ordered slices (PS3.3, C.7.6.2.1.1), or None and why there is none."""
    all_places = [_numbers(*each, "ImagePositionPatient", 3) for each in headers]
    orientation = _numbers(*headers[0], "ImageOrientationPatient", 6)
    spacing = _numbers(*headers[0], "PixelSpacing", 2)
    if None in all_places or orientation is None or spacing is None:
        return None, "its files do not give position, orientation and spacing"
    places = np.array(all_places)
    along_row, along_column = np.reshape(orientation, (2, 3))
    between_rows, between_columns = spacing
    steps = np.diff(places, axis=0)
    if len(steps):
        step = steps.mean(0)
        if np.linalg.norm(steps - step, axis=1).max() > 0.1 * np.linalg.norm(step):
            return None, "its slices are not evenly spaced; some may be missing"
    else:
        (thickness,) = _numbers(*headers[0], "SliceThickness", 1) or (1,)
        step = np.cross(along_row, along_column) * thickness
    affine = np.eye(4)
    affine[:3, :3] = np.stack([along_row * between_columns, along_column * between_rows, step], 1)
    affine[:3, 3] = places[0]
    return TO_RAS @ affine, ""


def _has_frames(x: np.ndarray) -> bool:
    """Whether the values of one file are several frames."""
    in_color = x.dtype == np.uint8 and x.shape[-1] == 3
    return x.ndim == (4 if in_color else 3)


def _one_series(path: Path, headers: list[tuple[Path, Any]], chosen: str | None) -> list:
    """The files of the one series of a folder, or of the chosen one."""
    series: dict[str, list] = {}
    for file, header in headers:
        series.setdefault(str(getattr(header, "SeriesInstanceUID", "")), []).append((file, header))

    def title(uid: str) -> str:
        text = str(getattr(series[uid][0][1], "SeriesDescription", "") or "")
        return printable(f"{uid} {text}".strip(), 80)

    if chosen is not None:
        fits = [
            u for u in series if u.startswith(chosen) or title(u)[len(u) + 1 :].startswith(chosen)
        ]
        if len(fits) != 1:
            listed = "; ".join(map(title, series))
            raise UserError(
                f"{path}: --series {chosen!r} names {len(fits)} series; there are: {listed}"
            )
        return series[fits[0]]
    if len(series) > 1:
        counts = "; ".join(
            f"{title(u)} ({counted(len(files), 'file')})" for u, files in series.items()
        )
        raise UserError(
            f"{path} holds {len(series)} series; choose one with --series (fuse: --series-a, --series-b): {counts}"
        )
    return headers


def _ordered(path: Path, headers: list[tuple[Path, Any]]) -> list[tuple[Path, Any]]:
    """The files along the patient: by position, else by number, else in the order of their names."""
    if len(headers) < 2:
        return headers
    positions = [_position(*each) for each in headers]
    numbers = [_numbers(*each, "InstanceNumber", 1) for each in headers]
    for keys in (positions, numbers):
        if None not in keys and len(set(keys)) == len(keys):
            return [headers[i] for i in sorted(range(len(keys)), key=lambda i: keys[i])]
    print(f"note: the files of {path} give no position or number; they are in the order of names")
    return headers


def _position(file: Path, header: Any) -> float | None:
    """The position of a slice along the stack; None when the file gives none."""
    position = _numbers(file, header, "ImagePositionPatient", 3)
    orientation = _numbers(file, header, "ImageOrientationPatient", 6) or (1, 0, 0, 0, 1, 0)
    return position and float(np.cross(orientation[:3], orientation[3:]) @ np.array(position))


def _count(header: Any) -> int:
    """The number of values that the header of a file states; 0 where it states none."""
    tags = ("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames")
    return math.prod(
        int(getattr(header, tag, None) or tag not in ("Rows", "Columns")) for tag in tags
    )


def _pixels(file: Path, header: Any) -> np.ndarray:
    """The values of one file: (H, W) or (frames, H, W) float64, or color (H, W, 3) uint8."""
    if not getattr(header, "PixelData", b"-"):
        raise UserError(f"{file}: the tag PixelData is empty; get the file again")
    pixels = header.pixel_array
    if int(getattr(header, "SamplesPerPixel", 1) or 1) == 3:
        from pydicom.pixels import convert_color_space

        kind = str(header.PhotometricInterpretation)
        rgb = pixels if kind == "RGB" else convert_color_space(pixels, kind, "RGB")
        if rgb.dtype != np.uint8:
            raise UserError(f"{file} has color of {rgb.dtype}; only color of 8 bits is read")
        return rgb
    if header.PhotometricInterpretation == "MONOCHROME1":
        signed = int(getattr(header, "PixelRepresentation", 0) or 0)
        pixels = (-1 if signed else (1 << int(header.BitsStored)) - 1) - pixels.astype(np.int64)
    slope, intercept = (
        _number(file, header, tag, default)
        for tag, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
    )
    return pixels * slope + intercept


def _number(file: Path, header: Any, tag: str, default: float) -> float:
    """The number of a tag. Raises UserError where the tag is there and holds none."""
    numbers = _numbers(file, header, tag, 1)
    if numbers is None and tag in header:
        raise UserError(f"{file}: the tag {tag} holds no number; correct or remove it")
    return default if numbers is None else numbers[0]


def _numbers(file: Path, header: Any, tag: str, count: int) -> tuple[float, ...] | None:
    """The numbers of a tag; None where it is missing or empty. Raises UserError for anything else."""
    try:
        value = getattr(header, tag, None)
        values = [value] if value is None or count == 1 else list(value)
        if all(v is None or not str(v).strip() for v in values):
            return None
        numbers = tuple(map(float, values))
        if len(numbers) != count or not np.isfinite(numbers).all():
            raise ValueError(f"{len(numbers)} numbers, not {count}")
    except (TypeError, ValueError, OverflowError) as error:
        needed = "a number" if count == 1 else f"{count} numbers"
        raise UserError(
            f"{file}: the tag {tag} does not hold {needed} ({printable(error, 60)}); correct or remove it"
        ) from error
    return numbers
