"""Training batches: a loader for one data set, and a schedule for several.

Everything random depends on (seed, epoch, position in the epoch) alone, so that a resumed run sees
the batches that it would have seen.
"""

from __future__ import annotations

import contextlib
import queue
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jfusion.data.augment import flip_and_rotate
from jfusion.data.folder import ImageFolder
from jfusion.data.h5 import Pair, PairFile
from jfusion.errors import UserError, counted, did_you_mean


class NumPyBatch(NamedTuple):
    """Pairs of one shape, as NumPy arrays.

    a, b (N, C, H, W) float32 in [0, 1]; text (N, L, D) float32 or None; names: those of the samples;
    dataset: the data set that they are of. pairs: each sample with its colors, augmented and cropped as
    a and b are.
    """

    a: np.ndarray
    b: np.ndarray
    text: np.ndarray | None
    names: list[str]
    dataset: str
    pairs: list[Pair]


@dataclass(frozen=True)
class DataLoader:
    """The batches of a data set, shuffled anew in every epoch and read ahead in a thread.

    preprocess: maps a pair to its two arrays (C, H, W); None: the gray images. crop: random windows
    of this size. augment: random flips and rotations. drop_last: leaves out the incomplete batch at
    the end of an epoch. shard: (rank, count) of this process among `count` that share every batch;
    each of them reads `batch_size` pairs, and an incomplete batch is always left out.
    """

    data: PairFile | ImageFolder
    batch_size: int
    seed: int = 0
    crop: tuple[int, int] | None = None
    drop_last: bool = True
    augment: bool = False
    preprocess: Callable[[Pair], tuple[np.ndarray, np.ndarray]] | None = None
    shard: tuple[int, int] = (0, 1)

    def __len__(self) -> int:
        """The number of batches in an epoch. Raises UserError when there is not one."""
        pairs, together = len(self.data), self.batch_size * self.shard[1]
        if not self.drop_last and self.shard[1] == 1:
            return -(-pairs // together)
        if pairs < together:
            raise UserError(
                f"{self.data.path} holds {counted(pairs, 'pair')}, fewer than one batch of {together}; "
                "train with a smaller --batch-size"
            )
        return pairs // together

    def epoch(self, epoch: int, first: int = 0) -> Iterator[NumPyBatch]:
        """The batches of one epoch, from number `first` on.

        The order and what is random in a pair depend on (seed, epoch, position) alone: a resumed
        epoch continues exactly, and several processes together see the batches that one would see
        with a larger batch size.
        """
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.data))
        rank, count = self.shard
        starts = ((i * count + rank) * self.batch_size for i in range(first, len(self)))
        slots = (range(s, min(s + self.batch_size, len(order))) for s in starts)
        yield from _read_ahead(
            self._batch([(int(order[p]), [self.seed, epoch, p]) for p in positions])
            for positions in slots
        )

    def _batch(self, samples: list[tuple[int, list[int]]]) -> NumPyBatch:
        """The batch of (index, seed of what is random in it) of each sample."""
        pairs = [self._sample(self.data[i], np.random.default_rng(seed)) for i, seed in samples]
        for field, remedy in (
            ("a", "train with --crop HEIGHT WIDTH, or preprocess with --size small"),
            ("text", "pad the features of a data set to one length"),
        ):
            shapes = {p.name: np.shape(getattr(p, field)) for p in pairs}
            if len(set(shapes.values())) > 1:
                listed = ", ".join(f"{name} {'x'.join(map(str, s))}" for name, s in shapes.items())
                raise UserError(f"samples of one batch have different shapes ({listed}); {remedy}")
        text = None if pairs[0].text is None else np.stack([p.text for p in pairs])
        a, b = (np.stack([getattr(p, x) for p in pairs]) for x in "ab")
        return NumPyBatch(a, b, text, [p.name for p in pairs], self.data.dataset, pairs)

    def _sample(self, pair: Pair, rng: np.random.Generator) -> Pair:
        """The pair with its arrays preprocessed, augmented and cropped, and its colors with them."""
        a, b = self.preprocess(pair) if self.preprocess else (pair.a, pair.b)
        size = a.shape[1:]
        colors = [  # where `preprocess` gives another size, none fit
            None if x is None or x.shape[:2] != size else np.moveaxis(x, 2, 0)
            for x in (pair.rgb_a, pair.rgb_b)
        ]
        images = [a, b, *(x for x in colors if x is not None)]
        if self.augment:
            images = flip_and_rotate(rng, *images)
        if self.crop is not None:
            window = self._window(images[0].shape[1:], pair.name, rng)
            images = [x[window] for x in images]
        a, b, *rest = images
        rgb_a, rgb_b = (None if x is None else np.moveaxis(rest.pop(0), 0, 2) for x in colors)
        return Pair(pair.name, a, b, pair.text, rgb_a, rgb_b, pair.rule)

    def _window(
        self, size: tuple[int, int], name: str, rng: np.random.Generator
    ) -> tuple[slice, slice, slice]:
        """A random window of the size `crop` in a sample's arrays (C, H, W)."""
        room = [n - c for n, c in zip(size, self.crop, strict=True)]
        if min(room) < 0:
            size, crop = ("x".join(map(str, s)) for s in (size, self.crop))
            raise UserError(
                f"sample {name!r} is {size}, smaller than the crop of {crop}; "
                "train with a smaller --crop"
            )
        i, j = (int(rng.integers(0, r + 1)) for r in room)
        return slice(None), slice(i, i + self.crop[0]), slice(j, j + self.crop[1])


class DatasetSchedule:
    """Which of several training sets each epoch uses: drawn evenly, by (seed, epoch) alone.

    datasets: the names of the sets. entries: which of them take part, names or parts of names with
    commas, such as "adni,pet,gfp,ct,adni"; a set that comes twice is drawn twice as often. Empty: all
    of them, once each. `indices` (a list of positions in `datasets`) is what an epoch is drawn from.
    Raises UserError for an entry that fits no set, or more than one.
    """

    def __init__(self, datasets: Sequence[str], seed: int = 0, entries: str = ""):
        names = [entry for entry in map(str.strip, entries.split(",")) if entry]
        self.seed = seed
        self.indices = [_find(name, datasets) for name in names] or list(range(len(datasets)))

    def index(self, epoch: int) -> int:
        """The position in `datasets` of the set that this epoch uses."""
        if len(self.indices) == 1:
            return self.indices[0]
        drawn = np.random.default_rng([self.seed, epoch, 1]).integers(len(self.indices))
        return self.indices[drawn]


def _find(entry: str, datasets: Sequence[str]) -> int:
    """The position of the data set that is called `entry`, or whose name has all words of it."""
    fits = [i for i, name in enumerate(datasets) if name == entry]
    fits = fits or [i for i, name in enumerate(datasets) if _words(entry) <= _words(name)]
    if len(fits) == 1:
        return fits[0]
    if not fits:
        listed, hint = ", ".join(datasets), did_you_mean(entry, datasets)
        raise UserError(f"no training set for {entry!r} among {listed}{hint}")
    listed = " and ".join(datasets[i] for i in fits)
    raise UserError(f"the entry {entry!r} of --schedule fits {listed}; write the whole name")


def _words(name: str) -> set[str]:
    """The words and numbers of a name: "Harvard_PET256" -> {"harvard", "pet", "256"}."""
    return set(re.findall(r"[a-z]+|\d+", name.lower()))


def _read_ahead(items: Iterator[NumPyBatch], depth: int = 2) -> Iterator[NumPyBatch]:
    """Yields `items`, which a thread reads up to `depth` ahead; an error of the thread is raised here."""
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
