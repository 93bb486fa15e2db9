"""The tables of a comparison as LaTeX, Markdown, CSV and JSON; HTML is in page.py."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jfusion.metrics.table import Row, Table, deviations, means
from jfusion.papers.compare import PUBLISHED
from jfusion.report.comparison import Comparison

# Points: the widths of a column and of a page of two columns (IEEE, CVF), and of a digit by font size.
COLUMN, PAGE = 237.0, 496.0
SIZES = {"small": 4.6, "footnotesize": 4.1, "scriptsize": 3.7}
SEPARATION = 3.0  # points on either side of a column
TEX = {
    **{c: rf"\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


@dataclass(frozen=True)
class Block:
    """A table under a title, the data set; the title is empty where there is one data set only."""

    title: str
    table: Table


def text(blocks: Sequence[Block]) -> str:
    """For a terminal."""
    return "\n\n".join(
        f"{b.title}\n{b.table.text()}" if b.title else b.table.text() for b in blocks
    )


def markdown(blocks: Sequence[Block], notes: Iterable[str] = ()) -> str:
    """Headings and tables; the best in bold, the second best in italics; the notes as a list."""
    parts = [
        f"### {b.title}\n\n{b.table.markdown()}" if b.title else b.table.markdown() for b in blocks
    ]
    if listed := "".join(f"- {note}\n" for note in notes):
        parts.append(listed)
    return "\n".join(parts)


# ---- LaTeX -------------------------------------------------------------------------------------


def latex(
    blocks: Sequence[Block],
    caption: str = "",
    label: str = "",
    layout: str = "blocks",
    notes: Iterable[str] = (),
) -> str:
    """A LaTeX table (packages booktabs and graphicx): the best in bold, the second best underlined.

    layout: the data sets as "blocks" of rows, one below the other, or as groups of "columns". The table
    gets the largest font in which it fits in a column or on a page of two columns; one that is wider
    still is scaled to the page. Rows of differences are left out; the sources of published rows and the
    notes are comments.
    """
    rows = _columns(blocks) if layout == "columns" and len(blocks) > 1 else _blocks(blocks)
    count = max(len(row) for row in rows if isinstance(row, list))
    environment, size, fits = _fit(rows, count)
    body = [rf"\begin{{tabular}}{{@{{}}l{'r' * (count - 1)}@{{}}}}", r"\toprule"]
    body += [row if isinstance(row, str) else " & ".join(row) + r" \\" for row in rows]
    body += [r"\bottomrule", r"\end{tabular}"]
    if not fits:
        body = [r"\resizebox{\textwidth}{!}{%", *body[:-1], body[-1] + "}"]
    head = [rf"\begin{{{environment}}}[t]", r"\centering"]
    head += [rf"\caption{{{_tex(caption)}}}"] if caption else []
    head += [rf"\label{{{label}}}"] if label else []
    head += [rf"\{size}", rf"\setlength{{\tabcolsep}}{{{SEPARATION:g}pt}}"]
    labels = dict.fromkeys(row.label for b in blocks for row in b.table.rows)
    comments = [f"% {label}" for label in labels if _label(label) != label]
    comments += [f"% {note}" for note in notes]
    return "\n".join([*comments, *head, *body, rf"\end{{{environment}}}"]) + "\n"


def _blocks(blocks: Sequence[Block]) -> list[list[str] | str]:
    """The data sets one below the other, under one row of metrics. A text is a line as it stands."""
    columns = list(dict.fromkeys(c for block in blocks for c in block.table.columns))
    lower = set().union(*(block.table.lower for block in blocks))
    rows: list[list[str] | str] = [["", *_headed(columns, lower)]]
    for block in blocks:
        rows.append(r"\midrule")
        if block.title:
            title = rf"\multicolumn{{{len(columns) + 1}}}{{c}}{{\textit{{{_tex(block.title)}}}}} \\"
            rows += [title, r"\midrule"]
        for row in _shown(block.table):
            cells = [_cell(block.table, row, c) for c in columns]
            rows.append([_tex(_label(row.label)), *cells])
    return rows


def _columns(blocks: Sequence[Block]) -> list[list[str] | str]:
    """The data sets side by side, a group of metrics each; a row for each method."""
    titles, rules, heads, start = [""], [], [""], 2
    for block in blocks:
        count = len(block.table.columns)
        titles.append(rf"\multicolumn{{{count}}}{{c}}{{{_tex(block.title)}}}")
        rules.append(rf"\cmidrule(lr){{{start}-{start + count - 1}}}")
        heads += _headed(block.table.columns, block.table.lower)
        start += count
    rows: list[list[str] | str] = [" & ".join(titles) + r" \\", " ".join(rules), heads, r"\midrule"]
    for label in dict.fromkeys(row.label for b in blocks for row in _shown(b.table)):
        cells = []
        for block in blocks:
            row = next((r for r in block.table.rows if r.label == label), Row(label, {}))
            cells += [_cell(block.table, row, c) for c in block.table.columns]
        rows.append([_tex(_label(label)), *cells])
    return rows


def _shown(table: Table) -> list[Row]:
    return [row for row in table.rows if not row.signed]


def _label(label: str) -> str:
    """The label of a row, of a published one without its source."""
    return label.partition(" (")[0] if label.startswith(PUBLISHED) else label


def _headed(columns: Iterable[str], lower: set[str]) -> list[str]:
    return [rf"{_tex(c)} $\{'down' if c in lower else 'up'}arrow$" for c in columns]


def _cell(table: Table, row: Row, column: str) -> str:
    marks = ("{}", r"\textbf{{{}}}", r"\underline{{{}}}")
    shown = table.cell(row, column, r"$\pm$")
    return marks[table.rank(row, column)].format(shown)


def _fit(rows: list[list[str] | str], count: int) -> tuple[str, str, bool]:
    """The environment, the font size, and whether the table fits without being scaled."""
    table = [row for row in rows if isinstance(row, list)]
    letters = [max(map(_letters, (row[i] for row in table))) for i in range(count)]
    for environment, width, sizes in (
        ("table", COLUMN, ("small", "footnotesize")),
        ("table*", PAGE, tuple(SIZES)),
    ):
        for size in sizes:
            if sum(letters) * SIZES[size] + 2 * SEPARATION * (count - 1) <= width:
                return environment, size, True
    return "table*", "scriptsize", False


def _letters(cell: str) -> float:
    """About how many digits wide a cell is printed; bold and capitals are wider."""
    for command in (r"\underline{", r"\textbf{", r"$\pm$", r"$\uparrow$", r"$\downarrow$"):
        wide = command.startswith("$")
        cell = cell.replace(command, "==" if wide else "")
    cell = cell.rstrip("}").replace("\\", "")
    return sum(1.4 if c.isupper() else 0.6 if c in ".,:il" else 1.05 for c in cell)


def _tex(text: str) -> str:
    return "".join(TEX.get(c, c) for c in text)


# ---- values for other programs -----------------------------------------------------------------


def tidy(comparison: Comparison) -> str:
    """CSV, one value a line: dataset,method,image,metric,value; a value that is not defined is nan."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["dataset", "method", "image", "metric", "value"])
    for name, methods in comparison.values.items():
        for method, images in methods.items():
            for image, values in images.items():
                for metric, value in values.items():
                    writer.writerow([name, method, image, metric, f"{value:.10g}"])
    return out.getvalue()


def as_json(comparison: Comparison, notes: Iterable[str], ranks: Any = None) -> str:
    """JSON: the evaluator, means, standard deviations and values by data set and method, ranks, notes.

    A value that is not defined is null.
    """
    sets = {}
    for name, methods in comparison.values.items():
        sets[name] = {
            method: {
                "pairs": len(images),
                "mean": means(images.values())[0],
                "std": deviations(images.values()),
                "images": images,
            }
            for method, images in methods.items()
        }
    better = {c: "lower" if c in comparison.lower else "higher" for c in comparison.columns}
    value = {"preset": comparison.preset, "better": better, "datasets": sets}
    value |= {"ranks": ranks, "notes": list(notes)}
    return json.dumps(_finite(value), indent=1, ensure_ascii=False) + "\n"


def _finite(value: Any) -> Any:
    """`value` with null for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
