"""The results page: measured once, resumable, with ranks, warnings, published rows and bars."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from jfusion import weights
from tests.commands.test_preprocess import make_dataset, random_pair
from tests.weights.test_weights import ship

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """The two modules, whose files are in a temporary folder."""
    monkeypatch.syspath_prepend(str(TOOLS))
    measure, page = (importlib.import_module(f"results_{name}") for name in ("measure", "page"))
    folder = tmp_path / "results"
    folder.mkdir()
    monkeypatch.setattr(measure, "FOLDER", folder)
    monkeypatch.setattr(page, "FOLDER", folder)
    monkeypatch.setattr(weights, "FOLDER", tmp_path)  # no weights, but for those that a test ships
    yield measure, page
    for name in ("results_measure", "results_page"):
        sys.modules.pop(name)


@pytest.fixture
def root(tmp_path):
    pairs = {"one": random_pair(1, (40, 48)), "two": random_pair(2, (36, 50))}
    make_dataset(tmp_path, pairs, dataset="RoadScene")
    return tmp_path


def test_what_is_there_is_not_measured_again(tools, root, monkeypatch):
    measure, _ = tools
    of = measure.SETS[0]
    measure.measure(root, of, None)
    rows = list(csv.DictReader(of.file.open()))
    assert len(rows) == 2 * len(measure.BASELINES) and set(rows[0]) == set(measure.HEAD)
    assert float(rows[0]["CC_A"]) > 0 and float(rows[0]["clipped"]) == 0
    text = of.file.read_text()
    of.file.write_text("".join(text.splitlines(True)[:-1]))  # it was stopped before the last one
    with monkeypatch.context() as patch:
        calls = []
        evaluate = measure.metrics.evaluate
        patch.setattr(measure.metrics, "evaluate", lambda *a: calls.append(a) or evaluate(*a))
        measure.measure(root, of, None)
    assert of.file.read_text() == text and len(calls) == 1


def test_rows_of_weights_that_have_changed_are_dropped(tools, tmp_path):
    measure, _ = tools
    of = measure.SETS[0]
    version = ship(tmp_path)["file"]["sha256"][:12]
    values = dict.fromkeys(measure.HEAD, "1")
    found = [
        {**values, "method": m, "version": v}
        for m, v in (("tiny-ivf", version), ("tiny-ivf", "0"), ("guided", ""), ("gone", "1"))
    ]
    of.file.write_text("".join(measure._lines(found)))
    kept = [(row["method"], row["version"]) for row in measure.rows(of)]
    assert kept == [("tiny-ivf", version), ("guided", "")]


def test_the_page_has_ranks_warnings_and_published_rows(tools, root):
    measure, page = tools
    of = measure.SETS[0]
    measure.measure(root, of, None)
    text = "\n".join(
        page._section(of, {"RoadScene": ["A remark."], "RoadScene same scene": ["two"]})
    )
    assert "| average (2) |" in text and "| average (1) |" in text and "A remark." in text
    assert "FILM, published (IF-FILM README.md" in text and "the best other in" in text
    assert "The 1 pairs that show no place" in text
    mean = page._means(of)
    assert sum(v[page.RANK] for v in mean.values()) == pytest.approx(15)  # 1 + 2 + 3 + 4 + 5


def test_a_network_that_lacks_an_image_is_left_out(tools, tmp_path):
    measure, page = tools
    of = measure.SETS[0]
    version = ship(tmp_path)["file"]["sha256"][:12]
    row = dict.fromkeys(measure.HEAD, 0.25)
    found = [
        {**row, "method": method, "version": "", "image": name}
        for method in measure.BASELINES
        for name in ("x", "y")
    ]
    found.append({**row, "method": "tiny-ivf", "version": version, "image": "x"})
    of.file.write_text("".join(measure._lines(found)))
    assert list(page._values(of)) == list(measure.BASELINES)
    assert "tiny-ivf" in page._values(of, ["y"])


def test_equal_values_share_their_rank(tools):
    _, page = tools
    mean = {"a": {"EN": 2.0, "SD": 1.0}, "b": {"EN": 2.0, "SD": 3.0}, "c": {"EN": 1.0, "SD": 2.0}}
    assert page._ranks(mean, ["EN", "SD"]) == {"a": 2.25, "b": 1.25, "c": 2.5}


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_a_bar_is_the_whole_row(tools, tmp_path, factor):
    measure, page = tools
    of = measure.SETS[0]
    version = ship(tmp_path)["file"]["sha256"][:12]
    row = dict(page._published(of))["FILM, published (IF-FILM README.md)"]
    low = dict.fromkeys(measure.HEAD, 0.0)
    ours = {**low, **{k: factor * v for k, v in row.items()}, "CC_A": 0.5, "CC_B": 0.5}
    found = [
        {**ours, "method": "tiny-ivf", "version": version, "image": "x"},
        *({**low, "method": m, "version": "", "image": "x"} for m in measure.BASELINES),
    ]
    of.file.write_text("".join(measure._lines(found)))
    words = page._bar("tiny-ivf", "film", of)
    assert words == "yes" if factor == 1 else "below 0.95 of FILM's row in EN 3.7" in words


def test_what_was_measured_is_written_on_the_card(tools, tmp_path):
    measure, page = tools
    of = measure.SETS[0]
    version = ship(tmp_path)["file"]["sha256"][:12]
    row = dict.fromkeys(measure.HEAD, 0.25)
    versions = {**dict.fromkeys(measure.BASELINES, ""), "tiny-ivf": version}
    found = [
        {**row, "method": method, "version": v, "image": name}
        for method, v in versions.items()
        for name in ("x", "y")
    ]
    of.file.write_text("".join(measure._lines(found)))
    page._update_card("tiny-ivf")
    (measured,) = weights.card("tiny-ivf")["measured"]
    assert (measured["set"], measured["pairs"], measured["values"]["EN"]) == ("RoadScene", 2, 0.25)
    measured["date"] = "2026-01-02"
    card = {**weights.card("tiny-ivf"), "measured": [measured]}
    (tmp_path / "tiny-ivf.json").write_text(json.dumps(card))
    page._update_card("tiny-ivf")  # nothing was measured since: the date stays
    assert weights.card("tiny-ivf")["measured"][0]["date"] == "2026-01-02"


@pytest.mark.parametrize("task", ["IVF", "MIF"])
def test_pairs_that_may_be_shown_are_simulated(tools, task):
    _, page = tools
    for a, b in page._shown_pairs(task):
        assert a.shape == b.shape and a.dtype == np.uint8
        assert not np.array_equal(a, b)
