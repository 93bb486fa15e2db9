"""The plots and the tables of scale.py, from its rows."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from jfusion.files import replacing
from jfusion.report.charts import COLORS, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from scale import Case, Measured

METHODS = ("laplacian", "film-ivf", "cddfuse-ivf")
BATCHES = (1, 2, 4, 8)
TINY = 32  # pixels of a side of the pairs whose number grows
DPI = 110
Rows = dict["Case", "Measured"]


class Point(NamedTuple):
    """A size: megapixels of an image, pairs of the run, seconds of it and of what follows the start."""

    label: str
    megapixels: float
    pairs: int
    seconds: float
    work: float

    @property
    def rate(self) -> float:
        """Pairs per second after the start."""
        return self.pairs / self.work


def draw(measured: Iterable[tuple[Case, Measured]], folder: Path) -> None:
    """Writes the plots into a folder and prints the tables; of several runs of a case the fastest counts."""
    rows: Rows = {}
    for case, result in measured:
        if case not in rows or result.seconds < rows[case].seconds:
            rows[case] = result
    figures = {"speed": _speed, "memory": _memory, "pairs": _pairs, "batch": _batch}
    with style():
        for name, figure in figures.items():
            _save(figure(rows), folder / f"{name}.png")
    tables = (_sizes_table, _numbers_table, _batch_table, _training_table)
    for lines in (table(rows) for table in tables):
        print("\n".join(lines), end="\n\n")


def _save(figure: Figure, path: Path) -> None:
    """Writes a figure with a palette: a third of the bytes."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    with replacing(path, "the plot", "figure") as temporary:
        few = Image.open(drawn).convert("RGB").quantize(64)
        few.save(temporary, format="png", optimize=True)


def sizes(rows: Rows, part: str, method: str) -> list[Point]:
    """The points of a method by size, the tiny pair of the start left out."""
    start = _start(rows, part, method)
    found = []
    for case, result in rows.items():
        if (case.part, case.method) == (part, method) and case.height > TINY:
            work = max(result.seconds - start, 1e-3)
            place = f"{case.height}x{case.width}", case.height * case.width / 1e6
            found.append(Point(*place, case.pairs, result.seconds, work))
    return sorted(found, key=lambda p: p.megapixels)


def memory(rows: Rows, method: str) -> dict[tuple[str, float], float]:
    """Size and megapixels of an image -> GiB at the peak of a command that fuses one pair, by size."""
    found = {}
    for case, result in sorted(rows.items(), key=lambda row: row[0].height):
        one = case.part in ("memory", "fuse") and (case.method, case.pairs) == (method, 1)
        if one and case.height > TINY:
            size = f"{case.height}x{case.width}", case.height * case.width / 1e6
            found[size] = result.mebibytes / 1024
    return found


def numbers(rows: Rows, part: str) -> list[tuple[int, Measured, float]]:
    """The runs of many tiny pairs: their number, the run, and the seconds of each pair after the first ten."""
    found = sorted(
        (case.pairs, result)
        for case, result in rows.items()
        if (case.part, case.method, case.height) == (part, "laplacian", TINY) and case.pairs > 1
    )
    first, least = found[0] if found else (0, None)
    return [(n, r, (r.seconds - least.seconds) / max(n - first, 1)) for n, r in found]


def _start(rows: Rows, part: str, method: str) -> float:
    """The seconds of one tiny pair; 0 where it is not measured."""
    return min(
        (
            r.seconds
            for c, r in rows.items()
            if (c.part, c.method, c.height, c.pairs) == (part, method, TINY, 1)
        ),
        default=0.0,
    )


def _training(rows: Rows) -> list[tuple[int, Measured, float, float]]:
    """Training on tiny pairs: their number, the long run, the start, and the seconds of a step."""
    runs = {
        (case.pairs, case.steps): result
        for case, result in rows.items()
        if case.part == "train" and case.height <= TINY
    }
    found = []
    for (pairs, steps), result in sorted(runs.items()):
        if steps > 1 and (pairs, 1) in runs:
            start = runs[pairs, 1].seconds
            found.append((pairs, result, start, (result.seconds - start) / (steps - 1)))
    return found


