"""Charts of a comparison: distributions, ranks, profiles, and where methods differ. Needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jfusion.errors import UserError
from jfusion.files import replacing
from jfusion.report import ranks
from jfusion.report.comparison import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")  # Paul Tol
DPI = 200
STYLE = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,  # letters stay text that a journal's checks accept
}


def write_all(
    comparison: Comparison,
    folder: str | Path,
    kind: str = "png",
    scatter: Sequence[str] | None = None,
) -> list[Path]:
    """Writes the charts of each data set into a folder and returns their paths.

    kind: png or pdf. scatter: two metrics (default: the first two). A chart that compares methods is
    left out where there is one method only.
    """
    columns = comparison.columns
    pair = list(scatter or columns[:2])
    paths = []
    with style():
        for name in comparison.values:
            place = Path(folder) / name if len(comparison.values) > 1 else Path(folder)
            several = len(_methods(comparison, name)) > 1
            charts: dict[str, Callable[[], Figure]] = {
                "box": lambda name=name: distributions(comparison, name),
                "violin": lambda name=name: distributions(comparison, name, violins=True),
                "heat": lambda name=name: heat_map(comparison, name),
            }
            if len(pair) == 2:
                charts["scatter"] = lambda name=name: scatter_plot(comparison, name, *pair)
            if several and len(comparison.defined(name)) > 2:
                charts["radar"] = lambda name=name: radar(comparison, name)
            for title, draw in charts.items():
                paths.append(_save(draw(), place / f"{title}.{kind}"))
        if len(comparison.complete_methods()) > 1:
            result = ranks.compare(comparison)
            paths.append(_save(rank_plot(result, columns), Path(folder) / f"rank.{kind}"))
            critical = critical_differences(result.tests[-1])
            paths.append(_save(critical, Path(folder) / f"critical.{kind}"))
    return paths


@contextmanager
def style() -> Iterator[None]:
    """In the block, figures look as the project's do. Raises UserError without matplotlib."""
    try:
        import matplotlib
    except ImportError as error:
        raise UserError("figures need matplotlib: pip install matplotlib") from error
    with matplotlib.rc_context(STYLE):
        yield


def new_figure(width: float, height: float) -> Figure:
    """A figure that needs no display; sizes in inches."""
    from matplotlib.figure import Figure

    return Figure((width, height), layout="constrained")


def _save(figure: Figure, path: Path) -> Path:
    with replacing(path, "the figure", "figure") as temporary:
        figure.savefig(
            temporary, format=path.suffix[1:], dpi=DPI, bbox_inches="tight", pad_inches=0.03
        )
    return path


def _methods(comparison: Comparison, name: str) -> list[str]:
    return [m for m, images in comparison.values[name].items() if images]


def _legend(figure: Figure, count: int) -> None:
    """The names of `count` methods on the right, in columns of at most 14."""
    figure.legend(loc="outside right upper", frameon=False, ncols=math.ceil(count / 14))


def _color(i: int) -> str:
    return COLORS[i % len(COLORS)]


def _arrow(comparison: Comparison, metric: str) -> str:
    return f"{metric} {'↓' if metric in comparison.lower else '↑'}"


def _column(comparison: Comparison, name: str, method: str, metric: str) -> np.ndarray:
    """The finite values of a metric over the images."""
    images = comparison.values[name][method].values()
    values = np.array([row.get(metric, math.nan) for row in images], float)
    return values[np.isfinite(values)]


