"""Which kind of input two paths are."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from jfusion.data.layout import check_inputs
from jfusion.data.volume import is_volume
from jfusion.errors import UserError

Kind = Literal["images", "volumes"]


def kind_of(a: str | Path, b: str | Path) -> Kind:
    """The kind of both inputs.

    "images" are two image files or two folders of them; "volumes" are files of medical volumes, or folders
    of DICOM files. Raises UserError when a path is missing, or when the two are of different kinds.
    """
    kinds = ["volumes" if is_volume(path) else "images" for path in (a, b)]
    if kinds == ["volumes", "volumes"]:
        return "volumes"
    check_inputs(a, b)
    if "volumes" in kinds:
        volume, other = (a, b) if kinds[0] == "volumes" else (b, a)
        raise UserError(f"{volume} is a medical volume and {other} is none; give two of one kind")
    return "images"
