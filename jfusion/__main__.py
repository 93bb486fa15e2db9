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

    codes: list[int] = []
    atexit.register(_leave, codes)  # the first that is registered runs last
    from jfusion.cli import main

    code = main(arguments)
    interrupt.exit_on_interrupt()
    if code == interrupt.CODE:
        _end()
    codes.append(code)
    return code


def _leave(codes: "list[int]") -> None:
    """Runs when all else has ended; Ctrl-C comes too late then.

    codes: the exit code, once it is known. After Jittor the process ends here: Python would still take apart all
    modules, and Jittor free its memory piece by piece, for a tenth of a second. Under mpirun MPI needs that.
    """
    import os
    import sys

    interrupt.ignore_interrupt()
    if not codes or "jittor" not in sys.modules or "OMPI_COMM_WORLD_SIZE" in os.environ:
        return
    _flush()
    os._exit(codes[0])


def _end() -> None:
    """Ends the process after Ctrl-C, whatever its threads and libraries are still doing."""
    import multiprocessing
    import os

    from jfusion.files import remove_parts

    _flush()
    remove_parts()
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(interrupt.CODE)


def _flush() -> None:
    import contextlib
    import sys

    for stream in filter(None, (sys.stdout, sys.stderr)):
        with contextlib.suppress(OSError):
            stream.flush()


if __name__ == "__main__":
    import sys

    sys.exit(start())
