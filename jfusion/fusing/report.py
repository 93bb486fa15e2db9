"""`jfusion fuse --report`: one page of all pairs, with the metrics of each result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jfusion.data import image
from jfusion.errors import counted
from jfusion.fusing import judgment
from jfusion.metrics import DEFAULT_PRESET, plausibility
from jfusion.metrics.plausibility import Plausibility
from jfusion.processes import share
from jfusion.report import page
from jfusion.report.comparison import Comparison
from jfusion.report.table import Block

if TYPE_CHECKING:
    from jfusion.commands.fuse import Options
    from jfusion.fusing.images import Outcome, Source
    from jfusion.fusing.method import Method
    from jfusion.fusing.plan import Item, Plan


def check(plan: Plan) -> None:
    """Raises UserError where the report of what is to be fused would replace a file that is none."""
    for item in plan.good[:1]:
        page.check(_path(item))


def _path(item: Item) -> Path:
    return item.outputs[0].parent / "report.html"


def write(
    options: Options,
    settings: Mapping[str, Any],
    method: Method,
    plan: Plan,
    source: Source,
    outcome: Outcome,
) -> None:
    """Evaluates the results that are there, and writes report.html into their folder.

    Where some were there before, nothing says which method made them: they are called "results" then, and
    a note says so.
    """
    from tqdm import tqdm

    there = {*outcome.written, *outcome.kept}
    items = [item for item in plan.items if item.outputs[0] in there]
    if not items:
        return
    values, looks = {}, {}
    results = share(partial(_evaluate, source), items)
    bar = tqdm(results, "metrics", len(items), unit="pair", disable=len(items) == 1)
    for item, (row, look) in zip(items, bar, strict=True):
        values[item.name], looks[item.name] = row, look
    name, label = source.task, "results" if outcome.kept else method.name
    comparison = Comparison(DEFAULT_PRESET, list(judgment.COLUMNS), {name: {label: values}})
    blocks = [Block(f"{name} ({counted(len(items), 'pair')})", comparison.table(name))]
    before = f"{counted(len(outcome.kept), 'result')} there before, perhaps of another method than {method.name}"
    notes = [
        *([before] if outcome.kept else []),
        *plausibility.warnings(looks),
        *(f"{k}: {v}" for k, v in outcome.failed.items()),
    ]
    shots = [_shot(name, item, source) for item in items]
    made = {"method": method.name, "task": name, **_given(options), **settings}
    path = _path(items[0])
    page.write(path, f"jfusion fuse: {label}", blocks, comparison, shots, notes, made)
    print(f"report: {path}")


def _evaluate(
    source: Source, items: Iterable[Item]
) -> Iterator[tuple[dict[str, float], Plausibility]]:
    """The metrics and the check of the first result of each pair."""
    for item in items:
        yield judgment.evaluate(item.outputs[0], source.read(item))


def _shot(name: str, item: Item, source: Source) -> page.Shot:
    def read() -> dict:
        sources = judgment.shown(source.read(item))
        return {**sources, "fused": image.Reader("full").levels(item.outputs[0])}

    return page.Shot(name, item.name, read, {"A": item.a, "B": item.b, "fused": item.outputs[0]})


def _given(options: Options) -> dict[str, Any]:
    """The options that are not what they are without being given; of paths the names alone."""
    given = {}
    for option in fields(options):
        value = getattr(options, option.name)
        if value != option.default and option.name not in ("report", "a_alias", "b_alias"):
            given[option.name] = (
                Path(value).name if option.name in ("a", "b", "out", "weights") else value
            )
    return given
