"""Charts: which are written, and what the diagram of critical differences joins."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jfusion.report import charts
from jfusion.report.comparison import Comparison


def comparison(sets=("S",), methods=("x", "y", "z"), columns=("EN", "SD", "MSE"), images=4):
    rng = np.random.default_rng(0)
    values = {
        name: {
            m: {
                str(i): dict(zip(columns, rng.random(len(columns)), strict=True))
                for i in range(images)
            }
            for m in methods
        }
        for name in sets
    }
    return Comparison("film", list(columns), values)


def test_every_chart_of_a_set_and_the_ranks_over_all(tmp_path, monkeypatch):
    monkeypatch.setattr(charts, "DPI", 30)
    data = comparison()
    data.values["S"]["x"]["0"]["EN"] = math.nan
    for row in data.values["S"]["y"].values():
        row["SD"] = 1.0  # a method without spread
    paths = charts.write_all(data, tmp_path / "new")
    assert sorted(p.stem for p in paths) == [
        "box",
        "critical",
        "heat",
        "radar",
        "rank",
        "scatter",
        "violin",
    ]
    assert all(
        p.read_bytes().startswith(b"\x89PNG") and p.parent == tmp_path / "new" for p in paths
    )


def test_several_sets_have_a_folder_each_and_one_method_has_no_ranks(tmp_path, monkeypatch):
    monkeypatch.setattr(charts, "DPI", 30)
    paths = charts.write_all(comparison(("S", "T"), ("x",), ("EN",), 1), tmp_path, "pdf")
    names = sorted(str(p.relative_to(tmp_path)) for p in paths)
    assert names == sorted(f"{s}/{k}.pdf" for s in "ST" for k in ("box", "violin", "heat"))
    assert all(p.read_bytes().startswith(b"%PDF") for p in paths)


@pytest.mark.parametrize(
    ("values", "difference", "runs"),
    [
        ([1, 1.5, 3, 3.2], 1, [(0, 1), (2, 3)]),
        ([1, 2, 3], 1, [(0, 1), (1, 2)]),
        ([1, 2, 3], 5, [(0, 2)]),
        ([1, 3], 1, []),
    ],
)
def test_bars_join_methods_that_are_less_than_the_difference_apart(values, difference, runs):
    assert charts.cliques(values, difference) == runs
