"""Two images, or two folders of images: the plan, then every pair of it.

The next pair is read and the last result written while one is fused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from jfusion import inference
from jfusion.data import color, image
from jfusion.data.h5 import Pair
from jfusion.data.layout import find_pairs
from jfusion.data.layout import task as task_called
from jfusion.data.thermal import ThermalReader
from jfusion.errors import UserError, WritingError
from jfusion.fusing import plan as planning
from jfusion.fusing import task as tasks
from jfusion.fusing.alignment import Alignment
from jfusion.fusing.heat import Heat
from jfusion.fusing.method import Method, choose
from jfusion.fusing.plan import Item, Plan
from jfusion.fusing.result import check_bits, color_rule
from jfusion.processes import share

if TYPE_CHECKING:
    from jfusion.commands.fuse import Options

T = TypeVar("T")
AHEAD = 2  # pairs that are read before they are needed, and results that wait to be written
LARGE = 4_000_000  # pixels of a pair that is read when it is needed, and written before the next


def fuse(options: Options, settings: Mapping[str, Any]) -> Outcome:
    """Fuses all pairs of two paths. Raises UserError for what is wrong before the first is fused."""
    reader = ThermalReader(options.range, options.max_pixels, options.unit)
    plan, guess = _planned(options, reader)
    weights, system = choose(options.weights, options.system, guess)
    if options.dry_run:
        print(plan.table())
        # says what is missing
        method = Method.find(weights, system)
        method.find_text(options.text, guess.task, [item.name for item in plan.todo])
    plan.refuse_bad(options.skip_bad)
    if options.dry_run:
        return Outcome()
    plan.print_notes()
    if options.palette and plan.kept:
        print("note: results that stay get no overlay; --overwrite makes both")
    kept = [path for item in plan.kept for path in item.outputs]
    source = Source.of(options, guess.task, reader)
    if not (plan.todo or options.report):
        if options.weights:
            inference.find_checkpoint(weights, system)  # a wrong name is said here too
        return Outcome(kept=kept)
    method = Method.find(weights, system)
    if options.report:
        from jfusion.fusing import report  # the metrics take time to import

        report.check(plan)
    if plan.todo:
        planning.check_room(plan.todo, options.out, options.bits)
        check_bits(method.name, options.bits)
    reader.fix(method.ranges)
    for side in "ab":  # of what stays too, so that the rest gets the range of the whole
        reader.prepare([getattr(item, side) for item in plan.good], side)
    outcome = _fuse_rest(options, settings, plan.todo, method, source) if plan.todo else Outcome()
    outcome.kept = kept
    if options.report:
        report.write(options, settings, method, plan, source, outcome)
    return outcome


def _planned(options: Options, reader: image.Reader) -> tuple[Plan, tasks.Guess]:
    """What the command would make, A and B in the order of the task, and the task itself."""
    pairs = find_pairs(options.a, options.b, exact=not options.skip_bad)
    names = [name for name, *_ in pairs]
    single = Path(options.a).is_file()
    outputs = planning.output_files(options.out, names, options.samples, single, options.bits)
    guess = tasks.find(options.task, options.a_alias, options.b_alias, pairs, reader)
    if guess.swapped:
        pairs = [(name, b, a) for name, a, b in pairs]
    sizes = planning.Sizes.parse(options.size_of, options.size, options.calib is not None)
    plan = planning.make(pairs, outputs, sizes, options.overwrite, reader.most)
    reader.check_unit([item.a for item in plan.items])
    return plan, guess


def _fuse_rest(
    options: Options,
    settings: Mapping[str, Any],
    items: list[Item],
    method: Method,
    source: Source,
) -> Outcome:
    """Fuses the pairs that have no result yet; one that fails is noted, and the others are done.

    Raises WritingError at the first result that cannot be written, as on a full disk.
    """
    work = _Work(options, settings, method, source, [item.name for item in items])
    outcome, results = Outcome(), share(work, items)
    for item, done in zip(items, _with_bar(results, len(items)), strict=True):
        if isinstance(done, Exception):
            outcome.failed[item.name] = str(done) or "it needs more memory than there is"
        else:
            outcome.written += done
    return outcome


def _with_bar(results: Iterator[T], total: int) -> Iterable[T]:
    """The results with a progress bar; one pair needs none, and starts sooner without the import."""
    if total == 1:
        return results
    from tqdm import tqdm

    return tqdm(results, "fusing", total, unit="pair")


@dataclass
class _Work:
    """Fuses pairs, in any process; names: those of all pairs, which the texts are looked up for."""

    options: Options
    settings: Mapping[str, Any]
    method: Method
    source: Source
    names: list[str]

    def __call__(self, items: Iterable[Item]) -> Iterator[list[Path] | Exception]:
        """Builds the system; the iterator fuses each pair: see `fuse_each`."""
        options, source = self.options, self.source
        checked = options.check_alignment and not source.alignment.moves
        check = inference.warn_if_misaligned if checked else None
        return fuse_each(items, source.read, self._build, check)

    def _build(self) -> Callable[[Item, Pair], list[np.ndarray]]:
        options, method, source = self.options, self.method, self.source
        text = {"text": options.text, "task": source.task, "names": self.names}
        method.build(self.settings, options.allow_partial, **text)
        inference.check_sampling_options(method.system, options.samples, options.record)
        return _fusing(options, method, Heat.of(options, source.reader, source.alignment))


def _fusing(
    options: Options, method: Method, heat: Heat
) -> Callable[[Item, Pair], list[np.ndarray]]:
    """What fuses a pair, and records its steps where this is wanted."""

    def fuse_one(item: Item, pair: Pair) -> list[np.ndarray]:
        pair = pair.replaced(text=method.text_of(item.name))
        steps = item.outputs[0].parent / "steps"
        with ExitStack() as stack:
            callback = inference.step_callback(method.system, pair, stack, options.record, steps)
            images = method.fuse(pair, options.seed, options.samples, callback, options.bits)
        heat.write(item, pair, images)
        return images

    return fuse_one


@dataclass
class Source:
    """How the files of a pair become a `Pair`.

    color: whose color is kept, as `color_rule` has it. deep: keep more than 8 bits of the input. alignment:
    what moves A onto B.
    """

    reader: image.Reader
    task: str
    color: str = "auto"
    pseudo_color: str = "none"
    background: str = "jet"
    deep: bool = False
    alignment: Alignment = field(default_factory=Alignment)

    @classmethod
    def of(cls, options: Options, task: str, reader: image.Reader) -> Source:
        """As the options of the command say. Raises UserError for a calibration that cannot be read."""
        pseudo = options.pseudo_color, options.background
        deep, alignment = options.bits > 8, Alignment.of(options)
        return cls(reader, task, options.color, *pseudo, deep, alignment)

    def read(self, item: Item) -> Pair:
        """Both images, on the pair's grid. Raises UserError for a file that cannot be read."""
        files = {"a": item.a, "b": item.b}
        rgb = {side: self.reader.rgb(path, side) for side, path in files.items()}
        self.reader.note_same(item.a, item.b, rgb["a"], rgb["b"])
        pair = self.pair(item.name, rgb["a"], rgb["b"], item.size)
        if not self.deep:
            return pair
        grays = {s: self.reader.gray(p, s) for s, p in files.items() if self.pseudo_color != s}
        if "a" in grays and self.alignment.moves:
            laid = self.alignment.values(item.name, grays["a"], item.size)
            grays["a"] = np.where(np.isnan(laid), pair.a[0], laid)
        grays = {s: image.resample(x, *item.size)[None] for s, x in grays.items()}
        return pair.replaced(**grays)

    def pair(self, name: str, a: np.ndarray, b: np.ndarray, size: tuple[int, int]) -> Pair:
        """The pair of two images (H, W, 3) uint8 of any size, on a grid of height and width `size`."""
        rgb = {"a": a, "b": b}
        if (side := self.pseudo_color) != "none":
            what = f"image {side.upper()} of {name}"
            rgb[side] = image.pseudo_colored(rgb[side], what, self.background)
        rgb["b"] = image.resample(rgb["b"], *size)
        rgb["a"] = self.alignment.apply(name, rgb["a"], rgb["b"])
        colored = color.is_color(rgb["a"]), color.is_color(rgb["b"])
        if (
            all(colored)
            and self.color == "auto"
            and (kept := task_called(self.task).chroma) in "ab"
        ):
            self.reader.note(f"both images have color; that of {kept.upper()} is kept (--color)")
        rule = color_rule(self.task, colored, self.color)
        pair = Pair.of_images(name, rgb["a"], rgb["b"], None, rule)
        if self.color != "auto":  # a system that fuses colors gets no others
            pair = pair.replaced(**{f"rgb_{side}": None for side in "ab" if side != rule})
        return pair


