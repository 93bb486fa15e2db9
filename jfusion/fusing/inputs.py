"""Which kind of input two paths are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jfusion.config import option_of
from jfusion.data.layout import check_inputs
from jfusion.data.video import is_video_name
from jfusion.data.volume import is_volume
from jfusion.errors import UserError

if TYPE_CHECKING:
    from jfusion.commands.fuse import Options

Kind = Literal["images", "volumes", "clips"]
VOLUMES_ONLY = ("series_a", "series_b")  # options of volumes alone
# Options of images alone, and what they are without being used.
IMAGES_ONLY = {"bits": 8, "samples": 1, "record": None, "palette": None, "report": False}


def kind_of(options: Options) -> Kind:
    """The kind of both inputs.

    "images" are two image files or two folders of them; "volumes" are files of medical volumes, or folders
    of DICOM files; "clips" are videos, or folders of frames where the result is to be a video or --clip
    says it. Raises UserError when a path is missing, when the two are of different kinds, or for an
    option that this kind does not have.
    """
    kind = _kind(options.a, options.b, options.clip or is_video_name(options.out))
    if kind != "clips" and is_video_name(options.out) and not Path(options.out).is_dir():
        raise UserError(f"--out {options.out} is the name of a video, and two {kind} give none")
    for name, usual in IMAGES_ONLY.items() if kind != "images" else ():
        if getattr(options, name) != usual:
            raise UserError(f"{option_of(name)} is for images; leave it out for {kind}")
    for name in VOLUMES_ONLY if kind != "volumes" else ():
        if getattr(options, name) is not None:
            raise UserError(f"{option_of(name)} is for volumes; leave it out for {kind}")
    return kind


def _kind(a: str, b: str, in_motion: bool) -> Kind:
    videos = [is_video_name(path) and not Path(path).is_dir() for path in (a, b)]
    frames = [Path(path).is_dir() for path in (a, b)]
    if any(videos) and all(v or f for v, f in zip(videos, frames, strict=True)):
        return "clips"
    if all(frames) and in_motion:
        return "clips"
    kinds = ["volumes" if is_volume(path) else "images" for path in (a, b)]
    if kinds == ["volumes", "volumes"]:
        return "volumes"
    check_inputs(a, b)
    kinds = [
        "a video" if v else "a volume" if k == "volumes" else ""
        for v, k in zip(videos, kinds, strict=True)
    ]
    if any(kinds):
        odd, other = (a, b) if kinds[0] else (b, a)
        raise UserError(f"{odd} is {max(kinds)} and {other} is none; give two of one kind")
    return "images"
