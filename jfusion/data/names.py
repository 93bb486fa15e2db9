"""Names of samples, and which files belong together: one listing and one pairing for every command.

A sample's name is its file's name without the last ending, in Unicode's composed form (NFC), so that a
name typed on one system is found on another. Files whose names begin with a dot are not images.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

from jfusion.errors import UserError, counted, missing, printable

LISTED = 5  # names that a message names


def sample_name(path: str | Path) -> str:
    """The name of the sample in a file: `cam.2021.01.png` -> "cam.2021.01", composed (NFC)."""
    return unicodedata.normalize("NFC", Path(path).stem)


def natural_key(name: str) -> tuple:
    """A key that sorts names as people count: 1, 2, 10, and not 1, 10, 2."""
    parts = re.split(r"(\d+)", name)
    return tuple((int(p), "") if p.isdecimal() else (-1, p) for p in parts)


def number_of(name: str) -> int | None:
    """The last whole number in a name, by which files of two cameras are paired; None if it has none."""
    numbers = re.findall(r"\d+", name)
    return int(numbers[-1]) if numbers else None


def listed(names: Iterable[str], most: int = LISTED) -> str:
    """The first names in natural order, and how many more there are."""
    names = sorted(names, key=natural_key)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(printable, names[:most])) + more


def list_files(folder: str | Path, is_wanted: Callable[[Path], bool], what: str) -> dict[str, Path]:
    """Sample name -> file, of the wanted files of a folder, in natural order.

    what: the files in a message ("image", "paragraph"). Raises UserError when the folder is missing or
    holds none, when two files have one name, and when a name cannot be that of a file that is written.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise missing("folder", folder)
    files: dict[str, Path] = {}
    for path in folder.iterdir():
        if path.name.startswith(".") or not is_wanted(path):
            continue
        if not path.is_file():
            if path.is_symlink():
                raise UserError(
                    f"{printable(path, 4000)} is a link that leads to no file; remove it"
                )
            continue
        name = check_part(sample_name(path), f"folder {printable(folder, 4000)}")
        if name in files:
            both = " and ".join(sorted(p.name for p in (files[name], path)))
            raise UserError(
                f"{folder} holds two {what}s called {printable(name)!r}: {both}; remove one"
            )
        files[name] = path
    if not files:
        raise UserError(f"folder {folder} holds no {what}")
    return dict(sorted(files.items(), key=lambda item: natural_key(item[0])))


def pair_by_name(
    a: dict[str, Path], b: dict[str, Path], where: str, exact: bool = True
) -> list[tuple[str, Path, Path]]:
    """Name, file of A, file of B, for the names that both have.

    exact: raises UserError when an image has no partner; otherwise prints how many are left out, with
    their names. Raises UserError when no name is common to both.
    """
    odd = a.keys() ^ b.keys()
    if len(odd) == len(a) + len(b):
        raise UserError(
            f"{where}: no image has a partner of the same name ({listed(a, 2)}; {listed(b, 2)}); rename "
            "them so that both images of a pair have one name"
        )
    if odd and exact:
        folders = dict.fromkeys(str((a.get(name) or b[name]).parent) for name in sorted(odd))
        raise UserError(
            f"{where}: {counted(len(odd), 'image')} without a partner of the same name: {listed(odd)}, in "
            f"{' and '.join(folders)}; add what is missing, or remove what is there"
        )
    if odd:
        print(
            f"note: {where}: {counted(len(odd), 'image')} without a partner left out: {listed(odd)}"
        )
    return [(name, path, b[name]) for name, path in a.items() if name in b]


def pair_by_number(
    a: dict[str, Path], b: dict[str, Path], where: str
) -> list[tuple[str, Path, Path]]:
    """As `pair_by_name`, for two cameras whose names differ and end in the same numbers (1, VIS1).

    Raises UserError unless each name has a number, no number comes twice, and both sides have the same.
    """
    sides = []
    for files in (a, b):
        numbers = {number_of(name): (name, path) for name, path in files.items()}
        if None in numbers or len(numbers) < len(files):
            raise UserError(
                f"{where}: the names of the two folders differ, and their numbers do not say which images "
                f"belong together ({listed(files, 3)}); rename them so that both of a pair have one name"
            )
        sides.append(numbers)
    odd = sides[0].keys() ^ sides[1].keys()
    if odd:
        raise UserError(
            f"{where}: the names of the two folders differ, and so do their numbers: "
            f"{', '.join(map(str, sorted(odd)[:LISTED]))} in one alone; rename the images"
        )
    print(f"note: {where}: the names of the two folders differ; images are paired by their numbers")
    return [(name, path, sides[1][n][1]) for n, (name, path) in sorted(sides[0].items())]


def check_part(name: str, where: str, most: int = 255 - len(".png")) -> str:
    """`name` itself, which may become one part of a path. Raises UserError when it may not.

    It must not be empty, hidden, `..`, longer than a file system allows, or hold a separator, a control
    character or a lone surrogate. where: what carries the name, in a message.
    """
    bad = not name or name.startswith(".") or any(c in "/\\" for c in name)
    bad = bad or any(unicodedata.category(c) in ("Cc", "Cs") for c in name)
    if bad or len(os.fsencode(name)) > most:
        raise UserError(f"{where}: {printable(name)!r} cannot be a file name; rename it")
    return name
