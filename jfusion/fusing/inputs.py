"""Which kind of input two paths are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jfusion.config import option_of
from jfusion.data import image, video, volume
from jfusion.data.layout import check_inputs
from jfusion.data.video import is_video_name
from jfusion.data.volume import is_volume
from jfusion.errors import UserError

if TYPE_CHECKING:
    from jfusion.commands.fuse import Options

Kind = Literal["images", "volumes", "clips"]
# Options of one kind alone, and what they are without being used.
ONLY: dict[Kind, dict[str, Any]] = {
    "images": {"bits": 8, "samples": 1, "record": None, "palette": None, "report": False},
    "volumes": {"series_a": None, "series_b": None},
    "clips": {"clip": False, "fps": 25.0, "steady": True},
}
# The endings of what can be written. Folders of volumes get a volume and a picture, clips may be frames.
WRITTEN: dict[Kind, tuple[str, ...]] = {
    "images": tuple(image.WRITTEN),
    "volumes": (".nii", ".nii.gz"),
    "clips": tuple(video.WRITTEN),
}


def kind_of(options: Options) -> Kind:
    """The kind of both inputs.

    "images" are two image files or two folders of them; "volumes" are files of medical volumes, or folders
    of DICOM files; "clips" are videos, or folders of frames where the result is to be a video or --clip
    says it. Raises UserError when a path is missing, when the two are of different kinds, for an option
    that this kind does not have, and for a result's name with an ending that nothing has.
    """
    kind = _kind(options.a, options.b, options.clip or is_video_name(options.out))
    if kind != "clips" and is_video_name(options.out) and not Path(options.out).is_dir():
        raise UserError(f"--out {options.out} is the name of a video, and two {kind} give none")
    for other, usual in ONLY.items():
        for name in usual if other != kind else ():
            if getattr(options, name) != usual[name]:
                raise UserError(f"{option_of(name)} is for {other}; leave it out for {kind}")
    _check_ending(options.out, kind)
    return kind


def _check_ending(out: str, kind: Kind) -> None:
    """Raises UserError for a name such as `one.xyz`, which is no folder's and of which no file can be made.

    An ending begins with a letter; a folder may be called `v1.5`. One that is there, or `one.xyz/`, is a
    folder.
    """
    ending = Path(out).suffix.lower()
    known = ending in {*image.SUFFIXES, *video.SUFFIXES, *volume.SUFFIXES, ".gz"}
    is_folder = out.endswith("/") or Path(out).is_dir()
    if known or is_folder or not re.fullmatch(r"\.[^\W\d_]\w*", ending):
        return
    endings = ", ".join(e[1:] for e in WRITTEN[kind])
    raise UserError(
        f"--out {out} ends in {ending}, and {kind} are written as {endings}; a folder's name has no such "
        f"ending, or a / behind it: {out}/"
    )


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
