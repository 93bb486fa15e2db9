"""The folder for everything compiled."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path

from jfusion.errors import UserError


def cache_home() -> Path:
    """The folder for everything compiled: `$JFUSION_HOME`, else `~/.cache/jfusion`.

    Jittor passes its paths to a shell unquoted and needs to write. A home folder with spaces or without
    write permission is therefore skipped, for a private folder under the system's temporary one.
    Raises UserError when `$JFUSION_HOME` cannot be used, or when the private folder is not ours.
    """
    chosen = os.environ.get("JFUSION_HOME")
    if chosen:
        home = Path(chosen).expanduser().absolute()
        if not shell_safe(home):
            raise UserError(
                f"JFUSION_HOME={home} holds a space or a special character; choose another"
            )
        if not _writable(home):
            raise UserError(f"JFUSION_HOME={home} cannot be written to; choose another folder")
        return _private(home)
    cache = os.environ.get("XDG_CACHE_HOME") or Path(os.path.expanduser("~"), ".cache")  # noqa: PTH111
    home = Path(cache).absolute() / "jfusion"
    if shell_safe(home) and _writable(home):
        return _private(home)
    private = Path(tempfile.gettempdir()) / f"jfusion-{os.getuid()}"
    private.mkdir(mode=0o700, exist_ok=True)
    status = private.lstat()
    if private.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise UserError(
            f"{private} belongs to somebody else; set JFUSION_HOME to a folder of yours"
        )
    return private


def _private(home: Path) -> Path:
    """`home` itself. Raises UserError where others could put libraries that this process would load."""
    status = home.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o002:
        who = (
            "belongs to another user"
            if status.st_uid != os.getuid()
            else "can be written by others"
        )
        raise UserError(
            f"the cache folder {home} {who}, who could put code there; set JFUSION_HOME to a folder of "
            "yours (or chown, chmod o-w)"
        )
    return home


def shell_safe(path: Path) -> bool:
    """Whether a shell reads the path, unquoted, as one word."""
    return re.fullmatch(r"[A-Za-z0-9_./+@:,=-]+", str(path)) is not None


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def short_hash(text: str) -> str:
    """Eight hexadecimal digits that stand for a text in the name of a file."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def cache_size(home: Path) -> int:
    """The bytes of all files below `home`; links are not followed."""
    return sum(p.stat().st_size for p in home.rglob("*") if p.is_file() and not p.is_symlink())
