"""What the papers say of a system: rows, evaluators, remarks."""

from __future__ import annotations

import csv

import pytest

from jfusion import metrics
from jfusion.errors import UserError
from jfusion.metrics.table import Table
from jfusion.papers import compare
from jfusion.papers.tables import FOLDER, cells
from jfusion.systems import registry


def config(system, **settings):
    return registry.config_class(system)(**settings)


def rows(name):
    with (FOLDER / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("skip", "names"),
    [
        ("visible", ("CDDFuse",)),
        ("sum", ("CDDFuse_IVF", "CDDFuse")),
        ("none", ("CDDFuse_MIF", "CDDFuse*")),
    ],
)
def test_the_row_of_cddfuse_depends_on_how_it_was_run(skip, names):
    assert compare.published_names("cddfuse", config("cddfuse", skip=skip)) == names
    medical = compare.published("cddfuse", "Harvard_CT", names)
    expected = {"visible": {}, "sum": {"SD": 88.59}, "none": {"SD": 79.17}}[skip]
    readme = medical.get("MMIF-CDDFuse README.md", {})
    assert {k: v for k, v in readme.items() if k in expected} == expected


def test_other_systems_have_one_row_or_none():
    assert compare.published_names("sfdfuse", config("sfdfuse", skip="sum")) == ("SFDFuse",)
    assert compare.published_names("film") == ("FILM",)
    assert compare.published_names("average", None) == ()
    assert compare.published("average", "MSRS") == {}


def test_rows_of_others_stand_next_to_an_evaluator_that_can_be_compared():
    rows = compare.published("lfdt", "MSRS")
    assert list(rows) == ["SMC-Mamba (AAAI 2026)", "FDFusion README (HwangChul/FDFusion)"]
    table = Table(["EN", "MI", "Qabf"])
    table.add("ours", {"EN": 6.0, "MI": 3.0, "Qabf": 0.5})
    compare.add_published(table, "lfdt", "MSRS", preset="film")
    assert table.rows[1].label == "published (FDFusion README (HwangChul/FDFusion))"
    assert table.rows[1].values["Qabf"] == 0.69 and "MI" not in table.rows[1].values
    assert any("FILM's Table 1" in line for line in compare.protocol("lfdt", "MSRS", "film", 361))
    before = len(table.rows)
    assert len(compare.add_published(table, "lfdt", "MSRS", preset="vifb").rows) == before
    first, second = compare.protocol("lfdt", "MSRS", "vifb", 361)
    assert "its evaluator is not known" in first and "--preset film" in second


def test_many_rows_have_no_differences_and_several_papers_are_named():
    table = Table(["EN"])
    for label in "xyz":
        table.add(label, {"EN": 6.0})
    compare.add_published(table, "film", "MSRS", preset="film")
    compare.add_published(table, "cddfuse", "TNO", preset="film", named=True)
    labels = [row.label for row in table.rows[3:]]
    assert labels == ["published (IF-FILM README.md)", "published cddfuse (MMIF-CDDFuse README.md)"]


def test_only_metrics_of_one_definition_stand_next_to_each_other():
    table = Table(["SD", "SSIM"])
    table.add("ours", {"SD": 50.0, "SSIM": 1.0})
    compare.add_published(table, "cddfuse", "RoadScene", preset="film")
    assert table.rows[1].values == pytest.approx({"EN": 7.44, **table.rows[1].values})
    assert "SD" in table.rows[1].values and "SSIM" not in table.rows[1].values


def test_the_averages_of_vifb_stand_next_to_its_evaluator_alone():
    assert compare.parse("swinfusion/vifb") == ("SwinFusion", "vifb")
    table = Table(["EN", "Qcv"])
    table.add("ours", {"EN": 6.0, "Qcv": 300.0})
    assert len(compare.add_published(table, "SwinFusion", "VIFB", preset="film").rows) == 1
    assert len(compare.add_published(table, "SwinFusion", "VIFB", preset="vifb").rows) == 3


def test_medical_pairs_with_the_setting_of_infrared_ones_get_a_note():
    (note,) = compare.notes("cddfuse", "MIF", config("cddfuse"))
    assert "--skip sum" in note and "--skip none" in note
    assert compare.notes("cddfuse", "MIF", config("cddfuse", skip="sum")) == []
    assert compare.notes("cddfuse", "IVF", config("cddfuse")) == []
    assert compare.notes("sfdfuse", "MIF", config("sfdfuse")) == []


def test_the_evaluator_is_the_papers():
    presets = {s: compare.preset_of(s) for s in ("film", "cddfuse", "sfdfuse", "fccf", "ddfm")}
    assert presets == {
        "film": "film",
        "cddfuse": "cddfuse",
        "sfdfuse": "cddfuse",
        "fccf": "cddfuse",
        "ddfm": "film",
    }
    assert compare.preset_of("a system of another package") == "film"


def test_the_differences_of_the_protocol_are_said():
    lines = compare.protocol("cddfuse", "Harvard_PET", "film", 7)
    assert lines[0] == "the published row is over 42 pairs, ours over 7"
    assert "--preset cddfuse" in lines[1] and "21 different PET slices" in lines[2]
    assert compare.protocol("cddfuse", "TNO", "cddfuse", 25) == []
    assert "does not say" in compare.protocol("film", "Lytro", "film", 3)[0]


def test_the_published_row_and_the_differences_stand_below_ours():
    table = Table(["EN", "SD"])
    table.add("ours", {"EN": 6.0, "SD": 40.0})
    table = compare.add_published(table, "sfdfuse", "MSRS")
    _, published, difference = table.rows
    assert published.values["SD"] == 43.40 and published.label.startswith("published (SFDFuse")
    assert difference.values["SD"] == pytest.approx(-3.4) and difference.signed
    assert len(compare.add_published(table, "film", "Nowhere").rows) == 3


def test_a_paper_is_named_by_system_and_data_set():
    assert compare.parse("FILM/RoadScene") == ("film", "RoadScene")
    assert compare.parse("film-nankai/MSRS") == ("film-nankai", "MSRS")
    for text, words in (
        ("filn/MSRS", "did you mean 'film'"),
        ("film", "system/dataset"),
        ("cddfuse/RoadScen", "did you mean 'RoadScene'"),
    ):
        with pytest.raises(UserError, match=words):
            compare.parse(text)


def test_every_row_of_the_lists_names_something_that_exists():
    systems = {*registry.names(), "film-nankai"}
    tables = {(c.table, c.system) for c in cells()}
    for row in rows("names"):
        assert row["system"] in systems
        prefix = row["system"].replace("-", "_") + "_"
        assert any(
            (t.startswith(prefix) or t in compare.OF_OTHERS) and s == row["row"] for t, s in tables
        ), row
    for row in rows("names") + rows("notes"):
        if row["setting"]:
            assert hasattr(config(row["system"], **{row["setting"]: row["value"]}), row["setting"])
    for row in rows("protocols"):
        assert row["system"] in systems and row["preset"] in metrics.PRESETS
        assert not row["pairs"] or int(row["pairs"]) > 0
    sources = {c.source for c in cells()}
    for row in rows("sources"):
        assert row["preset"] in ("", *metrics.PRESETS) and row["caveat"]
        assert any(source.startswith(row["source"]) for source in sources)