# ---- the plots


def _speed(rows: Rows) -> Figure:
    figure = new_figure(7.5, 2.9)
    left, right = figure.subplots(1, 2)
    for part, line in (("fuse", "-o"), ("test", "--s")):
        for i, method in enumerate(METHODS):
            points = sizes(rows, part, method)
            if points:
                x = [p.megapixels for p in points]
                label = f"jfusion {part}, {method}"
                common = {"color": COLORS[i], "markersize": 3, "label": label}
                left.plot(x, [p.rate for p in points], line, **common)
                right.plot(x, [p.rate * p.megapixels for p in points], line, **common)
    _axes(left, "megapixels of an image", "pairs per second")
    _axes(right, "megapixels of an image", "megapixels per second (level: linear)")
    handles, labels = left.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right upper", frameon=False)
    return figure


def _memory(rows: Rows) -> Figure:
    figure = new_figure(4.6, 2.7)
    axis = figure.subplots()
    for i, method in enumerate(METHODS):
        found = memory(rows, method)
        x = [megapixels for _, megapixels in found]
        axis.plot(x, list(found.values()), "-o", color=COLORS[i], markersize=3, label=method)
    _axes(axis, "megapixels of an image", "peak memory of jfusion fuse, GiB")
    axis.legend(frameon=False)
    return figure


def _pairs(rows: Rows) -> Figure:
    figure = new_figure(7.5, 2.7)
    left, right = figure.subplots(1, 2)
    for i, part in enumerate(("fuse", "test")):
        found = numbers(rows, part)[1:]
        if found:
            x, y = [n for n, *_ in found], [n * each for n, _, each in found]
            left.plot(x, y, "o", color=COLORS[i], markersize=4, label=f"jfusion {part}")
            slope = y[-1] / x[-1]
            left.plot(x, [n * slope for n in x], ":", color=COLORS[i], label="linear")
    _axes(left, "pairs of 32x32, laplacian", "seconds")
    if left.lines:
        left.legend(frameon=False)
    found = _training(rows)
    x = [n for n, *_ in found]
    right.plot(
        x, [start for *_, start, _ in found], "-s", label="start and one step, s", color=COLORS[2]
    )
    right.plot(x, [1 / step for *_, step in found], "-o", label="steps per second", color=COLORS[5])
    _axes(right, "pairs in the H5 file (32x32)", "training")
    _from_zero(right)
    right.legend(frameon=False)
    return figure


def _batch(rows: Rows) -> Figure:
    figure = new_figure(7.5, 2.5)
    left, right = figure.subplots(1, 2)
    for i, method in enumerate(METHODS[1:], 1):
        found = sorted((c.batch, r) for c, r in rows.items() if c[:2] == ("batch", method))
        left.plot(
            [b for b, _ in found],
            [b / r.step for b, r in found],
            "-o",
            color=COLORS[i],
            label=method,
        )
    _axes(left, "pairs in a batch (128x128)", "network, pairs per second")
    _from_zero(left)
    left.set_xticks(BATCHES, BATCHES)
    left.legend(frameon=False)
    found = processes(rows)
    right.barh([label for label, *_ in found], [rate for *_, rate in found], color=COLORS[0])
    right.invert_yaxis()
    right.set_xlabel("FILM's training, pairs per second")
    return figure


def processes(rows: Rows) -> list[tuple[str, float, float]]:
    """Training by processes: what it is, seconds of a step, pairs per second."""
    found = []
    for case, result in rows.items():
        if case.part == "train" and case.height > TINY:
            threads = f"{case.threads} thread{'s' * (case.threads > 1)}"
            several = f"{case.processes} processes x " if case.processes > 1 else ""
            label = f"{several}{threads}, batch {several and f'{case.processes} x '}{case.batch}"
            found.append((label, result.step, case.processes * case.batch / result.step))
    return found


