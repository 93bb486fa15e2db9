"""Ctrl-C while Jittor holds Python's lock, as it does while it computes: the process ends all the same.

A thread in C (`csrc/watch.c`) waits for an answer to each Ctrl-C, which `jfusion.interrupt` gives. It is started
for the command line alone; a program that imports jfusion handles its signals itself.
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
SOURCE = Path(__file__).parent / "csrc/watch.c"


def start(home: Path) -> None:
    """Starts the thread; its library is compiled into `home` where it is not there yet, in 0.1 s.

    Does nothing outside the command line, and where the compiler cannot make the library.
    """
    if interrupt.answers_to is not None or not interrupt.is_raised():
        return
    library = home / f"watch-{short_hash(SOURCE.read_text())}.so"
    if not (library.is_file() and is_whole_library(library)) and not _compile(library):
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    if ctypes.CDLL(str(library)).start_watch(reading, PATIENCE, interrupt.CODE):
        return
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    interrupt.answers_to = writing


def _compile(library: Path) -> bool:
    fresh = library.with_name(f".{library.name}.{os.getpid()}")
    command = [str(compiler()), "-x", "c", "-shared", "-fPIC", "-pthread", "-O1"]
    try:
        subprocess.run([*command, "-o", str(fresh), str(SOURCE)], check=True, capture_output=True)
        fresh.replace(library)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True
