"""Writing files so that a reader sees the old file or the new one, never half of one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from jfusion.errors import UserError, printable, unreadable, writing

# How a file must begin for a command that writes such files to replace it, as regular expressions.
_IMAGE = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF....WEBP", b"BM", b"II[*+]\0", b"MM\0[*+]")
KINDS = {
    "image": _IMAGE,
    "figure": (*_IMAGE, b"%PDF", rb"<\?xml", b"<svg"),
    "video": (b"....ftyp", b"\x1a\x45\xdf\xa3", b"RIFF....AVI ", b"nut/"),
    "volume": (b"\x1f\x8b", rb"\x5c\x01\0\0", rb"\0\0\x01\x5c"),
    "H5 file": (b"\x89HDF",),
    "archive": (b"PK",),
    "features": (b"\x93NUMPY",),
    "parameters": (b"MATLAB", b"svm_type", rb"x\s"),  # of NIQE and BRISQUE
    "checkpoint": (b"\x80", b"PK", b"}", rb".{5}\0{3}\{"),  # the last: .safetensors
}
_inputs: set[tuple[int, int]] | None = None  # of the command that runs, by device and inode
_parts: set[Path] = set()  # what is being written now, by any thread


@contextlib.contextmanager
def protecting_inputs() -> Iterator[None]:
    """While a command runs, `replacing` refuses the files that it has read by `mark_input`."""
    global _inputs
    before, _inputs = _inputs, set()
    try:
        yield
    finally:
        _inputs = before


def mark_input(path: str | Path) -> None:
    """Notes that a command reads this file, so that no spelling of its path is written to."""
    if _inputs is not None:
        with contextlib.suppress(OSError):
            status = Path(path).stat()
            _inputs.add((status.st_dev, status.st_ino))


def inputs() -> set[tuple[int, int]]:
    """The files that this command reads, for another process of the same command."""
    return _inputs or set()


def mark_inputs(noted: set[tuple[int, int]]) -> None:
    """Notes what `inputs` returned in another process."""
    if _inputs is not None:
        _inputs.update(noted)


@contextlib.contextmanager
def replacing(path: str | Path, what: str, kind: str) -> Iterator[Path]:
    """Yields a temporary name next to `path`; it becomes `path` when the block succeeds, else it is removed.

    The file is flushed to the disk before the rename, so that neither `kill -9` nor a power failure
    leaves half a file under the final name. `what` names the file in an error ("the checkpoint").
    Temporary names start with a dot and end in `.part`: nothing in jfusion reads such a file. A link is
    followed, and a device, a pipe or an open file (/dev/stdout) is written through; none is replaced. Raises UserError for a
    folder, for an input of the running command, and for an existing file that is not of the `kind` (a key
    of `KINDS`, or "text") that is about to replace it.
    """
    path = check_path(path, what)
    try:
        path = _followed(path)
        _check_target(path, what, kind)
        through = written_through(path)
        folder = Path(tempfile.gettempdir()) if through else path.parent
        folder.mkdir(parents=True, exist_ok=True)
        prefix = f".{_machine()}.{os.getpid()}."
        handle, name = tempfile.mkstemp(dir=folder, prefix=prefix, suffix=".part")
        os.close(handle)
    except OSError as error:
        raise writing(what, path, error) from error
    temporary = Path(name)
    _parts.add(temporary)
    try:
        yield temporary
        if through:
            with temporary.open("rb") as source, _opened(path) as target:
                shutil.copyfileobj(source, target)
            return
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise writing(what, path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
        _parts.discard(temporary)


def remove_parts() -> None:
    """Removes what threads are writing at this moment; for a process that ends without waiting for them."""
    for part in tuple(_parts):
        part.unlink(missing_ok=True)


def _open_file(path: Path) -> tuple[int, int] | None:
    """The process and the number of the open file that a path names; None for another path.

    /dev/stdout, /dev/fd/3, and links to them are such paths: they lead to /proc/<process>/fd/<number>.
    The file behind them is the shell's: it holds what others wrote, or is a pipe without a name.
    """
    for _ in range(40):  # as many links as Linux follows
        path = Path(os.path.realpath(path.parent), path.name)
        match = re.fullmatch(r"/proc/([0-9]+)(?:/task/[0-9]+)?/fd/([0-9]+)", str(path))
        if match:
            return int(match[1]), int(match[2])
        if not path.is_symlink():
            break
        path = path.parent / path.readlink()
    return None


def _followed(path: Path) -> Path:
    """Where a link leads, as another name is not put in its place; an open file keeps its name."""
    return Path(os.path.realpath(path)) if path.is_symlink() and not _open_file(path) else path


def written_through(path: Path) -> bool:
    """Whether a path is a device, a pipe or an open file, into which output flows without replacing what is there."""
    if _open_file(path):
        return True
    return path.exists() and not path.is_file() and not path.is_dir()


def _opened(path: Path) -> BinaryIO:
    """A device, a pipe or an open file, ready for more. A file of our own keeps the shell's position."""
    process, number = _open_file(path) or (None, 0)
    if process == os.getpid():
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        return os.fdopen(os.dup(number), "wb")
    return path.open("wb" if process is None else "ab")


