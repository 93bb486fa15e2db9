"""`jfusion slices`: the slices of a medical volume as images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jfusion.config import REQUIRED, CommandOptions, setting
from jfusion.errors import counted
from jfusion.files import check_output


@dataclass(frozen=True)
class Options(CommandOptions):
    """The volume, the folder, and how values become 8 bits."""

    volume: str = setting(
        REQUIRED,
        ".mha, .mhd, .nii, .nii.gz, a DICOM file, or a folder of DICOM files",
        positional=True,
    )
    out: str = setting(REQUIRED, "the folder for 0.png, 1.png, ...", positional=True)
    format: str = setting("png", "png or jpg")
    window: tuple[float, float] | None = setting(
        None,
        "the values that become 0 and 255, in Hounsfield units for CT (default: the volume's "
        "smallest and largest)",
        ("LOW", "HIGH"),
    )
    percentile: float | None = setting(
        None,
        "the window from this percentile of the values to its mirror, such as 1 (default: --window)",
        "P",
    )
    nan: Literal["refuse", "lowest"] = setting(
        "refuse", "values that are not finite: refuse the volume, or use its lowest value"
    )
    series: str | None = setting(
        None,
        "of several DICOM series in a folder, the one whose UID or description begins so",
        "TEXT",
    )


def run(options: Options) -> int:
    """Writes the slices and prints how many there are."""
    from jfusion.data.volume import write_slices

    check_output(Path(options.out) / "0.png", "the slices")
    written = write_slices(
        options.volume,
        options.out,
        options.format,
        options.window,
        percentile=options.percentile,
        nan=options.nan,
        series=options.series,
    )
    print(f"{counted(len(written), 'slice')}: {options.out}")
    return 0
