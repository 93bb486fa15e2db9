"""The metrics of many fused images, in several processes."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from jfusion import metrics, processes
from jfusion.errors import UserError
from jfusion.metrics import fidelity, structure
from jfusion.metrics.folders import Triple
from jfusion.metrics.gray_image import ColorImage, GrayImage

TRUTH = ("PSNR_truth", "SSIM_truth")
WORTH_A_PROCESS = 8  # images; fewer are done before a second process has started


@dataclass(frozen=True)
class Evaluated:
    """The values of one pair by method, and a line for each image that could not be evaluated."""

    triple: Triple
    values: dict[str, dict[str, float]]
    errors: list[str]


def evaluate_all(
    triples: list[Triple], preset: str, columns: list[str], jobs: int | None = None
) -> Iterator[Evaluated]:
    """Evaluates the triples, in their order. jobs: processes; None: as many as are worth it.

    Of several processes that mpirun has started, each evaluates one triple at a time. Raises UserError when
    a process was killed.
    """
    from tqdm import tqdm

    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs must be 1 or more, not {jobs}")
    bar = {"total": len(triples), "desc": "evaluating", "unit": "pair", "disable": None}
    compute = partial(evaluate_one, preset=preset, columns=columns)
    if processes.count() > 1:
        if jobs not in (None, 1):
            raise UserError("mpirun says how many processes there are; leave out --jobs")
        jobs, bar["disable"] = 1, False
    jobs = jobs or min(os.cpu_count() or 1, max(1, len(triples) // WORTH_A_PROCESS))
    if jobs == 1:
        yield from tqdm(processes.share(partial(_one_by_one, compute), triples), **bar)
        return
    try:
        with _one_thread_each(), _pool(jobs) as pool:
            with _deaf_to_interrupts():
                pending = [pool.submit(compute, triple) for triple in triples]
            with _killed_unless_done(pool):
                yield from tqdm((one.result() for one in pending), **bar)
    except BrokenProcessPool as error:
        raise UserError(
            "a process that was evaluating images was killed, perhaps for memory; use fewer --jobs"
        ) from error


def _one_by_one(
    compute: Callable[[Triple], Evaluated], triples: Iterable[Triple]
) -> Iterator[Evaluated]:
    keep_freed_memory()
    return map(compute, triples)


def keep_freed_memory() -> None:
    """Makes glibc keep up to 256 MiB of freed memory for the next image.

    It returns large blocks to the system at once, and fetching them again page by page takes a
    quarter of the time of FILM's twelve metrics. Does nothing with another C library.
    """
    trim_threshold, mmap_threshold = -1, -3  # names of malloc.h
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, 32 << 20)
        mallopt(trim_threshold, 256 << 20)


def _pool(jobs: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(jobs, get_context("spawn"), initializer=keep_freed_memory)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes that are started inside never see Ctrl-C, which reaches the group: this one ends them.

    One that comes meanwhile is delivered to this process afterward.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _killed_unless_done(pool: ProcessPoolExecutor) -> Iterator[None]:
    """Kills the processes when the block is left early, as by Ctrl-C: nobody waits for their images."""
    try:
        yield
    except BaseException:
        for process in list(pool._processes.values()):
            process.kill()
        raise


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started inside compute with one thread each: the images are the parallel part."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def evaluate_one(triple: Triple, preset: str, columns: list[str]) -> Evaluated:
    """Reads and evaluates one triple; what depends on the sources alone is computed once."""
    values: dict[str, dict[str, float]] = {}
    errors: list[str] = []
    try:
        a, b = (
            _read(triple, path, side, preset) for path, side in ((triple.a, "A"), (triple.b, "B"))
        )
        truth = triple.truth and _gray(_read(triple, triple.truth, "truth", preset))
    except UserError as error:
        return Evaluated(triple, {}, [f"{triple.title}: {error}"])
    for method, path in triple.fused.items():
        try:
            fused = _read(triple, path, method, preset)
            _check_sizes({"A": a, "B": b, "fused": fused} | ({"truth": truth} if truth else {}))
            values[method] = metrics.evaluate(fused, a, b, preset, columns)
            if truth:
                gray = _gray(fused)
                truths = (fidelity.truth_psnr(gray, truth), structure.truth_ssim(gray, truth))
                values[method] |= dict(zip(TRUTH, truths, strict=True))
        except UserError as error:
            errors.append(f"{triple.title} of {method}: {error}")
    return Evaluated(triple, values, errors)


def _read(triple: Triple, path: Path, side: str, preset: str) -> GrayImage | ColorImage:
    return metrics.prepare(triple.reader.levels(path, side), preset)


def _gray(x: GrayImage | ColorImage) -> GrayImage:
    return x.gray if isinstance(x, ColorImage) else x


def _check_sizes(images: dict[str, GrayImage | ColorImage]) -> None:
    sizes = {what: x.shape for what, x in images.items()}
    if len(set(sizes.values())) > 1:
        text = ", ".join(f"{what} {h}x{w}" for what, (h, w) in sizes.items())
        raise UserError(f"sizes differ: {text}")
