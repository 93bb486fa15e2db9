"""Several processes that train as one, started with `mpirun -np N jfusion train ...`.

Each takes its part of every batch; what is averaged over a batch is averaged over the processes too,
so that N processes with batches of B are one with batches of N B. Without mpirun nothing here does
anything. Jittor's MPI operations do the work (they go with gradients).
"""

from __future__ import annotations

import numpy as np

from jfusion import runtime
from jfusion.errors import UserError
from jfusion.runtime import jt


def rank() -> int:
    """This process, from 0."""
    return jt.rank


def count() -> int:
    """How many there are."""
    return jt.world_size


def first() -> bool:
    """Whether this process is the one that writes and prints."""
    return rank() == 0


def mean(x: jt.Var) -> jt.Var:
    """The mean of x, of any shape, over the processes. All must call it, in one order."""
    return x if count() == 1 else x.mpi_all_reduce("add") / count()


def anyone(flag: object) -> bool:
    """Whether `flag` is true in any of them."""
    return bool(flag) if count() == 1 else mean(jt.array([float(bool(flag))])).item() > 0


def randn(shape: tuple[int, ...]) -> jt.Var:
    """Normal noise (N, ...): this process's part of what one process would draw for all of them."""
    n = shape[0]
    return jt.randn((n * count(), *shape[1:]))[rank() * n : (rank() + 1) * n]


def check_gpus() -> None:
    """Raises UserError, in all of them, unless each has a GPU of its own, or none has one."""
    if count() > 1:
        names = np.zeros((count(), 16), np.float32)
        names[rank()] = np.frombuffer(runtime.gpu_name().ljust(16, b"\0"), np.uint8)
        check_names((mean(jt.array(names)) * count()).numpy())


def check_names(names: np.ndarray) -> None:
    """The same for their GPUs' names (processes, 16), zeros for none."""
    with_one = names[names.any(1)]
    if len(with_one) not in (0, len(names)):
        raise UserError(
            f"{len(names)} processes and only {len(with_one)} with a GPU; mend: mpirun -np "
            f"{len(with_one)}, or nvcc_path= mpirun ... for the CPU"
        )
    different = len(np.unique(with_one, axis=0))
    if different < len(with_one):
        raise UserError(
            f"{len(names)} processes share {different} GPUs; mend: a GPU for "
            "each (CUDA_VISIBLE_DEVICES names those to use)"
        )
