"""Imports Jittor, and puts back what it changes: signals, and its helpers' way to end."""

from __future__ import annotations

import contextlib
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from jfusion.files import point_link
from jfusion.runtime import watch
from jfusion.runtime.build import prepare
from jfusion.runtime.cache import cache_home, shell_safe, short_hash
from jfusion.runtime.core import jittor_uses, kernel_flags
from jfusion.runtime.environment import changed_environment, interpreter, jittor_site
from jfusion.runtime.machine import check_precision


def load_jittor() -> Any:
    """Jittor, imported and ready to compute; the first call on a machine compiles its core."""
    if "jittor" in sys.modules:
        _set_handlers(_handlers())  # whoever imported it may have left Jittor's
        return sys.modules["jittor"]
    check_precision()
    # Jittor's kernels flush subnormals to 0, of which NumPy would warn at its first look
    for kind in (np.float32, np.float64):
        np.finfo(kind)
    ready = prepare()
    folder = Path(ready["cache_path"]) if ready.get("movable") else None
    jittor = import_jittor(cache_home(), ready["environment"], folder)
    if jittor.has_cuda:
        jittor.flags.use_cuda = 1
        # with it, the sine of a large number (a diffusion step, say) has few correct digits
        jittor.flags.nvcc_flags = jittor.flags.nvcc_flags.replace("--use_fast_math", "")
    watch.start(cache_home())
    return jittor


def _replace_functions() -> None:
    """Replaces the functions that load Jittor's signal handlers, and start and end the compiling processes."""
    import jittor_utils

    _load_handlers.before = jittor_utils.try_import_jit_utils_core
    jittor_utils.try_import_jit_utils_core = _load_handlers
    _start_of_helper.before = jittor_utils.pool_initializer
    jittor_utils.pool_initializer, jittor_utils.pool_cleanup = _start_of_helper, _end_helpers


def _load_handlers(silent: bool | None = None) -> None:
    """Loads the library that sets Jittor's signal handlers, and puts back those that were there at once.

    Ctrl-C must raise KeyboardInterrupt while the rest of Jittor is imported, too, and a killed child must not
    end this process: Jittor's handlers do that in a way that may wait for a lock forever.
    """
    handlers = _handlers()
    _load_handlers.before(silent)
    _set_handlers(handlers)


def _handlers() -> dict[int, Any]:
    """What Python does at the signals that Jittor takes for its own."""
    return {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGCHLD, signal.SIGTERM)}


def _set_handlers(handlers: dict[int, Any]) -> None:
    with contextlib.suppress(ValueError):  # not in the main thread: they cannot be set
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _start_of_helper() -> None:
    """Runs in each process that Jittor forks to compile. Ctrl-C reaches that process too: it ignores it."""
    _start_of_helper.before()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end_helpers() -> None:
    """Ends the compiling processes at exit.

    The pool's own way waits for the lock of its queue, and a process that a signal has killed may
    have held that lock.
    """
    import jittor_utils

    pool = jittor_utils.p
    pool._terminate.cancel()
    pool._state = pool._worker_handler._state = "TERMINATE"  # starts no new ones
    for helper in pool._pool:
        helper.kill()


def import_jittor(home: Path, variables: dict[str, str], folder: Path | None = None) -> Any:
    """Imports Jittor with `home` as its HOME, in this process and in the helpers it starts later.

    folder: that of a core for the CPU, where what is missing is compiled; None for a GPU.
    For each kernel Jittor runs a script of its own with `sys.executable`, unquoted, through a shell:
    a small script that sets HOME stands in for it, and a link for an install path with spaces.
    """
    executable, site = sys.executable, jittor_site(home, variables["nvcc_path"])
    if not shell_safe(site):
        site = point_link(home / f"site-{short_hash(str(site))}", site)
    places = [str(place) for place in (folder, site) if place]  # a core has a copy of the package
    sys.path[:0] = places
    sys.executable = str(interpreter(home, executable))
    try:
        with changed_environment({**variables, "HOME": str(home), "JITTOR_HOME": str(home)}):
            _replace_functions()
            with jittor_uses(folder) if folder else contextlib.nullcontext():
                from jittor_utils import lock

                watch.tell(home, lock.lock_path)
                import jittor
            if folder:
                # the last three are for kernels whose assembler text Jittor edits
                jittor.flags.cc_flags = kernel_flags(folder) + " -shared -lstdc++ -ldl "
    finally:
        sys.executable = executable
        for place in places:
            sys.path.remove(place)
    return jittor
