"""What Ctrl-C does before, while, and after a command works. Imports nothing that is not in Python's core.

`signal` is a module in Python, which imports `enum` and `re`; `_signal` is the part of it that is compiled in.
"""

import os
from _signal import SIG_IGN, SIGINT, default_int_handler, getsignal, signal

CODE = 130  # the exit code of a process that Ctrl-C has ended


def exit_on_interrupt() -> None:
    """Ctrl-C ends the process at once with exit code 130: nothing is at hand that could be lost.

    An exception would be wrong here: one that comes while a module is imported may be taken for a missing
    package, or be printed and lost. A process that ignores Ctrl-C (`nohup`, `&` in a script) still ignores it.
    """
    if getsignal(SIGINT) is default_int_handler:
        signal(SIGINT, _exit)


def raise_on_interrupt() -> None:
    """From here on Ctrl-C is a KeyboardInterrupt, which leaves no file half-written."""
    if getsignal(SIGINT) is _exit:
        signal(SIGINT, default_int_handler)


def ignore_interrupt() -> None:
    """Ctrl-C comes too late: the command has ended, and its exit code says how."""
    signal(SIGINT, SIG_IGN)


def _exit(number: int, frame: object) -> None:
    os._exit(CODE)
