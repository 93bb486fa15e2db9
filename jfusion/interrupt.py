"""What Ctrl-C does before, while, and after a command works. Imports nothing that is not in Python's core.

`signal` is a module in Python, which imports `enum` and `re`; `_signal` is the part of it that is compiled in.
"""

from __future__ import annotations

import os
from _signal import SIG_IGN, SIGINT, SIGTERM, default_int_handler, getsignal, signal

CODE = 130  # the exit code of a process that Ctrl-C has ended
answers_to: int | None = (
    None  # the pipe of `jfusion.runtime.watch`, which waits for an answer to Ctrl-C
)


def exit_on_interrupt() -> None:
    """Ctrl-C ends the process at once with exit code 130: nothing is at hand that could be lost.

    An exception would be wrong here: one that comes while a module is imported may be taken for a missing
    package, or be printed and lost. A process that ignores Ctrl-C (`nohup`, `&` in a script) still ignores it.
    """
    if getsignal(SIGINT) in (default_int_handler, _raise):
        signal(SIGINT, _exit)


def raise_on_interrupt() -> None:
    """From here on Ctrl-C is a KeyboardInterrupt, which leaves no file half-written."""
    if getsignal(SIGINT) is _exit:
        signal(SIGINT, _raise)


def raise_on_termination() -> None:
    """From here on SIGTERM, by which mpirun ends its processes, is what Ctrl-C is."""
    signal(SIGTERM, _raise)


def is_raised() -> bool:
    """Whether Ctrl-C is a KeyboardInterrupt by `raise_on_interrupt`: in the command line, and nowhere else."""
    return getsignal(SIGINT) is _raise


def ignore_interrupt() -> None:
    """Ctrl-C comes too late: the command has ended, and its exit code says how."""
    signal(SIGINT, SIG_IGN)


def answered() -> None:
    """Tells the thread that waits for an answer to Ctrl-C that there is one."""
    if answers_to is not None:
        os.write(answers_to, b"\0")


def _raise(number: int, frame: object) -> None:
    answered()
    raise KeyboardInterrupt


def _exit(number: int, frame: object) -> None:
    os._exit(CODE)
