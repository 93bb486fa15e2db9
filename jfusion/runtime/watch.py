"""What goes on while Jittor holds Python's lock, as it does while it computes and compiles.

Two threads in C (`csrc/watch.c`): one waits for an answer to each Ctrl-C, which `jfusion.interrupt` gives, and
ends the process without one; the other says that Jittor compiles, or waits for another process that does. They
are started for the command line alone; a program that imports jfusion handles its signals itself.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from pathlib import Path

from jfusion import interrupt
from jfusion.runtime.build import is_whole_library
from jfusion.runtime.cache import short_hash
from jfusion.runtime.machine import compiler

PATIENCE = 1000  # milliseconds that Python has to answer
SILENCE = 2000  # milliseconds of compiling and waiting of which nothing is said
SOURCE = Path(__file__).parent / "csrc/watch.c"


def start(home: Path) -> None:
    """From here on Ctrl-C ends the process although nobody can answer it. See `_library`."""
    library = _library(home) if interrupt.answers_to is None else None
    if library is None:
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    if library.start_watch(reading, PATIENCE, interrupt.CODE):
        return
    start.library = library
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    interrupt.answers_to = writing


def let_first_pass(line: str | None) -> bool:
    """From here on the first Ctrl-C ends nothing, and the thread answers it with this line ("": none) at once.

    A second one must be answered within `PATIENCE`. None: as before. Returns whether there is such a thread.
    """
    if interrupt.answers_to is None:
        return False
    start.library.let_first_pass(None if line is None else line.encode())
    return True


def tell(home: Path, lock: str | Path) -> None:
    """From here on, one line on stderr says that Jittor compiles or waits, with this lock. See `_library`."""
    library = _library(home)
    if library is not None:
        library.start_tell(ctypes.c_ulong(Path(lock).stat().st_ino), SILENCE)


def _library(home: Path) -> ctypes.CDLL | None:
    """The threads' library, which is compiled into `home` where it is not there yet, in 0.1 s.

    None outside the command line, and where the compiler cannot make it.
    """
    if not interrupt.is_raised():
        return None
    path = home / f"watch-{short_hash(SOURCE.read_text())}.so"
    if not (path.is_file() and is_whole_library(path)) and not _compile(path):
        return None
    return ctypes.CDLL(str(path))


def _compile(library: Path) -> bool:
    fresh = library.with_name(f".{library.name}.{os.getpid()}")
    command = [str(compiler()), "-x", "c", "-shared", "-fPIC", "-pthread", "-O1"]
    try:
        subprocess.run([*command, "-o", str(fresh), str(SOURCE)], check=True, capture_output=True)
        fresh.replace(library)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True