@dataclass
class Outcome:
    """The files that were written, those that were there and stay, and the pairs that failed: name -> why."""

    written: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def fuse_each(
    items: Iterable[Item],
    read: Callable[[Item], Pair],
    build: Callable[[], Callable[[Item, Pair], list[np.ndarray]]],
    check: Callable[[Pair], None] | None = None,
) -> Iterator[list[Path] | Exception]:
    """Reads, fuses and writes every pair: the files of each, or why it failed, in their order.

    The iterator raises WritingError at the first result that cannot be written, as on a full disk.

    read, the writing, and check, which prints notes about a pair, run in threads of their own; build, which
    returns what fuses a pair, and that run in the caller's, and the first pairs are read while it builds.
    An error, or Ctrl-C, waits for none of them.
    """
    pool, checks = ThreadPoolExecutor(2), []

    def read_and_check(item: Item) -> Pair:
        pair = read(item)
        if check:
            checks.append(pool.submit(check, pair))
        return pair

    pairs = _read_ahead(pool, items, read_and_check)
    first = next(pairs)
    try:
        fuse = build()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    return _fused(chain([first], pairs), fuse, pool, checks)


def _fused(
    pairs: Iterator[tuple[Item, Future]],
    fuse: Callable[[Item, Pair], list[np.ndarray]],
    pool: ThreadPoolExecutor,
    checks: list[Future],
) -> Iterator[list[Path] | Exception]:
    waiting: deque[Future] = deque()
    try:
        for item, pair in pairs:
            try:
                waiting.append(pool.submit(_write, item, fuse(item, pair.result())))
            except (UserError, MemoryError) as error:
                waiting.append(Future())
                waiting[-1].set_exception(error)
            while len(waiting) > _ahead(item):
                yield _written(waiting.popleft())
        while waiting:
            yield _written(waiting.popleft())
        for one in checks:
            one.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _read_ahead(
    pool: ThreadPoolExecutor, items: Iterable[Item], read: Callable[[Item], Pair]
) -> Iterator[tuple[Item, Future]]:
    pending: deque[tuple[Item, Future]] = deque()
    for item in items:
        pending.append((item, pool.submit(read, item)))
        if len(pending) > _ahead(item):
            yield pending.popleft()
    yield from pending


def _ahead(item: Item) -> int:
    """How many pairs of this size may be in memory besides the one that is fused."""
    return AHEAD if item.size[0] * item.size[1] <= LARGE else 0


def _write(item: Item, images: list[np.ndarray]) -> list[Path]:
    for path, pixels in zip(item.outputs, images, strict=True):
        image.write(path, pixels, image.format_of(path))
    return item.outputs


def _written(writing: Future) -> list[Path] | Exception:
    """The files that were written, or why they were not. Raises WritingError."""
    try:
        return writing.result()
    except WritingError:
        raise
    except (UserError, MemoryError) as error:
        return error
