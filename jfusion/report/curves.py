"""Curves of training runs over one another, and their previews as a film strip. Needs matplotlib."""

from __future__ import annotations

import base64
import html
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jfusion.data import image
from jfusion.errors import UserError, did_you_mean
from jfusion.files import replacing, write_text
from jfusion.report.charts import COLORS, new_figure, style
from jfusion.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = (".png", ".svg", ".pdf", ".html")
MOST_FRAMES = 8  # epochs in a film strip, spread evenly over those that have images
FEW = 60  # points up to which a curve is drawn as it is, not smoothed
DPI = 150
WIDTH = 2.9  # inches of a panel


def columns(runs: Sequence[Run], names: str | None = None) -> list[str]:
    """The columns of metrics.csv to draw: those of an option ("total,val/VIF"), or all that a run has.

    Losses come first, then the metrics of the validation, then learning rates. Raises UserError for a
    column that no run has, and when no run has logged a step.
    """
    tables = [run.scalars() for run in runs]
    present = dict.fromkeys(
        name for table in tables for name in table if np.isfinite(table[name]).any()
    )
    present.pop("step", None)
    if not present:
        raise UserError(f"no step is logged yet in {', '.join(str(r.folder) for r in runs)}")
    if names is None:
        return sorted(present, key=_group)
    chosen = [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in present:
            raise UserError(f"--values: no run has {name!r}{did_you_mean(name, present)}")
    return chosen


def _group(name: str) -> int:
    return 2 if name.startswith("learning_rate/") else int(name.startswith("val/"))


def write(
    path: Path, runs: Sequence[Run], names: str | None = None, smooth: int = 0, strips: bool = True
) -> Path:
    """Writes the curves of runs as .png, .svg, .pdf or .html, by the ending of the path.

    names: the columns, as in `columns`. smooth: the steps of the running mean (0: a fiftieth of the
    curve). strips: with the previews of each run by epoch below the curves. Raises UserError.
    """
    if path.suffix.lower() not in KINDS:
        raise UserError(f"{path}: the curves are written as {', '.join(KINDS)}")
    films = {run: frames_of(run) for run in runs} if strips else {}
    films = {run: frames for run, frames in films.items() if frames}
    with style():
        figure = draw(runs, columns(runs, names), smooth, films)
        if path.suffix.lower() == ".html":
            write_text(path, _page(figure, runs), "the page")
            return path
        with replacing(path, "the curves", "figure") as temporary:
            figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=DPI)
    return path


def draw(
    runs: Sequence[Run],
    names: Sequence[str],
    smooth: int = 0,
    films: Mapping[Run, Sequence[tuple[str, np.ndarray]]] | None = None,
) -> Figure:
    """A panel for each column, in it a curve for each run; below, the frames of each run in `films`."""
    films = films or {}
    across = min(4, len(names)) if not films else 4
    rows = math.ceil(len(names) / across)
    heights = [1.9 * rows + 0.25, *(_strip_height(frames, across) for frames in films.values())]
    figure = new_figure(WIDTH * across, sum(heights) + 0.2 + 0.17 * len(runs))
    top, *below = np.atleast_1d(figure.subfigures(1 + len(films), 1, height_ratios=heights))
    axes = top.subplots(rows, across, squeeze=False).ravel()
    tables = [run.scalars() for run in runs]
    for axis, name in zip(axes, names, strict=False):
        for i, table in enumerate(tables):
            if name in table:
                _curve(axis, table["step"], table[name], i, smooth, _group(name) == 2)
        axis.set_title(name)
        axis.set_xlabel("step")
        axis.margins(x=0.02)
        axis.xaxis.get_major_locator().set_params(integer=True)
        if name.startswith("learning_rate/"):
            axis.ticklabel_format(axis="y", scilimits=(0, 0))
    for axis in axes[len(names) :]:
        axis.remove()
    handles = [
        axes[0].plot([], [], color=_color(i), label=run.folder.name)[0]
        for i, run in enumerate(runs)
    ]
    top.legend(handles=handles, loc="outside upper left", frameon=False)
    for part, (run, frames) in zip(below, films.items(), strict=True):
        _strip(part, run, frames)
    return figure


def _color(i: int) -> str:
    return COLORS[i % len(COLORS)]


