"""Several processes that train as one, started with `mpirun -np N jfusion train ...`.

Each process computes its shard of every batch. A mean over a batch is also a mean over the processes,
so that N processes with batches of B give the result of one process with batches of N B. Without mpirun
these functions do nothing. Jittor's MPI operations do the work, and they have gradients.
"""

from __future__ import annotations

import numpy as np

from jfusion.errors import UserError, counted
from jfusion.runtime import jt
from jfusion.runtime.machine import gpu_name


def rank() -> int:
    """The number of this process, from 0."""
    return jt.rank


def count() -> int:
    """The number of processes."""
    return jt.world_size


def first() -> bool:
    """Whether this process is the one that writes and prints."""
    return rank() == 0


def mean(x: jt.Var) -> jt.Var:
    """The mean of x, of any shape, over the processes. All must call it, in one order."""
    return x if count() == 1 else x.mpi_all_reduce("add") / count()


def anyone(flag: object) -> bool:
    """Whether `flag` is true in any of the processes."""
    return bool(flag) if count() == 1 else mean(jt.array([float(bool(flag))])).item() > 0


def randn(shape: tuple[int, ...]) -> jt.Var:
    """Normal noise (N, ...): this process's shard of what one process would draw for all of them."""
    n = shape[0]
    return jt.randn((n * count(), *shape[1:]))[rank() * n : (rank() + 1) * n]


def check_gpus() -> None:
    """Raises UserError, in every process, unless each has a GPU of its own or none has one."""
    if count() > 1:
        names = np.zeros((count(), 16), np.float32)
        names[rank()] = np.frombuffer(gpu_name().ljust(16, b"\0"), np.uint8)
        check_names((mean(jt.array(names)) * count()).numpy())


def check_names(names: np.ndarray) -> None:
    """As `check_gpus`, for the UUIDs of the GPUs, (processes, 16); a row of zeros is a process without one."""
    with_one = names[names.any(1)]
    if len(with_one) not in (0, len(names)):
        raise UserError(
            f"{len(names)} processes and only {len(with_one)} with a GPU; remedy: mpirun -np "
            f"{len(with_one)}, or nvcc_path= mpirun ... for the CPU"
        )
    different = len(np.unique(with_one, axis=0))
    if different < len(with_one):
        raise UserError(
            f"{len(names)} processes share {counted(different, 'GPU')}; remedy: a GPU for "
            "each (CUDA_VISIBLE_DEVICES names those to use)"
        )
