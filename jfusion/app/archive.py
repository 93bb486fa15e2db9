"""Two folders of images in a zip file from a stranger, and a zip file of results."""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath

from jfusion.data import image
from jfusion.data.names import check_part
from jfusion.errors import UserError, printable

MOST_FILES = 5000
MOST_BYTES = 4_000_000_000  # of all images together


def unpack(path: str | Path, target: Path) -> tuple[Path, Path]:
    """Writes the images of both folders of a zip file into `target`, and returns the folders A and B.

    The folder that comes first in the alphabet is A (ir before vi, near after far: the task guess sees the
    names). Nothing but images is written, under their own names, into these two folders. Raises UserError
    for no zip file, too many files or bytes, and other than two folders of images.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive)
            total = sum(m.file_size for of in members.values() for m in of)
            if total > MOST_BYTES:
                raise UserError(
                    f"the zip file holds {total / 1e9:.1f} GB of images, more than {MOST_BYTES / 1e9:g}; split it"
                )
            return tuple(_write(archive, name, of, target) for name, of in sorted(members.items()))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(f"{Path(path).name} is no zip file that can be read: {error}") from error


def _members(archive: zipfile.ZipFile) -> dict[str, list[zipfile.ZipInfo]]:
    """The images by the folder that holds them. Raises UserError unless there are two such folders."""
    found: dict[str, list[zipfile.ZipInfo]] = {}
    for member in archive.infolist():
        place = PurePosixPath(member.filename.replace("\\", "/"))
        hidden = any(part.startswith((".", "__MACOSX")) for part in place.parts)
        if member.is_dir() or hidden or not image.is_image_name(Path(place.name)):
            continue
        found.setdefault(str(place.parent), []).append(member)
    if sum(map(len, found.values())) > MOST_FILES:
        raise UserError(f"the zip file holds more than {MOST_FILES} images; split it")
    if len(found) != 2:
        names = ", ".join(printable(name) for name in sorted(found)[:5]) or "none"
        raise UserError(
            f"the zip file must hold two folders with images, such as ir and vi; it holds: {names}"
        )
    return found


def _write(
    archive: zipfile.ZipFile, name: str, members: list[zipfile.ZipInfo], target: Path
) -> Path:
    """Writes the images of a folder; as many bytes of each as its entry says."""
    last = PurePosixPath(name).name
    folder = target / check_part(last if last not in ("", ".", "..") else "images", "the zip file")
    if folder.exists():  # two folders of one name, in different places
        folder = target / f"{folder.name}_2"
    folder.mkdir(parents=True)
    for member in members:
        file = check_part(
            PurePosixPath(member.filename.replace("\\", "/")).name, "the zip file", 255
        )
        with archive.open(member) as source, (folder / file).open("xb") as out:
            left = member.file_size
            while chunk := source.read(min(1 << 20, left + 1)):
                left -= len(chunk)
                if left < 0:
                    raise UserError(f"{printable(file)} in the zip file is larger than it says")
                out.write(chunk)
    return folder


def pack(folder: Path, path: Path) -> Path:
    """Writes the finished files of a folder into a zip file, uncompressed: they are compressed images."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(folder.iterdir()):
            if file.is_file() and not file.name.startswith("."):
                archive.write(file, file.name)
    return path
