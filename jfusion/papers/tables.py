"""The published numbers: reading, listing, filtering."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jfusion.errors import UserError, did_you_mean
from jfusion.metrics.table import Table

FOLDER = Path(__file__).parent
NOT_TABLES = ("names", "notes", "protocols", "sources")  # see compare.py


@dataclass(frozen=True)
class Cell:
    """One printed number; `table` is the CSV's name, whose first part is the paper."""

    table: str
    system: str
    task: str
    dataset: str
    metric: str
    value: float
    source: str


def cells(paper: str = "") -> Iterator[Cell]:
    """Yields every number of a paper's tables, or of all papers'; those of READMEs first.

    paper: how the names of its CSV files begin ("film", "cddfuse"). A README's row is what the released
    code and weights print.
    """
    files = (p for p in FOLDER.glob("*.csv") if p.stem not in NOT_TABLES)
    for path in sorted(files, key=lambda p: ("readme" not in p.stem, p.stem)):
        if path.stem.startswith(f"{paper}_") or not paper:
            with path.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    yield Cell(path.stem, **{**row, "value": float(row["value"])})


def overview() -> str:
    """Returns a few lines a table: its name, data sets, metrics, and source."""
    tables: dict[str, list[Cell]] = {}
    for cell in cells():
        tables.setdefault(cell.table, []).append(cell)
    lines = []
    for name, group in sorted(tables.items()):
        datasets, metrics, sources = (
            dict.fromkeys(getattr(c, field) for c in group)
            for field in ("dataset", "metric", "source")
        )
        lines.append(
            f"{name}: {len(group)} numbers, {len({c.system for c in group})} systems\n"
            f"    data sets: {', '.join(datasets)}\n    metrics: {', '.join(metrics)}\n"
            f"    source: {'; '.join(sources)}"
        )
    return "\n".join(lines)


def select(
    system: str | None = None, dataset: str | None = None, metric: str | None = None
) -> list[tuple[str, str, Table]]:
    """Returns (data set, source, table of systems) for each table that has the given names.

    Names are compared without regard to case; an unknown one raises UserError.
    """
    selected = list(cells())
    for field, name in (("system", system), ("dataset", dataset), ("metric", metric)):
        if name:
            choices = {getattr(c, field) for c in selected}
            selected = [c for c in selected if getattr(c, field).lower() == name.lower()]
            if not selected:
                raise UserError(f"no published {field} {name!r}{did_you_mean(name, choices)}")
    groups: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for c in selected:
        rows = groups.setdefault((c.dataset, c.source), {})
        rows.setdefault(c.system, {})[c.metric] = c.value
    tables = []
    for (title, source), rows in groups.items():
        table = Table(dict.fromkeys(m for values in rows.values() for m in values))
        for label, values in rows.items():
            table.add(label, values)
        tables.append((title, source, table))
    return tables
