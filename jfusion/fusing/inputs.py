"""Which kind of input two paths are."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from jfusion.data.layout import check_inputs

Kind = Literal["images"]


def kind_of(a: str | Path, b: str | Path) -> Kind:
    """The kind of both inputs: "images" are two image files or two folders of them.

    Raises UserError when a path is missing, or when one is a file and the other a folder.
    """
    check_inputs(a, b)
    return "images"
