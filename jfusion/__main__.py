"""Where a process begins: `jfusion`, `python -m jfusion`, and the scripts at the top of the repository.

Ctrl-C is answered from the first line of `start` on. What runs before it is kept short: neither this module
nor `jfusion/__init__.py` imports what Python has not loaded already.
"""

from jfusion import interrupt

TYPE_CHECKING = False  # as type checkers know it; `typing` is not imported for it
if TYPE_CHECKING:
    from collections.abc import Sequence


def start(arguments: "Sequence[str] | None" = None) -> int:
    """Runs `jfusion.cli.main`, whose exit code it returns; Ctrl-C at any moment is exit code 130."""
    interrupt.exit_on_interrupt()
    import atexit

    atexit.register(interrupt.ignore_interrupt)  # the first that is registered runs last
    from jfusion.cli import main

    code = main(arguments)
    interrupt.exit_on_interrupt()
    if code == interrupt.CODE:
        _end()
    return code


def _end() -> None:
    """Ends the process after Ctrl-C, whatever its threads and libraries are still doing."""
    import contextlib
    import multiprocessing
    import os
    import sys

    from jfusion.files import remove_parts

    for stream in filter(None, (sys.stdout, sys.stderr)):
        with contextlib.suppress(OSError):
            stream.flush()
    remove_parts()
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(interrupt.CODE)


if __name__ == "__main__":
    import sys

    sys.exit(start())
