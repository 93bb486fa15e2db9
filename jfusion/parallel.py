"""Several processes that train as one, started with `mpirun -np N jfusion train ...`.

Each takes its part of every batch; what is averaged over a batch is averaged over the processes too,
so that N processes with batches of B are one with batches of N B. Without mpirun nothing here does
anything. Jittor's MPI operations do the work (they go with gradients).
"""

from __future__ import annotations

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
