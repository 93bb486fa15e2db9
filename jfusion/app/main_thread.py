"""What the main thread of the page does for the others: Jittor is imported there.

Only in the main thread can a program set signal handlers, and so undo those of Jittor, which would end
the page at Ctrl-C, or when a compiling process dies.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

_calls: queue.Queue[tuple[Callable[[], None], Future]] = queue.Queue()
_serving = threading.Event()


def call(function: Callable[[], None]) -> None:
    """Runs a function in the main thread, and waits for it; here, where the main thread does not serve."""
    if not _serving.is_set():
        function()
        return
    done: Future = Future()
    _calls.put((function, done))
    done.result()


def serve(ended: threading.Event) -> None:
    """In the main thread: runs what other threads ask for, until `ended` or Ctrl-C."""
    _serving.set()
    try:
        while not (ended.is_set() and _calls.empty()):
            _run_next()
    finally:
        _serving.clear()


def _run_next() -> None:
    try:
        function, done = _calls.get(timeout=0.5)
    except queue.Empty:
        return
    try:
        done.set_result(function())
    except BaseException as error:
        done.set_exception(error)
        if not isinstance(error, Exception):
            raise
