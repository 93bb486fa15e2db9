"""Ctrl-C and SIGTERM during training: the present step is finished and saved before the process ends."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def interruptible(answer: Callable[[], str] = str) -> Iterator[list[int]]:
    """Yields a list that holds the signal after Ctrl-C or SIGTERM; a second Ctrl-C stops at once.

    answer: returns the line that the first signal is answered with at once, "" for none.
    """
    received: list[int] = []
    owner = os.getpid()

    def note(number: int, frame: Any) -> None:
        if os.getpid() != owner:  # a compiler process that Jittor has just forked: it must end
            os._exit(128 + number)
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        line = "" if received else answer()
        received.append(number)
        if line:  # not through sys.stderr: the signal may have come while that is being written
            with contextlib.suppress(OSError):
                os.write(2, f"\n{line}\n".encode())

    before, watched = {}, -1
    with contextlib.suppress(ValueError):  # Python lets only the main thread set handlers
        watched = signal.set_wakeup_fd(-1)  # a step may take its time
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
            # Jittor takes a lock that a signal interrupts for a fault: the system resumes the wait
            signal.siginterrupt(number, False)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if watched >= 0:
            signal.set_wakeup_fd(watched, warn_on_full_buffer=False)
