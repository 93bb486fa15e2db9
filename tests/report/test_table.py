"""Tables of several data sets as LaTeX, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
import re

from jfusion.report import table
from jfusion.report.comparison import Comparison
from jfusion.report.table import Block


def comparison(sets=("TNO", "MSRS"), methods=("A_1", "B&B"), columns=("EN", "MSE")):
    values = {
        name: {
            method: {f"{i}.x": dict.fromkeys(columns, 1.0 + m + i) for i in range(2)}
            for m, method in enumerate(methods)
        }
        for name in sets
    }
    return Comparison("film", list(columns), values, {"EN": 3})


def blocks(data, spread=False):
    return [Block(f"{name} (2 pairs)", data.table(name, spread)) for name in data.values]


def test_latex_marks_the_best_and_escapes_labels():
    text = table.latex(blocks(comparison()), "A & B", "tab:x", notes=["careful"])
    assert text.startswith("% careful\n\\begin{table}[t]\n")
    assert r"\caption{A \& B}" in text and r"\label{tab:x}" in text
    assert r"EN $\uparrow$ & MSE $\downarrow$ \\" in text
    assert r"A\_1 & \underline{1.500} & \textbf{1.50} \\" in text
    assert r"B\&B & \textbf{2.500} & \underline{2.50} \\" in text
    assert text.count(r"\multicolumn{3}{c}{\textit{TNO (2 pairs)}}") == 1
    assert "pm" not in text and r"1.500 $\pm$ 0.500" in table.latex(blocks(comparison(), True))


def test_latex_has_as_many_cells_in_every_row():
    for layout, width in (("blocks", 3), ("columns", 5)):
        text = table.latex(blocks(comparison()), layout=layout)
        rows = [line for line in text.splitlines() if " & " in line and "multicolumn" not in line]
        assert rows and all(len(re.split(r"(?<!\\)&", row)) == width for row in rows)
        assert text.count("{") == text.count("}")


def test_latex_fits_a_column_a_page_or_is_scaled():
    for count, start in ((3, "\\begin{table}"), (9, "\\begin{table*}")):
        columns = ("EN", "SD", "SF", "AG", "MI", "MSE", "PSNR", "CC", "SCD")[:count]
        text = table.latex(blocks(comparison(columns=columns)))
        assert text.startswith(start) and "resizebox" not in text
    sets = ("S", "T", "U", "V")
    wide = table.latex(blocks(comparison(sets, columns=columns)), layout="columns")
    assert r"\resizebox{\textwidth}{!}{%" in wide and r"\cmidrule(lr){2-10}" in wide


def test_differences_are_not_in_the_table_of_a_paper():
    data = comparison(("TNO",))
    of_set = data.table("TNO")
    of_set.add("published (X)", {"EN": 6.0})
    of_set.add("difference", {"EN": -4.0}, signed=True)
    text = table.latex([Block("", of_set)])
    assert "% published (X)" in text and "\npublished & 6.000 & - " in text
    assert "difference" not in text and "multicolumn" not in text


def test_markdown_has_a_heading_for_each_set():
    text = table.markdown(blocks(comparison()), ["careful"])
    assert "### TNO (2 pairs)\n\n| " in text and text.endswith("- careful\n")
    assert "| B&B | **2.500** | *2.50* |" in text


def test_tidy_csv_and_json_hold_every_value():
    data = comparison()
    data.values["TNO"]["A_1"]["0.x"]["EN"] = math.nan
    rows = list(csv.DictReader(io.StringIO(table.tidy(data))))
    assert list(rows[0]) == ["dataset", "method", "image", "metric", "value"]
    assert len(rows) == 2 * 2 * 2 * 2 and rows[0]["value"] == "nan"
    content = json.loads(table.as_json(data, ["n"]))
    of_method = content["datasets"]["TNO"]["A_1"]
    assert of_method["images"]["0.x"]["EN"] is None and of_method["mean"]["EN"] == 2.0
    assert content["better"] == {"EN": "higher", "MSE": "lower"} and content["notes"] == ["n"]


def test_a_pair_that_a_method_lacks_is_left_out_for_every_method():
    data = comparison()
    del data.values["TNO"]["A_1"]["0.x"]
    assert data.pairs("TNO") == {"A_1": 1, "B&B": 2}
    assert [row.label for row in data.table("TNO").rows] == ["A_1 (1)", "B&B (2)"]
    data.keep_common()
    assert data.pairs("TNO") == {"A_1": 1, "B&B": 1}
