"""Writing files so that a reader sees the old file or the new one, never half of one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jfusion.errors import UserError, writing


@contextlib.contextmanager
def replacing(path: str | Path, what: str) -> Iterator[Path]:
    """Yields a temporary name next to `path`; it becomes `path` when the block succeeds, else it is removed.

    The file is flushed to the disk before the rename, so that neither `kill -9` nor a power failure
    leaves half a file under the final name. `what` names the file in an error ("the checkpoint").
    Temporary names start with a dot and end in `.part`: nothing in jfusion reads such a file.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{_machine()}.{os.getpid()}."
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=".part")
        os.close(handle)
    except OSError as error:
        raise writing(what, path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise writing(what, path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_left(folder: str | Path) -> None:
    """Removes the temporary files that processes of this machine left when they were killed."""
    prefix = f".{_machine()}."
    for left in Path(folder).glob(f"{prefix}*.part"):
        number = left.name.removeprefix(prefix).split(".")[0]
        if number.isdigit() and not _alive(int(number)):
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
    with replacing(path, what) as temporary:
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


def read_text(path: str | Path, what: str) -> str:
    """A UTF-8 text file, or one line that says why it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{what} {path} is not UTF-8 text: {error.reason}; save it as UTF-8"
        ) from error
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror or error}") from error


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
