"""`jfusion slices`: the slices of a medical volume as images."""

from __future__ import annotations

from dataclasses import dataclass

from jfusion.config import REQUIRED, CommandOptions, setting


@dataclass(frozen=True)
class Options(CommandOptions):
    """The volume, the folder, and how values become 8 bits."""

    volume: str = setting(
        REQUIRED, ".mha, .mhd, .nii, .nii.gz, .dcm, or a folder of .dcm files", positional=True
    )
    out: str = setting(REQUIRED, "the folder for 0.png, 1.png, ...", positional=True)
    format: str = setting("png", "png or jpg")
    window: tuple[float, float] | None = setting(
        None,
        "the values that become 0 and 255, in Hounsfield units for CT (default: the volume's "
        "smallest and largest)",
        ("LOW", "HIGH"),
    )


def run(options: Options) -> int:
    """Writes the slices and prints how many there are."""
    from jfusion.data.volume import write_slices

    written = write_slices(options.volume, options.out, options.format, options.window)
    print(f"{len(written)} slices: {options.out}")
    return 0
