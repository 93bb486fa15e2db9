"""A compiled core and its kernels in one file, for machines that would compile the same."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jfusion.errors import UserError, printable
from jfusion.files import replacing
from jfusion.runtime import build, core
from jfusion.runtime.cache import cache_home
from jfusion.runtime.environment import environment
from jfusion.runtime.machine import cpu_features

CONTENTS = "core.json"
MOST_BYTES = 4_000_000_000  # of all files together
MOST_OF_ONE = 200_000_000
MOST_TEXT = 20_000_000  # of `CONTENTS`
_LIBRARY = re.compile(r"(?:(?:jit|custom_ops)/)?[\w+.-]+\.so(?:\.key)?|data\.md5", re.ASCII)

# What a processor must have for the two levels, by the names in /proc/cpuinfo.
LEVELS = {"x86-64-v3": ["avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "abm"]}
LEVELS["x86-64-v4"] = LEVELS["x86-64-v3"] + [
    "avx512f",
    "avx512bw",
    "avx512cd",
    "avx512dq",
    "avx512vl",
]


def pack(path: str | Path) -> int:
    """Writes what is compiled for this environment, the core first if it is not, into a file.

    Returns the number of kernels. Raises UserError when it is compiled for a GPU, or the file cannot be written.
    """
    variables = _for_the_cpu()
    folder = Path(build.prepare(quiet=True)["cache_path"])
    files = [*folder.glob("*.so"), *folder.glob("custom_ops/*.so"), folder / "data.md5"]
    # a kernel is whole when its key has been written
    keys = sorted(folder.glob("jit/*.so.key"))
    files += [file for key in keys for file in (key.with_suffix(""), key) if file.exists()]
    names = {str(file.relative_to(folder)): _hash(file.read_bytes()) for file in files}
    contents = {"parts": core.core_parts(variables["cache_name"]), "files": names}
    with (
        replacing(path, "the cache", "archive") as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        archive.writestr(CONTENTS, json.dumps(contents))
        for name in names:
            archive.write(folder / name, name)
    return len(keys)


def unpack(path: str | Path) -> int:
    """Puts what `pack` wrote into the cache of this machine; what is there already stays.

    Returns the number of kernels that are new. Raises UserError, and changes nothing, for a file that is damaged or is none of
    `pack`'s, and where another core would be compiled.
    """
    variables, home = _for_the_cpu(), cache_home()
    with _opened(path) as archive, tempfile.TemporaryDirectory(dir=home, prefix=".unpack-") as made:
        contents = _contents(archive, path)
        check_fits(contents["parts"], core.core_parts(variables["cache_name"]), path)
        for name, expected in contents["files"].items():
            _extract(archive, name, expected, Path(made, name), path)
        with build.preparing(home):
            return _adopt(home, Path(made), contents["parts"])


def _for_the_cpu() -> dict[str, str]:
    variables = environment()
    if variables["nvcc_path"]:
        raise UserError(
            "jfusion cache carries what is compiled for a CPU, and here it is for a GPU; "
            "remedy: nvcc_path= jfusion cache ..."
        )
    return variables


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[zipfile.ZipFile]:
    """The archive; whatever a damaged or hostile one raises is a UserError."""
    try:
        file = Path(path).open("rb")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    try:
        with file, zipfile.ZipFile(file) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise UserError(f"{path} is damaged, or no file of jfusion cache pack: {error}") from error


def _contents(archive: zipfile.ZipFile, path: str | Path) -> dict[str, Any]:
    """What the archive says of itself, and holds: names of libraries, each once, of no more bytes than allowed."""
    try:
        members = {member.filename: member for member in archive.infolist()}
        if members[CONTENTS].file_size > MOST_TEXT:
            raise ValueError(f"{CONTENTS} is too large")
        contents = json.loads(archive.read(CONTENTS))
        parts, files = contents["parts"], contents["files"]
        if not all(isinstance(x, str) for d in (parts, files) for item in d.items() for x in item):
            raise ValueError(f"{CONTENTS} is none of jfusion's")
        for name in files:
            if not _LIBRARY.fullmatch(name) or name not in members:
                raise ValueError(f"{printable(name)[:80]} is no library in it")
        sizes = [members[name].file_size for name in files]
        if sum(sizes) > MOST_BYTES or max(sizes, default=0) > MOST_OF_ONE:
            raise ValueError("it would become more bytes than a cache has")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path} is no file of jfusion cache pack: {error}") from error
    return contents


def check_fits(theirs: dict[str, str], here: dict[str, str], path: str | Path) -> None:
    """Raises UserError, which names the first difference, unless a core with these parts would be compiled here.

    A machine without a compiler compiles nothing, so that any compiler's will do.
    """
    lacking = set(LEVELS.get(theirs.get("processor", ""), ())) - set(cpu_features())
    if lacking:
        level = theirs["processor"]
        raise UserError(
            f"{path} is for processors of {level}; this one lacks {', '.join(sorted(lacking))}"
        )
    for part in sorted(here.keys() | theirs.keys()):
        mine, other = here.get(part, ""), theirs.get(part, "")
        if other == mine or (part == "compiler" and not mine):
            continue
        if part == "processor":  # long lists: their difference is enough
            other, mine = (
                " ".join(sorted(set(a.split()) - set(b.split()))) or "none more"
                for a, b in ((other, mine), (mine, other))
            )
        remedy = f"; remedy: export cc_flags={other!r}" if part == "flags" and other else ""
        raise UserError(
            f"{path} does not fit: its {part} is {printable(other)[:120] or 'none'}, here it is "
            f"{mine[:120] or 'none'}{remedy}"
        )


def _extract(
    archive: zipfile.ZipFile, name: str, expected: str, target: Path, path: str | Path
) -> None:
    """Writes one file, of as many bytes as the archive says, if its hash is the expected one."""
    size = archive.getinfo(name).file_size
    with archive.open(name) as source:
        data = source.read(size + 1)
    if len(data) > size or _hash(data) != expected:
        raise UserError(f"{path} is damaged: {printable(name)[:80]} is not what was packed")
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(data)


def _adopt(home: Path, made: Path, parts: dict[str, str]) -> int:
    """Moves the files to where this machine's Jittor looks for them."""
    name = core.key_of(parts)
    stamp, folder = home / f"ready-{name}.json", home / f"core-{name}"
    fresh = build.read_stamp(stamp) is None
    header = build.start_folder(folder) if fresh else None
    added = 0
    for file in sorted(p for p in made.rglob("*") if p.is_file()):
        target = folder / file.relative_to(made)
        if not target.exists():
            file.replace(target)
            added += target.suffix == ".key"
    if fresh:
        build.finish_header(folder, header)
        ready = {"executable": sys.executable, "movable": True, "cache_path": str(folder)}
        build.write_stamp(stamp, {**ready, "parts": parts})
    return added


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
