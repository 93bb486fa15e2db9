"""The work behind the page: a pair is fused as `jfusion fuse` does it, and the result is judged.

Nothing here knows Gradio. What is read and written is in the temporary folder of the page.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jfusion import inference
from jfusion.app import main_thread
from jfusion.app.methods import AUTO, Methods
from jfusion.commands import fuse
from jfusion.data import image
from jfusion.data.alignment import Shift
from jfusion.data.names import sample_name
from jfusion.errors import UserError, printable
from jfusion.files import protecting_inputs
from jfusion.fusing import inputs, judgment
from jfusion.fusing import plan as planning
from jfusion.fusing import task as tasks
from jfusion.fusing.alignment import Alignment
from jfusion.fusing.images import Source
from jfusion.metrics import plausibility

KINDS = {  # what the page calls a file of a result -> its ending and its bits
    "PNG": (".png", 8),
    "TIFF": (".tif", 8),
    "PNG, 16 bit": (".png", 16),
    "TIFF, 16 bit": (".tif", 16),
}
TEXT = 2000  # letters of a description, at most
_PATH = re.compile(r"(?<![\w.:/<])(?:/[^\s/,;:'\"()<>]+)+/([^\s/,;:'\"()<>]+)")
_one_job = threading.Lock()


@dataclass(frozen=True)
class Wish:
    """What the user of the page chose; the fields have the names of the options of `jfusion fuse`.

    task and method: their names, or `AUTO`. text: a sentence, or None. align: whether a shift is undone.
    kind: a key of `KINDS`.
    """

    task: str = AUTO
    method: str = AUTO
    text: str | None = None
    align: bool = False
    kind: str = "PNG"


@dataclass(frozen=True)
class Fused:
    """A fused pair: the files, what was asked, the notes that fusing printed, and how long it took."""

    a: Path
    b: Path
    result: Path
    wish: Wish
    notes: list[str]
    seconds: float


@dataclass(frozen=True)
class Judgment:
    """Metrics by name, lines on what looks suspicious, and the shift between the images if they have one."""

    values: dict[str, float]
    warnings: list[str] = field(default_factory=list)
    shift: Shift | None = None


def fuse_pair(
    a: str, b: str, wish: Wish, methods: Methods, folder: Path, max_pixels: float
) -> Fused:
    """Fuses two image files and writes the result into `folder`, by the command `jfusion fuse`.

    max_pixels: megapixels that an image may have. Raises UserError for what is wrong with the images or
    the wish.
    """
    start = time.monotonic()
    options = _options(a, b, wish, methods, folder, max_pixels)
    if inputs.kind_of(options) != "images":
        raise UserError(
            "the page fuses images; videos and volumes are fused by the command jfusion fuse"
        )
    if methods.compiles(wish.method, task_of(a, b, wish, max_pixels)):
        main_thread.call(_start_jittor)
    with job() as printed:
        outcome = fuse.fuse(options)
    if outcome.failed:
        raise UserError(*outcome.failed.values())
    notes = [said for line in printed() if (said := _note(line))]
    return Fused(Path(a), Path(b), outcome.written[0], wish, notes, time.monotonic() - start)


def task_of(a: str, b: str, wish: Wish, max_pixels: float) -> str:
    """The task of a pair of files: the one that was chosen, or what `jfusion fuse` takes it for."""
    if wish.task != AUTO:
        return wish.task
    reader = image.Reader(max_pixels=max_pixels)
    for path in (a, b):
        image.header(path, reader.most)  # refuses what is too large before it is decoded
    return tasks.find(None, "", "", [("pair", Path(a), Path(b))], reader).task


def _start_jittor() -> None:
    from jfusion.runtime import jt

    assert jt is not None


def _note(line: str) -> str:
    """What a printed note says; "" for a line that is none."""
    return without_advice(line).removeprefix("note: ") if line.startswith("note: ") else ""


def without_advice(line: str) -> str:
    """A printed line without its advice for the command line, such as "; --text describes yours"."""
    return re.split("; (?:change it with|--)", line)[0]


def _options(
    a: str, b: str, wish: Wish, methods: Methods, folder: Path, max_pixels: float
) -> fuse.Options:
    if wish.kind not in KINDS:
        raise UserError(f"unknown kind of file {wish.kind!r}; choose one of {', '.join(KINDS)}")
    ending, bits = KINDS[wish.kind]
    return fuse.Options(
        a=a,
        b=b,
        out=str(folder / f"{sample_name(Path(a))}_fused{ending}"),
        task=None if wish.task == AUTO else wish.task,
        text=_sentence(wish.text),
        align="shift" if wish.align else "none",
        bits=bits,
        check_alignment=False,  # `evaluate` does it
        max_pixels=max_pixels,
        **methods.options(wish.method),
    )


def _sentence(text: str | None) -> str | None:
    """A description. Raises UserError for the name of a file, which a page must not read."""
    text = " ".join((text or "").split())
    if not text:
        return None
    if len(text) > TEXT:
        raise UserError(
            f"the description has {len(text)} letters; {TEXT} are the most, so shorten it"
        )
    if text != "zeros" and (" " not in text or _exists(text)):
        raise UserError("the description must be a sentence of several words")
    return text


def _exists(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def evaluate(fused: Fused, max_pixels: float) -> Judgment:
    """The metrics of a result as `jfusion test` computes them: FILM's evaluator, on the gray images."""
    with job():
        reader = image.Reader(max_pixels=max_pixels)
        task = None if fused.wish.task == AUTO else fused.wish.task
        pairs = [(fused.a.stem, fused.a, fused.b)]
        guess = tasks.find(task, "", "", pairs, reader)
        a, b = (fused.b, fused.a) if guess.swapped else (fused.a, fused.b)
        pairs = [(fused.a.stem, a, b)]
        plan = planning.make(pairs, {fused.a.stem: []}, planning.Sizes(), True, reader.most)
        source = Source(reader, guess.task, alignment=Alignment(shift=fused.wish.align))
        pair = source.read(plan.items[0])
        values, looks = judgment.evaluate(fused.result, pair)
        shift = None if fused.wish.align else inference.misalignment(pair)
    return Judgment(values, plausibility.warnings({fused.result.stem: looks}), shift)


@contextlib.contextmanager
def job() -> Iterator[Callable[[], list[str]]]:
    """One job at a time; yields a function that gives the lines that were printed in it."""
    stream = io.StringIO()
    with _one_job, protecting_inputs(), contextlib.redirect_stdout(stream):
        yield lambda: stream.getvalue().splitlines()


def one_line(error: Exception, shown: Mapping[str, str], fault: str) -> str:
    """What the page says of an error: its line without paths of this machine.

    shown: path -> what stands for it, such as the name of an uploaded file. fault: what is said of an
    error that is no UserError; the terminal gets its traceback.
    """
    if isinstance(error, MemoryError):
        return "this needs more memory than there is; use smaller images"
    if not isinstance(error, UserError):
        traceback.print_exception(error, file=sys.stderr)
        return fault
    return without_paths(str(error), shown)


def without_paths(text: str, shown: Mapping[str, str] | None = None) -> str:
    """A text in which files have their names alone; `shown` as in `one_line`."""
    for path, name in sorted((shown or {}).items(), key=lambda x: -len(x[0])):
        text = text.replace(path, name)
    return printable(_PATH.sub(r"\1", text), 1000)
