"""The published tables: reading, listing, selecting."""

from __future__ import annotations

import math

import pytest

from jfusion.errors import UserError
from jfusion.papers import tables


def test_every_cell_is_a_number_with_its_source():
    cells = list(tables.cells())
    assert len(cells) > 1000
    for c in cells:
        assert math.isfinite(c.value) and c.source and c.dataset and c.metric and c.system
        assert c.task in ("IVF", "MIF", "MEF", "MFF", "PIF") or "downstream" in c.table
    keys = [(c.table, c.system, c.task, c.dataset, c.metric, c.source) for c in cells]
    assert len(set(keys)) == len(keys)


def test_the_tables_of_a_paper_begin_with_its_readme():
    found = list(dict.fromkeys(c.table for c in tables.cells("cddfuse")))
    assert found[0] == "cddfuse_readme" and all(t.startswith("cddfuse_") for t in found)
    assert list(tables.cells("no such paper")) == []


def test_the_overview_has_every_table_and_no_other_file():
    text = tables.overview()
    for name in {c.table for c in tables.cells()}:
        assert f"\n{name}: " in f"\n{text}"
    assert "protocols:" not in text and "names:" not in text


def test_select_compares_names_without_case_and_suggests_the_nearest():
    ((dataset, source, table),) = tables.select("sfdfuse", "msrs", "sd")
    assert (dataset, table.columns, table.rows[0].values) == ("MSRS", ["SD"], {"SD": 43.4})
    assert source.startswith("SFDFuse README.md")
    with pytest.raises(UserError, match="no published dataset 'MSSR'; did you mean 'MSRS'"):
        tables.select(dataset="MSSR")
