"""The published numbers: reading, listing, filtering."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jfusion.errors import UserError, did_you_mean
from jfusion.metrics.table import Table

FOLDER = Path(__file__).parent
NOT_TABLES = ("protocols",)


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
    """Every number of a paper's tables (of all, without a name); READMEs first.

    A README's row is what the released code and weights print.
    """
    files = (p for p in FOLDER.glob("*.csv") if p.stem not in NOT_TABLES)
    for path in sorted(files, key=lambda p: ("readme" not in p.stem, p.stem)):
        if path.stem.startswith(f"{paper}_") or not paper:
            with path.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    yield Cell(path.stem, **{**row, "value": float(row["value"])})


def overview() -> str:
    """One line a table: its name, data sets, metrics, and source."""
    tables: dict[str, list[Cell]] = {}
    for cell in cells():
        tables.setdefault(cell.table, []).append(cell)
    lines = []
    for name, of in sorted(tables.items()):
        sets, metrics = (
            list(dict.fromkeys(v)) for v in ((c.dataset for c in of), (c.metric for c in of))
        )
        lines.append(
            f"{name}: {len(of)} numbers, {len({c.system for c in of})} systems\n"
            f"    data sets: {', '.join(sets)}\n    metrics: {', '.join(metrics)}\n"
            f"    source: {'; '.join(dict.fromkeys(c.source for c in of))}"
        )
    return "\n".join(lines)


def select(
    system: str | None = None, dataset: str | None = None, metric: str | None = None
) -> list[tuple[str, str, Table]]:
    """(data set, source, table of systems) for each table that has what is asked for.

    Names are compared without regard to case; an unknown one raises UserError.
    """
    found = list(cells())
    for field, wanted in (("system", system), ("dataset", dataset), ("metric", metric)):
        if wanted:
            known = {getattr(c, field) for c in found}
            found = [c for c in found if getattr(c, field).lower() == wanted.lower()]
            if not found:
                raise UserError(f"no published {field} {wanted!r}{did_you_mean(wanted, known)}")
    groups: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for c in found:
        rows = groups.setdefault((c.dataset, c.source), {})
        rows.setdefault(c.system, {})[c.metric] = c.value
    tables = []
    for (name, source), rows in groups.items():
        table = Table(dict.fromkeys(m for values in rows.values() for m in values))
        for label, values in rows.items():
            table.add(label, values)
        tables.append((name, source, table))
    return tables
