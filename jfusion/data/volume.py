"""Conversion of medical volumes (.mha, NIfTI, DICOM) to folders of 8-bit slices.

The libraries that read them are the optional extra `medical`.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np

from jfusion.data import image
from jfusion.errors import UserError, optional

FORMATS = ("png", "jpg")  # jpg is what Diff-FCCF's script writes


def read_volume(path: str | Path) -> np.ndarray:
    """A volume as (slices, H, W) float64: .mha, .mhd, .nii, .nii.gz, .dcm, or a folder of .dcm files.

    NIfTI volumes are rotated to axial slices, anterior up; DICOM values are rescaled (Hounsfield
    units) and its files sorted along the patient. Raises UserError when the file is missing, of
    another format, damaged, or holds values that are not finite.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"volume {path} does not exist")
    name = path.name.lower()
    readers = {".mha": _metaimage, ".mhd": _metaimage, ".nii": _nifti, ".nii.gz": _nifti}
    read = next((r for ending, r in readers.items() if name.endswith(ending)), None)
    if read is None and (path.is_dir() or name.endswith(".dcm")):
        read = _dicom
    if read is None:
        raise UserError(
            f"{path} is none of .mha, .mhd, .nii, .nii.gz, .dcm or a folder of .dcm files"
        )
    try:
        volume = np.asarray(read(path), np.float64)
    except UserError:
        raise
    except Exception as error:  # the libraries raise many kinds
        raise UserError(f"volume {path} cannot be read: {' '.join(str(error).split())}") from error
    if volume.ndim != 3:
        raise UserError(f"volume {path} has the shape {volume.shape}, not (slices, height, width)")
    if not np.isfinite(volume).all():
        raise UserError(f"volume {path} has values that are not finite (NaN, infinity)")
    return volume


def to_8bit(volume: np.ndarray, window: tuple[float, float] | None = None) -> np.ndarray:
    """A volume of any shape as 0..255: its smallest and largest value (or `window`) become 0 and 255.

    Fractions are truncated, as in Diff-FCCF's script; a constant volume becomes 0.
    """
    low, high = (volume.min(), volume.max()) if window is None else window
    if high <= low:
        return np.zeros(volume.shape, np.uint8)
    return ((np.clip(volume, low, high) - low) / (high - low) * 255).astype(np.uint8)


def write_slices(
    source: str | Path,
    folder: str | Path,
    kind: str = "png",
    window: tuple[float, float] | None = None,
) -> list[Path]:
    """Writes the slices of a volume as <folder>/0.png, 1.png, ... and returns their paths.

    kind: "png" or "jpg". window: see `to_8bit`. Raises UserError.
    """
    from tqdm import tqdm

    if kind not in FORMATS:
        raise UserError(f"--format must be one of {', '.join(FORMATS)}, not {kind!r}")
    written = []
    slices = to_8bit(read_volume(source), window)
    for i, pixels in enumerate(tqdm(slices, desc=Path(source).name, unit="slice", delay=2)):
        path = Path(folder, f"{i}.{kind}")
        image.write(path, pixels, {"jpg": "jpeg"}.get(kind, kind))
        written.append(path)
    return written


def _library(name: str, what: str) -> ModuleType:
    return optional(name, name, f"reading {what}", "medical")


def _metaimage(path: Path) -> np.ndarray:
    sitk = _library("SimpleITK", "MetaImage (.mha, .mhd)")
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def _nifti(path: Path) -> np.ndarray:
    nibabel = _library("nibabel", "NIfTI")
    volume = nibabel.as_closest_canonical(
        nibabel.load(path)
    ).get_fdata()  # x right, y anterior, z up
    return volume[:, ::-1].transpose(2, 1, 0) if volume.ndim == 3 else volume


def _dicom(path: Path) -> np.ndarray:
    pydicom = _library("pydicom", "DICOM")
    files = [path] if path.is_file() else sorted(path.glob("*.dcm"))
    if not files:
        raise UserError(f"folder {path} holds no .dcm file")
    read = [pydicom.dcmread(f) for f in files]
    read.sort(key=_position)
    slices = [
        d.pixel_array * float(getattr(d, "RescaleSlope", 1))
        + float(getattr(d, "RescaleIntercept", 0))
        for d in read
    ]
    sizes = {s.shape for s in slices}
    if len(sizes) > 1:
        raise UserError(f"{path}: the slices have different sizes: {sorted(sizes)}")
    return slices[0] if slices[0].ndim == 3 else np.stack(slices)


def _position(header: object) -> float:
    """The position of a slice along the stack; its number when no position is given."""
    position = getattr(header, "ImagePositionPatient", None)
    if not position:
        return float(getattr(header, "InstanceNumber", None) or 0)
    orientation = getattr(header, "ImageOrientationPatient", None) or (1, 0, 0, 0, 1, 0)
    row, column = (np.array(v, float) for v in (orientation[:3], orientation[3:]))
    return float(np.cross(row, column) @ np.array(position, float))
