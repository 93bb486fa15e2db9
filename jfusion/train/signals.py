"""Ctrl-C and SIGTERM during training: the present step is finished and saved before the process ends."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

from jfusion import interrupt
from jfusion.runtime import watch


@contextlib.contextmanager
def interruptible(answer: Callable[[], str] = str) -> Iterator[list[int]]:
    """Yields a list that holds the signal after Ctrl-C or SIGTERM; a second Ctrl-C stops at once.

    answer: returns the line that the first signal is answered with at once, "" for none. In the command line
    the thread of `jfusion.runtime.watch` answers Ctrl-C, since Jittor may keep Python from it for a whole step.
    """
    received: list[int] = []
    owner = os.getpid()
    watched = watch.let_first_pass(answer())

    def note(number: int, frame: Any) -> None:
        if os.getpid() != owner:  # a compiler process that Jittor has just forked: it must end
            os._exit(128 + number)
        if received and number == signal.SIGINT:
            interrupt.answered()
            raise KeyboardInterrupt
        line = "" if received or (watched and number == signal.SIGINT) else answer()
        received.append(number)
        if line:  # not through sys.stderr: the signal may have come while that is being written
            with contextlib.suppress(OSError):
                os.write(2, f"\n{line}\n".encode())

    before = {}
    with contextlib.suppress(ValueError):  # Python lets only the main thread set handlers
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
            # Jittor takes a lock that a signal interrupts for a fault: the system resumes the wait
            signal.siginterrupt(number, False)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        watch.let_first_pass(None)
