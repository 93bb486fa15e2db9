"""The published rows of a system on a data set, and a table of ours beside them."""

from __future__ import annotations

import csv
from pathlib import Path

from jfusion.metrics.table import Table

NAMES = {"film": "FILM", "cddfuse": "CDDFuse", "sfdfuse": "SFDFuse", "ddfm": "DDFM"}


def published(system: str, dataset: str) -> dict[str, dict[str, float]]:
    """source -> {metric: value} for a system of ours on a data set; {} when nothing was published.

    A README's row comes first: it is what the released code and weights print.
    """
    rows: dict[str, dict[str, float]] = {}
    for path in sorted(
        Path(__file__).parent.glob(f"{system}_*.csv"), key=lambda p: "readme" not in p.stem
    ):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["system"] == NAMES.get(system) and row["dataset"].lower() == dataset.lower():
                    rows.setdefault(row["source"].split(",")[0], {})[row["metric"]] = float(
                        row["value"]
                    )
    return rows


def beside_published(table: Table, system: str, dataset: str) -> Table:
    """`table` (whose last row is ours) with the first published row and the difference below it."""
    ours = table.rows[-1][1]
    for source, row in published(system, dataset).items():
        differences = {m: ours[m] - v for m, v in row.items() if m in ours}
        if differences:
            table.add(f"published ({source})", row)
            table.add("difference", differences, signed=True)
            break
    return table
