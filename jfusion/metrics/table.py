"""Tables of metrics: text for a terminal, Markdown, CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping

import numpy as np


def means(per_image: Iterable[Mapping[str, float]]) -> tuple[dict[str, float], dict[str, int]]:
    """(mean of each metric over the images where it is defined, how many images were left out)."""
    columns: dict[str, list[float]] = {}
    for values in per_image:
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
    finite = {name: [v for v in column if math.isfinite(v)] for name, column in columns.items()}
    mean = {name: float(np.mean(v)) if v else float("nan") for name, v in finite.items()}
    left_out = {n: len(columns[n]) - len(v) for n, v in finite.items() if len(v) < len(columns[n])}
    return mean, left_out


class Table:
    """Rows of metrics under a label each; a metric that a row lacks is shown as a dash."""

    def __init__(self, columns: Iterable[str]):
        self.columns = list(columns)
        self.rows: list[tuple[str, Mapping[str, float], bool]] = []

    def add(self, label: str, values: Mapping[str, float], signed: bool = False) -> None:
        """One row; signed rows (differences) show their sign."""
        self.rows.append((label, values, signed))

    def cells(self, digits: int = 2) -> list[list[str]]:
        """Header and rows as text."""
        body = [
            [
                label,
                *(
                    f"{v[c]:{'+' if signed else ''}.{digits}f}" if c in v else "-"
                    for c in self.columns
                ),
            ]
            for label, v, signed in self.rows
        ]
        return [["", *self.columns], *body]

    def text(self) -> str:
        """Aligned columns."""
        cells = self.cells()
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        lines = (
            "  ".join([r[0].ljust(widths[0]), *map(str.rjust, r[1:], widths[1:])]) for r in cells
        )
        return "\n".join(line.rstrip() for line in lines)

    def markdown(self) -> str:
        """A Markdown table."""
        head, *body = ("| " + " | ".join(row) + " |" for row in self.cells())
        return "\n".join([head, "|" + "---|" * (len(self.columns) + 1), *body]) + "\n"

    def csv(self) -> str:
        """Comma-separated, six digits."""
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows(self.cells(6))
        return out.getvalue()
