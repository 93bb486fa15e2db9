"""Batches from an H5 file: shuffled the same way for the same seed and epoch, read ahead in a thread."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jfusion.data.h5 import Pair, PairFile
from jfusion.errors import UserError


class ArrayBatch(NamedTuple):
    """a, b (N, 1, H, W) float32; text (N, L, D) float32 or None; the samples' names."""

    a: np.ndarray
    b: np.ndarray
    text: np.ndarray | None
    names: list[str]


def batches(
    file: PairFile,
    batch_size: int,
    seed: int,
    epoch: int,
    crop: tuple[int, int] | None = None,
    first: int = 0,
    keep_rest: bool = False,
) -> Iterator[ArrayBatch]:
    """The batches of one epoch from number `first` on; an incomplete last one is dropped, or kept.

    The order and the crops depend on (seed, epoch) alone, so a resumed epoch goes on as it would have.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(file))
    count = steps_per_epoch(file, batch_size, keep_rest)
    chosen = [order[i * batch_size : (i + 1) * batch_size] for i in range(count)]
    numbered = list(enumerate(chosen))[first:]
    yield from _read_ahead(_load(file, indices, [seed, epoch, i], crop) for i, indices in numbered)


def steps_per_epoch(file: PairFile, batch_size: int, keep_rest: bool = False) -> int:
    """Batches in the file, whole ones unless `keep_rest`; UserError when there is not one."""
    if keep_rest:
        return -(-len(file) // batch_size)
    if len(file) < batch_size:
        raise UserError(
            f"{file.path} holds {len(file)} pairs, fewer than one batch of {batch_size}"
        )
    return len(file) // batch_size


def _load(
    file: PairFile, indices: np.ndarray, seed: list[int], crop: tuple[int, int] | None
) -> ArrayBatch:
    rng = np.random.default_rng(seed)
    pairs = [_cropped(file[int(i)], crop, rng) for i in indices]
    for what in ("a", "text"):
        shapes = {p.name: np.shape(getattr(p, what)) for p in pairs}
        if len(set(shapes.values())) > 1:
            listed = ", ".join(f"{name} {'x'.join(map(str, s))}" for name, s in shapes.items())
            mend = (
                "train with --crop HEIGHT WIDTH, or preprocess with --size small"
                if what == "a"
                else ("pad the features of a data set to one length")
            )
            raise UserError(f"samples of one batch have different shapes ({listed}); {mend}")
    text = None if pairs[0].text is None else np.stack([p.text for p in pairs])
    return ArrayBatch(
        np.stack([p.a for p in pairs]),
        np.stack([p.b for p in pairs]),
        text,
        [p.name for p in pairs],
    )


def _cropped(pair: Pair, crop: tuple[int, int] | None, rng: np.random.Generator) -> Pair:
    if crop is None:
        return pair
    room = [n - c for n, c in zip(pair.a.shape[1:], crop, strict=True)]
    if min(room) < 0:
        size = "x".join(map(str, pair.a.shape[1:]))
        raise UserError(
            f"sample {pair.name!r} is {size}, smaller than the crop of {crop[0]}x{crop[1]}"
        )
    i, j = (int(rng.integers(0, r + 1)) for r in room)
    window = (slice(None), slice(i, i + crop[0]), slice(j, j + crop[1]))
    return Pair(pair.name, pair.a[window], pair.b[window], pair.text, None)


def _read_ahead(items: Iterator[ArrayBatch], depth: int = 2) -> Iterator[ArrayBatch]:
    """Takes `items` in a thread, `depth` ahead; an error in it is raised here."""
    ready: queue.Queue = queue.Queue(depth)
    stop = threading.Event()

    def put(entry: tuple) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(entry, timeout=0.1)
                return

    def work() -> None:
        try:
            for item in items:
                if stop.is_set():
                    return
                put((item, None))
            put((None, None))
        except BaseException as error:
            put((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        stop.set()
        thread.join()