def distributions(comparison: Comparison, name: str, violins: bool = False) -> Figure:
    """Box plots, or violins, of each metric over the images; the dot is the mean."""
    methods = _methods(comparison, name)
    shown = comparison.defined(name)
    columns = min((4, 3), key=lambda n: -len(shown) % n) if len(shown) > 4 else len(shown)
    rows = math.ceil(len(shown) / columns)
    figure = new_figure(1.8 * columns + 0.12 * len(methods) * columns, 1.9 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, metric in zip(axes, shown, strict=False):
        values = [_column(comparison, name, m, metric) for m in methods]
        at = [i for i, v in enumerate(values) if len(v)]
        filled = [values[i] for i in at]
        if violins and filled:
            _violins(axis, filled, at)
        elif filled:
            boxes = axis.boxplot(
                filled, positions=at, widths=0.6, patch_artist=True, flierprops={"markersize": 2}
            )
            for i, box in zip(at, boxes["boxes"], strict=True):
                box.set(facecolor=_color(i), alpha=0.6, linewidth=0.6)
            for line in boxes["medians"]:
                line.set(color="black")
        axis.plot(at, [v.mean() for v in filled], "o", color="black", markersize=2.5)
        axis.set_title(_arrow(comparison, metric))
        axis.set_xticks(range(len(methods)), methods, rotation=45, ha="right")
        axis.set_xlim(-0.6, len(methods) - 0.4)
    for axis in axes[len(shown) :]:
        axis.remove()
    return figure


def _violins(axis: Axes, values: list[np.ndarray], at: list[int]) -> None:
    """Violins; a method whose values are all equal has no density, and is a line."""
    for i, column in zip(at, values, strict=True):
        if np.ptp(column) == 0:
            axis.plot([i - 0.3, i + 0.3], [column[0]] * 2, color=_color(i), linewidth=2)
            continue
        parts = axis.violinplot(column, positions=[i], widths=0.8, showextrema=False)
        for body in parts["bodies"]:
            body.set(facecolor=_color(i), alpha=0.6)


def radar(comparison: Comparison, name: str) -> Figure:
    """The means of each method as a polygon: the rim is the best method of a metric, the inner ring the worst."""
    methods, columns = _methods(comparison, name), comparison.defined(name)
    means = [[_mean(_column(comparison, name, m, c)) for c in columns] for m in methods]
    values = np.array(means) * [-1 if c in comparison.lower else 1 for c in columns]
    low, high = np.nanmin(values, 0), np.nanmax(values, 0)
    values = np.where(high > low, (values - low) / np.where(high > low, high - low, 1), 1)
    angles = np.linspace(0, 2 * np.pi, len(columns) + 1)
    figure = new_figure(4.6, 3.6)
    axis = figure.add_subplot(projection="polar")
    for i, (method, row) in enumerate(zip(methods, np.nan_to_num(values), strict=True)):
        closed = [*row, row[0]]
        style = ("-", "--", ":")[i // len(COLORS) % 3]
        axis.plot(angles, closed, style, color=_color(i), linewidth=1.2, label=method)
        axis.fill(angles, closed, color=_color(i), alpha=0.08)
    axis.set_xticks(angles[:-1], [_arrow(comparison, c) for c in columns])
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1], [""] * 5)
    axis.set_ylim(-0.25, 1)  # so that the worst method is a polygon too
    axis.spines["polar"].set_color("#cccccc")
    _legend(figure, len(methods))
    return figure


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def rank_plot(result: ranks.Ranks, columns: Sequence[str]) -> Figure:
    """The mean rank of each method in each metric, over the pairs of all data sets; 1 is the best."""
    tests = {test.metric: test for test in result.tests}
    shown = [c for c in (*columns, ranks.ALL) if c in tests]
    figure = new_figure(max(3.5, 0.55 * len(shown) + 1.5), 2.6)
    axis = figure.add_subplot()
    for i, method in enumerate(result.methods):
        values = [tests[c].mean_ranks[method] for c in shown]
        style = ("o-", "s--", "^:")[i // len(COLORS) % 3]
        axis.plot(range(len(shown)), values, style, color=_color(i), markersize=3.5, label=method)
    axis.set_xticks(range(len(shown)), shown, rotation=45, ha="right")
    axis.set_ylabel("mean rank (1 is best)")
    axis.invert_yaxis()
    axis.grid(axis="y", color="#dddddd", linewidth=0.5)
    _legend(figure, len(result.methods))
    return figure


def critical_differences(test: ranks.MetricTest) -> Figure:
    """Demsar's diagram: methods on an axis of mean ranks; a bar joins those that do not differ.

    Two methods differ significantly (Nemenyi) when their mean ranks are further apart than the critical
    difference, drawn above the axis.
    """
    order = sorted(test.mean_ranks, key=lambda m: test.mean_ranks[m])
    values = [test.mean_ranks[m] for m in order]
    count, cd = len(order), test.critical_difference
    bars = cliques(values, cd)
    half = math.ceil(count / 2)
    line, below = 0.28, 0.3 + 0.16 * len(bars)
    height = below + line * half
    figure = new_figure(5.5, 0.9 + height)
    axis = figure.add_subplot()
    axis.set_axis_off()
    axis.set_xlim(1 - 0.35 * (count - 1) - 0.2, count + 0.35 * (count - 1) + 0.2)
    axis.set_ylim(-height, 0.75)
    axis.plot([1, count], [0, 0], "k", linewidth=1)
    for tick in range(1, count + 1, math.ceil(count / 12)):
        axis.plot([tick, tick], [0, 0.08], "k", linewidth=1)
        axis.text(tick, 0.12, str(tick), ha="center", va="bottom")
    end = min(1 + cd, 1.35 * count)
    axis.plot([1, end], [0.5, 0.5], "k", linewidth=1.5)
    for x in (1, end):
        axis.plot([x, x], [0.45, 0.55], "k", linewidth=1)
    axis.text((1 + end) / 2, 0.55, f"critical difference {cd:.2f}", ha="center", va="bottom")
    for i, (method, value) in enumerate(zip(order, values, strict=True)):
        left = i < half
        depth = below + line * (i if left else count - 1 - i)
        edge = 1 - 0.1 * (count - 1) if left else count + 0.1 * (count - 1)
        axis.plot([value, value, edge], [0, -depth, -depth], "k", linewidth=0.8)
        text = f"{method} ({value:.2f}) " if left else f" {method} ({value:.2f})"
        axis.text(edge, -depth, text, ha="right" if left else "left", va="center")
    for i, (first, last) in enumerate(bars):
        y = -0.15 - 0.16 * i
        axis.plot([values[first] - 0.03, values[last] + 0.03], [y, y], "k", linewidth=3)
    return figure


def cliques(values: Sequence[float], difference: float) -> list[tuple[int, int]]:
    """The longest runs (first, last) of rising values whose ends are no more than `difference` apart.

    Runs of one value, and those inside another, are left out.
    """
    runs: list[tuple[int, int]] = []
    for first, value in enumerate(values):
        last = max(i for i, v in enumerate(values) if v - value <= difference)
        if last > first and (not runs or last > runs[-1][1]):
            runs.append((first, last))
    return runs


def heat_map(comparison: Comparison, name: str) -> Figure:
    """Each image's ranks by method, the mean over the metrics: yellow where a method is the best."""
    methods = _methods(comparison, name)
    by_image = ranks.by_image(comparison, name, methods)
    figure = new_figure(0.45 * len(methods) + 2.2, max(1.8, 0.16 * len(by_image) + 1.2))
    axis = figure.add_subplot()
    shown = axis.imshow(list(by_image.values()), cmap="viridis_r", aspect="auto")
    axis.set_xticks(range(len(methods)), methods, rotation=45, ha="right")
    step = math.ceil(len(by_image) / 60)
    axis.set_yticks(range(0, len(by_image), step), list(by_image)[::step], fontsize=6)
    figure.colorbar(shown, label="mean rank over the metrics (1 is best)")
    return figure


def scatter_plot(comparison: Comparison, name: str, x: str, y: str) -> Figure:
    """Two metrics against each other: a dot for each image, a large one for the mean of a method."""
    figure = new_figure(4.2, 2.8)
    axis = figure.add_subplot()
    methods = _methods(comparison, name)
    for i, method in enumerate(methods):
        rows = comparison.values[name][method].values()
        points = np.array([[row.get(c, math.nan) for c in (x, y)] for row in rows], float)
        points = points[np.isfinite(points).all(1)]
        marker = "os^Dv"[i // len(COLORS) % 5]
        axis.plot(*points.T, marker, color=_color(i), markersize=2.5, alpha=0.45)
        if len(points):
            mean = points.mean(0)
            axis.plot(*mean, marker, color=_color(i), markersize=8, mec="black", label=method)
    axis.set_xlabel(_arrow(comparison, x))
    axis.set_ylabel(_arrow(comparison, y))
    _legend(figure, len(methods))
    return figure
