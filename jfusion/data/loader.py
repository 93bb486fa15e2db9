"""Batches from an H5 file: shuffled the same way for the same seed and epoch, read ahead in a thread."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jfusion.data.augment import flip_and_turn
from jfusion.data.folder import ImageFolder
from jfusion.data.h5 import Pair, PairFile
from jfusion.errors import UserError


class ArrayBatch(NamedTuple):
    """a, b (N, C, H, W) float32; text (N, L, D) float32 or None; the samples' names, their data set."""

    a: np.ndarray
    b: np.ndarray
    text: np.ndarray | None
    names: list[str]
    dataset: str


@dataclass(frozen=True)
class Batches:
    """The batches of a data set: how they are made.

    planes: a pair -> its images (C, H, W); None: the gray ones. crop: random windows of this size.
    augment: random flips and quarter turns. keep_rest: whether an epoch ends with an incomplete batch.
    part: (rank, count) of this process among `count` that share every batch; each takes `size` pairs.
    """

    data: PairFile | ImageFolder
    size: int
    seed: int = 0
    crop: tuple[int, int] | None = None
    keep_rest: bool = False
    augment: bool = False
    planes: Callable[[Pair], tuple[np.ndarray, np.ndarray]] | None = None
    part: tuple[int, int] = (0, 1)

    def __len__(self) -> int:
        """Batches of an epoch; UserError when there is not one."""
        count, whole = len(self.data), self.size * self.part[1]
        if self.keep_rest and self.part[1] == 1:
            return -(-count // whole)
        if count < whole:
            raise UserError(
                f"{self.data.path} holds {count} pairs, fewer than one batch of {whole}"
            )
        return count // whole

    def epoch(self, epoch: int, first: int = 0) -> Iterator[ArrayBatch]:
        """The batches of one epoch from number `first` on.

        The order and what is random in a pair depend on (seed, epoch) alone, so a resumed epoch goes on
        as it would have, and several processes see what one would with larger batches.
        """
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.data))
        rank, count = self.part
        starts = ((i * count + rank) * self.size for i in range(first, len(self)))
        places = (range(s, min(s + self.size, len(order))) for s in starts)
        yield from _read_ahead(
            self._stacked([(int(order[p]), [self.seed, epoch, p]) for p in place])
            for place in places
        )

    def _stacked(self, chosen: list[tuple[int, list[int]]]) -> ArrayBatch:
        pairs = [self._made(self.data[i], np.random.default_rng(seed)) for i, seed in chosen]
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
        a, b = (np.stack([getattr(p, x) for p in pairs]) for x in "ab")
        return ArrayBatch(a, b, text, [p.name for p in pairs], self.data.dataset)

    def _made(self, pair: Pair, rng: np.random.Generator) -> Pair:
        """The planes of a pair, flipped, turned and cut as it is asked for."""
        a, b = self.planes(pair) if self.planes else (pair.a, pair.b)
        if self.augment:
            a, b = flip_and_turn(rng, a, b)
        if self.crop is not None:
            room = [n - c for n, c in zip(a.shape[1:], self.crop, strict=True)]
            if min(room) < 0:
                size, crop = ("x".join(map(str, s)) for s in (a.shape[1:], self.crop))
                raise UserError(
                    f"sample {pair.name!r} is {size}, smaller than the crop of {crop}; take a smaller --crop"
                )
            i, j = (int(rng.integers(0, r + 1)) for r in room)
            window = (slice(None), slice(i, i + self.crop[0]), slice(j, j + self.crop[1]))
            a, b = a[window], b[window]
        return Pair(pair.name, a, b, pair.text)


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