def _check_target(path: Path, what: str, kind: str) -> None:
    """Raises UserError when `path` must not be written to."""
    if written_through(path):
        return
    if path.is_dir():
        raise UserError(f"{what} cannot be written to {path}, which is a folder; name a file")
    if not path.is_file():
        return
    _check_no_input(path, what)
    if not path.stat().st_size:
        return
    if not begins(path, kind):
        raise UserError(
            f"{what} would replace {path}, which is no {kind}; choose another name, or remove that file"
        )


def _check_no_input(path: Path, what: str) -> None:
    """Raises UserError for a file that this command reads, whatever it is called."""
    if _inputs and path.exists():
        status = path.stat()
        if (status.st_dev, status.st_ino) in _inputs:
            raise UserError(
                f"{what} would replace {path}, which this command reads; choose another output"
            )


def begins(path: Path, kind: str) -> bool:
    """Whether a file begins as one of a kind does, a key of `KINDS`, or "text"."""
    with path.open("rb") as file:
        head = file.read(4096)
    if kind == "text":
        return b"\0" not in head
    return any(re.match(pattern, head, re.DOTALL) for pattern in KINDS[kind])


def check_path(path: str | Path, what: str) -> Path:
    """The path, unless no file can have it: too long, with a NUL, or not text. Raises UserError."""
    try:
        names = os.fsencode(path).split(b"/")
    except UnicodeEncodeError:
        reason = "holds half a character"
    else:
        long = max(map(len, names)) > 255 or len(os.fsencode(path)) > 4095
        reason = "is too long" if long else "holds a NUL" if "\0" in str(path) else ""
    if reason:
        raise UserError(f"{what}: the path {printable(path, 60)} {reason}; choose another")
    return Path(path)


def check_output(
    path: str | Path, what: str, needed: int = 1 << 20, *, folder: bool = False
) -> None:
    """Says before the work that its result cannot be written: no permission, no room, over an input.

    path: the file to be written, or with `folder` the folder; `needed`: about how many bytes. Raises
    UserError.
    """
    path = check_path(path, what)
    try:
        if not folder:
            path = _followed(path)
            if written_through(path):
                return
            _check_no_input(path, what)
        parent = next(p for p in (path, *path.absolute().parents) if os.path.lexists(p))
        if not parent.is_dir() and (folder or parent != path):
            kind = "a file" if parent.is_file() else "a device or a broken link"
            raise UserError(f"{what} cannot be written to {path}: {parent} is {kind}, not a folder")
        place = parent if parent.is_dir() else parent.parent
        with tempfile.TemporaryFile(dir=place):
            pass
        free = shutil.disk_usage(place).free
    except OSError as error:
        raise writing(what, path, error) from error
    if free < needed:
        raise UserError(
            f"no room for {what}: about {needed / 1e6:.1f} MB are needed, and the disk of {place} has "
            f"{free / 1e6:.1f} MB free; "
            "free some space or choose another folder"
        )


def remove_left(folder: str | Path) -> None:
    """Removes the temporary files that processes of this machine left when they were killed."""
    prefix = f".{_machine()}."
    for left in Path(folder).glob(f"{prefix}*.part"):
        number = left.name.removeprefix(prefix).split(".")[0]
        if re.fullmatch("[0-9]{1,9}", number) and not _alive(int(number)):
            left.unlink(missing_ok=True)


def _machine() -> str:
    """A short name of this machine: a folder may be shared with others, whose processes we cannot see."""
    return hashlib.sha1(platform.node().encode()).hexdigest()[:12]


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def write_text(path: str | Path, text: str, what: str) -> None:
    """Writes a text file under a temporary name and renames it."""
    with replacing(path, what, "text") as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_script(path: Path, text: str) -> Path:
    """Writes an executable in one step, unless it is there already."""
    if not path.is_file() or path.read_text() != text:
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        fresh.write_text(text)
        fresh.chmod(0o755)
        fresh.replace(path)
    return path


def point_link(link: Path, target: Path) -> Path:
    """Makes `link` point to `target` in one step, whatever another process is doing."""
    if not (link.is_symlink() and link.readlink() == target):
        fresh = link.with_name(f".{link.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target)
        fresh.replace(link)
    return link


def read_text(path: str | Path, what: str, rewritten: bool = False) -> str:
    """A UTF-8 text file, or one line that says why it cannot be read.

    rewritten: the command writes the file anew itself, and its line ends are kept; any other file that
    is read is an input, which no output may replace.
    """
    path = check_path(path, what)
    try:
        with path.open(encoding="utf-8-sig", newline="" if rewritten else None) as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{what} {path} is not UTF-8 text: {error.reason}; save it as UTF-8"
        ) from error
    except OSError as error:
        raise unreadable(what, path, error) from error
    if not rewritten:
        mark_input(path)
    return text


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself durable, where the file system lets a folder be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
