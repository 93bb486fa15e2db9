"""Prepares Jittor before it is imported; the one room that imports it.

Everywhere else: `from jfusion.runtime import jt, nn`. Importing this module costs nothing; the
names `jt` and `nn` do the work when they are first used:

* NumPy 2 is refused (Jittor reads its integer arrays as garbage);
* Jittor gets a home of its own, `cache_home()`, so that the user's other Jittor projects, and the
  `JITTOR_HOME` that Jittor remembers for them, are left alone;
* oneDNN from its PyPI wheel is put where Jittor looks for it (otherwise it would be downloaded);
* a CUDA toolkit that cannot work here is skipped, and one line says why;
* Jittor's core is compiled once, in a child process with a progress bar, and a precompiled header
  makes every later kernel cost half as much;
* Jittor's signal handlers are put back to Python's (they turn Ctrl-C and a killed child process
  into an immediate exit).
"""

from __future__ import annotations

import random
from typing import Any


def __getattr__(name: str) -> Any:
    if name in ("jt", "nn"):
        from jfusion.runtime.load import load_jittor

        jittor = load_jittor()
        globals().update(jt=jittor, nn=jittor.nn)
        return globals()[name]
    raise AttributeError(f"module 'jfusion.runtime' has no attribute {name!r}")


def seed(value: int) -> None:
    """Seeds Jittor, NumPy and Python."""
    from jfusion.runtime import jt

    jt.sync_all()  # Jittor is lazy: what is drawn before the seed must not be drawn after it
    random.seed(value)
    jt.set_global_seed(value % 2**31, different_seed_for_mpi=False)
