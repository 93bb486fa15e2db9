"""Errors that a user can fix."""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import platform
import re
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType


class UserError(Exception):
    """One line that says what is wrong, where, and the remedy. The command line prints it and exits 2."""


class WritingError(UserError):
    """A file could not be written; the next one most likely cannot be, either."""


def nearest(word: str, choices: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The known word that is most like `word`, whatever their case; None when none is like it."""
    by_lower = {k.lower(): k for k in sorted(choices)}
    near = difflib.get_close_matches(word.lower(), by_lower, 1, cutoff)
    return by_lower[near[0]] if near else None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Returns `"; did you mean 'x'?"` for the nearest known word, otherwise the list of known words."""
    choices = sorted(choices)
    near = nearest(word, choices)
    if near is not None:
        return f"; did you mean {near!r}?"
    return f"; known: {', '.join(choices)}" if choices else ""


def missing(what: str, path: str | Path) -> UserError:
    """The error for a file or folder that is not there, with what it is most likely called.

    what: what it should be, such as "image".
    """
    path = Path(path)
    try:
        near = nearest(path.name, (p.name for p in path.parent.iterdir()))
    except OSError:  # the folder around it is not there, either
        near = None
    remedy = f"did you mean {near!r}?" if near else "correct its name"
    return UserError(f"{what} {path} does not exist; {remedy}")


def optional(module: str, package: str, purpose: str, extra: str) -> ModuleType:
    """The module of a package that only an extra of jfusion installs; UserError naming it if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{purpose} needs {package}; install it with: pip install 'jfusion[{extra}]'"
        ) from error


def writing(what: str, path: object, error: Exception) -> WritingError:
    """The error for a write that failed: a full disk, a read-only folder."""
    number = getattr(error, "errno", None)
    if number is None:  # HDF5 gives it in its text, and may raise a RuntimeError on closing
        match = re.search(r"errno = (\d+)", str(error))
        number = int(match[1]) if match else None
    reason = os.strerror(number) if number else " ".join(str(error).split())
    space = number in (None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
    remedy = "free some space or choose another folder" if space else "choose another folder"
    return WritingError(
        f"{what} could not be written to {path}: {reason}; {remedy} (nothing that was there before is lost)"
    )


def unreadable(what: str, path: Path, error: Exception, found: str = "") -> UserError:
    """An error about a file of a kind (`what`) that a library refuses: where, why, and the remedy.

    found: what is wrong where the error does not say it; default: the file is truncated or damaged.
    """
    reason = printable(" ".join(str(error).split()), 300)
    if not re.search("[a-z]", reason):  # such as the key of a KeyError
        reason = type(error).__name__
    if isinstance(error, FileNotFoundError):
        problem = "it does not exist; correct its name"
    elif isinstance(error, IsADirectoryError):
        problem = "it is a folder; name a file"
    elif isinstance(error, OSError) and error.errno:
        problem = f"{error.strerror}; see that it can be read"
    elif path.is_file() and not path.stat().st_size:
        problem = "it is empty; copy or download it again"
    elif re.search("support|not available|not implemented", reason, re.IGNORECASE):
        problem = f"{reason}; save it anew with another program"
    else:
        found = found or "it is truncated or damaged"
        problem = f"{found} ({reason}); copy or download it again"
    return UserError(f"{what} {path} cannot be read: {problem}")


def counted(number: int, thing: str, form: str = "") -> str:
    """A number and its noun, in messages: 1 pair, 2 pairs; form: how the number is written, such as "+d"."""
    return f"{number:{form}} {thing}{'' if abs(number) == 1 else 's'}"


def printable(text: object, most: int = 120) -> str:
    """Text out of a file, fit for a terminal: no control characters or escape sequences, not too long."""
    text = str(text)
    short = text if len(text) <= most else f"{text[:most]}..."
    return "".join(c if c.isprintable() else "?" for c in short)


def log_error() -> Path | str:
    """Writes the traceback of the exception at hand; returns the path of the log.

    Its first line has the process and its command, since all processes write the same file.
    """
    path = (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jfusion/last-error.txt"
    )
    command = f"process {os.getpid()}: {printable(' '.join(sys.argv), 4000)}"
    text = f"{command}\n{platform.platform()}, Python {sys.version}\n\n{traceback.format_exc()}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError:
        return "could not be written"
    return path
