"""A table of metrics: text for a terminal, Markdown, CSV. LaTeX is in report/table.py, HTML in report/page.py."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np


def means(per_image: Iterable[Mapping[str, float]]) -> tuple[dict[str, float], dict[str, int]]:
    """(mean of each metric over the images where it is defined, how many images were left out)."""
    finite, left_out = _finite(per_image)
    mean = {name: float(np.mean(v)) if v else math.nan for name, v in finite.items()}
    return mean, left_out


def deviations(per_image: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Population standard deviation of each metric over the images where it is defined."""
    finite, _ = _finite(per_image)
    return {name: float(np.std(v)) if v else math.nan for name, v in finite.items()}


def _finite(
    per_image: Iterable[Mapping[str, float]],
) -> tuple[dict[str, list[float]], dict[str, int]]:
    columns: dict[str, list[float]] = {}
    for values in per_image:
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
    finite = {name: [v for v in column if math.isfinite(v)] for name, column in columns.items()}
    left_out = {n: len(columns[n]) - len(v) for n, v in finite.items() if len(v) < len(columns[n])}
    return finite, left_out


@dataclass(frozen=True)
class Row:
    """A label and values by metric; signed rows are differences; ranked rows compete."""

    label: str
    values: Mapping[str, float]
    spread: Mapping[str, float] = field(default_factory=dict)
    signed: bool = False
    ranked: bool = False

    def cell(self, column: str, digits: int, plus_minus: str = "±") -> str:
        """The value, with its spread if it has one; a dash where there is none, or it is not defined."""
        if math.isnan(self.values.get(column, math.nan)):
            return "-"
        text = f"{self.values[column]:{'+' if self.signed else ''}.{digits}f}"
        if column in self.spread:
            text += f" {plus_minus} {self.spread[column]:.{digits}f}"
        return text


class Table:
    """Rows of metrics under a label each; a metric that a row lacks is shown as a dash.

    Where two or more rows are ranked, the best and the second best of each column are marked;
    `lower` names the columns in which less is better; `decimals` how many a column shows, 2 if not said.
    """

    def __init__(
        self,
        columns: Iterable[str],
        lower: Iterable[str] = (),
        decimals: Mapping[str, int] | None = None,
    ):
        self.columns = list(columns)
        self.lower = set(lower)
        self.decimals = dict(decimals or {})
        self.rows: list[Row] = []

    def add(
        self,
        label: str,
        values: Mapping[str, float],
        spread: Mapping[str, float] | None = None,
        signed: bool = False,
        ranked: bool = False,
    ) -> None:
        """One row; signed rows (differences) show their sign."""
        self.rows.append(Row(label, values, spread or {}, signed, ranked))

    def rank(self, row: Row, column: str) -> int:
        """1 for the best of the ranked rows, 2 for the second best, otherwise 0; equals share."""
        competing = {
            r.values[column]
            for r in self.rows
            if r.ranked and math.isfinite(r.values.get(column, math.nan))
        }
        if not row.ranked or sum(r.ranked for r in self.rows) < 2:
            return 0
        order = sorted(competing, reverse=column not in self.lower)[:2]
        value = row.values.get(column)
        return order.index(value) + 1 if value in order else 0

    def cell(self, row: Row, column: str, plus_minus: str = "±") -> str:
        """The value of a row as it is shown, without a mark."""
        return row.cell(column, self.decimals.get(column, 2), plus_minus)

    def text(self) -> str:
        """Aligned columns; ¹ marks the best and ² the second best."""
        body = [
            [r.label, *(self.cell(r, c) + ("", "¹", "²")[self.rank(r, c)] for c in self.columns)]
            for r in self.rows
        ]
        cells = [["", *self.columns], *body]
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        lines = (
            "  ".join([r[0].ljust(widths[0]), *map(str.rjust, r[1:], widths[1:])]) for r in cells
        )
        return "\n".join(line.rstrip() for line in lines)

    def markdown(self) -> str:
        """A Markdown table; the best in bold, the second best in italics."""
        marks = ("{}", "**{}**", "*{}*")
        body = [
            [
                r.label.replace("|", r"\|"),
                *(marks[self.rank(r, c)].format(self.cell(r, c)) for c in self.columns),
            ]
            for r in self.rows
        ]
        head, *rest = ("| " + " | ".join(row) + " |" for row in [["", *self.headed()], *body])
        return "\n".join([head, "|" + "---|" * (len(self.columns) + 1), *rest]) + "\n"

    def csv(self) -> str:
        """Comma-separated, six digits; the spread in columns of its own."""
        spread = any(r.spread for r in self.rows)
        head = ["", *self.columns, *(f"{c}_std" for c in self.columns if spread)]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(head)
        for r in self.rows:
            means_only = Row(r.label, r.values, signed=r.signed)
            deviations_only = Row(r.label, r.spread)
            cells = [means_only.cell(c, 6) for c in self.columns]
            cells += [deviations_only.cell(c, 6) for c in self.columns if spread]
            writer.writerow([r.label, *cells])
        return out.getvalue()

    def headed(self) -> list[str]:
        """The names of the columns; where rows compete, with an arrow for the better direction."""
        return [
            f"{c} {'↓' if c in self.lower else '↑'}" if self._ranked() else c for c in self.columns
        ]

    def _ranked(self) -> bool:
        return sum(r.ranked for r in self.rows) > 1