def _curve(
    axis: Axes, steps: np.ndarray, values: np.ndarray, i: int, smooth: int, rate: bool
) -> None:
    """One curve; of many points that are no learning rates, pale as it is, and its running mean over it."""
    line = ("-", "--", ":")[i // len(COLORS) % 3]
    there = np.isfinite(values) & np.isfinite(steps)
    steps, values = steps[there], values[there]
    window = smooth or (len(values) // 50 if len(values) > FEW and not rate else 1)
    marker = "." if len(values) <= 15 else None
    if window > 1 and len(values) > window:
        axis.plot(steps, values, color=_color(i), alpha=0.2, linewidth=0.5)
        values = running_mean(values, window)
    axis.plot(steps, values, line, color=_color(i), linewidth=1.1, marker=marker)


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of each value and the `window` - 1 before it; of fewer at the beginning."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


# ---- the film strip


def frames_of(run: Run) -> list[tuple[str, np.ndarray]]:
    """The frames of a run's film: for up to `MOST_FRAMES` epochs a label and an image.

    The image has a, b and the fused image under one another, (H, W, 3) uint8. Each frame shows the pair
    that most epochs have an image of, and another one where that is missing.
    """
    previews = run.previews()
    counts = Counter(path.name for images in previews.values() for path in images)
    epochs = sorted(previews)
    if len(epochs) > MOST_FRAMES:
        at = np.linspace(0, len(epochs) - 1, MOST_FRAMES).round().astype(int)
        epochs = [epochs[i] for i in at]
    frames = []
    for epoch in epochs:
        path = max(previews[epoch], key=lambda path: (counts[path.name], path.name))
        row = image.read_rgb(path)
        parts = np.split(row[:, : row.shape[1] // 3 * 3], 3, axis=1)
        frames.append((f"epoch {epoch}\n{_short(path.stem)}", np.concatenate(parts)))
    return frames


def _short(name: str, most: int = 18) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _strip_height(frames: Sequence[tuple[str, np.ndarray]], across: int) -> float:
    """Inches that a strip needs, so that its frames fill their columns."""
    tallest = max(x.shape[0] / x.shape[1] for _, x in frames)
    return 0.6 + tallest * WIDTH * across / MOST_FRAMES


def _strip(figure: Figure, run: Run, frames: Sequence[tuple[str, np.ndarray]]) -> None:
    """Draws the frames of a run next to one another."""
    figure.suptitle(f"{run.folder.name}: a, b and fused by epoch", fontsize=8)
    for axis in (axes := figure.subplots(1, MOST_FRAMES, squeeze=False)[0]):
        axis.set_axis_off()
    for axis, (label, pixels) in zip(axes, frames, strict=False):
        axis.imshow(pixels)
        axis.set_title(label, fontsize=6)


# ---- HTML


def _page(figure: Figure, runs: Sequence[Run]) -> str:
    """A page of its own that shows the figure and the settings in which the runs differ."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI)
    picture = base64.b64encode(stream.getvalue()).decode()
    head = "".join(f"<th>{html.escape(run.folder.name)}</th>" for run in runs)
    lines = [
        f"<tr><th>{html.escape(name)}</th>"
        + "".join(f"<td>{html.escape(value)}</td>" for value in values)
        + "</tr>"
        for name, values in settings(runs).items()
    ]
    return _PAGE.format(
        title=html.escape(", ".join(run.folder.name for run in runs)),
        picture=picture,
        table=f"<table>\n<tr><th></th>{head}</tr>\n" + "\n".join(lines) + "\n</table>",
    )


def settings(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The settings and options of each run by name; of several runs, only those in which they differ."""
    flat = []
    for run in runs:
        record = run.record
        values = {"system": record["system"], "dataset": record.get("dataset", "")}
        flat.append({**values, **record.get("config", {}), **record.get("options", {})})
    names = dict.fromkeys(name for values in flat for name in values)
    rows = {name: [str(values.get(name, "")) for values in flat] for name in names}
    return {k: row for k, row in rows.items() if len(runs) == 1 or len(set(row)) > 1}


_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 14px/1.5 sans-serif; margin: 2em auto; max-width: 80em; color: #222; }}
img {{ max-width: 100%; }}
th, td {{ text-align: left; padding: 0.15em 1em 0.15em 0; border-bottom: 1px solid #ddd; }}
</style>
<h1>{title}</h1>
<img src="data:image/png;base64,{picture}" alt="curves and previews">
<h2>Settings</h2>
{table}
</html>
"""