def _axes(axis: Axes, x: str, y: str) -> None:
    if any(len(line.get_xdata()) for line in axis.lines):  # an axis without values has no logarithm
        axis.set_xscale("log")
        axis.set_yscale("log")
        _plain(axis)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.grid(alpha=0.25, linewidth=0.5)


def _from_zero(axis: Axes) -> None:
    """The vertical axis is even, and begins at 0."""
    axis.set_yscale("linear")
    axis.set_ylim(bottom=0)


def _plain(axis: Axes) -> None:
    """Numbers such as 0.1 at the powers of ten, and where there is room at 2 and 5 times them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for one in (axis.xaxis, axis.yaxis):
        low, high = one.get_view_interval()
        one.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 500 * low else (1,)))
        one.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        one.set_minor_formatter(NullFormatter())


# ---- the tables


def _sizes_table(rows: Rows) -> list[str]:
    head = [
        "command",
        "size",
        "pairs",
        "whole run",
        "pairs/s",
        "after the start",
        "pairs/s",
        "MP/s",
    ]
    cells = []
    for part in ("fuse", "test"):
        for method in METHODS:
            for p in sizes(rows, part, method):
                whole = [f"{p.seconds:.2f} s", _short(p.pairs / p.seconds)]
                work = [f"{p.work:.2f} s", _short(p.rate), _short(p.rate * p.megapixels)]
                cells.append([f"`{part}` {method}", p.label, str(p.pairs), *whole, *work])
    found = {method: memory(rows, method) for method in METHODS}
    every = sorted({size for of in found.values() for size in of}, key=lambda size: size[1])
    lines = [
        [m, *(f"{of[size]:.2f}" if size in of else "-" for size in every)]
        for m, of in found.items()
    ]
    table = _table(["peak memory, GiB", *(label for label, _ in every)], lines)
    return [*_table(head, cells), "", *table]


def _numbers_table(rows: Rows) -> list[str]:
    cells = []
    for part in ("fuse", "test"):
        for pairs, result, each in numbers(rows, part):
            more = [f"{each * 1000:.1f} ms" if each else "", f"{result.mebibytes:.0f} MiB"]
            cells.append([f"`{part}` laplacian", f"{pairs:,}", f"{result.seconds:.2f} s", *more])
    head = ["32x32", "pairs", "whole run", "each pair after the first ten", "peak memory"]
    return _table(head, cells)


def _batch_table(rows: Rows) -> list[str]:
    cells = []
    for method in METHODS[1:]:
        found = sorted((c.batch, r) for c, r in rows.items() if c[:2] == ("batch", method))
        cells.append([method, *(f"{b / r.step:.2f} ({r.mebibytes:.0f} MiB)" for b, r in found)])
    return _table(["pairs/s (peak memory) by batch", *map(str, BATCHES)], cells)


def _training_table(rows: Rows) -> list[str]:
    cells = [
        [f"{pairs:,}", f"{start:.2f} s", f"{result.step:.3f} s", f"{step:.3f} s", f"{1 / step:.2f}"]
        for pairs, result, start, step in _training(rows)
    ]
    head = ["pairs in the H5", "start and one step", "a step, median", "with epoch ends", "steps/s"]
    several = [[label, f"{step:.3f} s", f"{rate:.2f}"] for label, step, rate in processes(rows)]
    return [*_table(head, cells), "", *_table(["processes", "a step", "pairs/s"], several)]


def _table(head: Sequence[str], cells: Iterable[Sequence[str]]) -> list[str]:
    rows = [head, ["---"] * len(head), *cells]
    return [f"| {' | '.join(row)} |" for row in rows]


def _short(x: float) -> str:
    return f"{x:.3g}"
