"""The report in both languages."""

from __future__ import annotations

import json
import re
import string

import numpy as np
import pytest

from jfusion.data.image import read_rgb
from jfusion.parity import report
from jfusion.parity.cases import CASES
from jfusion.parity.compare import Difference, Names
from jfusion.parity.session import Parity, Setup, Stage
from jfusion.parity.texts import LANGUAGES, TEXTS


def parity(recorded=False):
    layers = [Difference(f"layer{i}", (2, 3), 1e-6 * (i + 1), 2.0, 1e-7) for i in range(4)]
    gradients = [
        Difference("a.weight", (3,), 1e-5, 1.0, 2e-6),
        Difference("zero.bias", (3,), 1e-12, 1e-12, 1.0),
    ]
    sides = [{"losses": [2.0, x], "seconds": [9.0, y]} for x, y in ((1.0, 0.5), (1.001, 2.0))]
    environment = dict.fromkeys(("framework", "code", "processor"), ("ours 1", "theirs 2"))
    data = {"weights": None, "data": None, "batch": {"a": [2, 1, 32, 40]}, "shape": [2, 1, 32, 40]}
    ours, theirs = (
        {"forward_seconds": [s], "fuse_seconds": [9.0, s], "memory": s} for s in (0.25, 1.0)
    )
    theirs |= {"code": "authors/repo abc", "versions": {"torch": "2.9"}, "recorded": "2026-01-02"}
    return Parity(
        Setup("film", steps=2, reference=None if recorded else "dir"),
        CASES["film"],
        recorded,
        environment,
        {**data, "pairs": 2, "parameters": 1234567},
        Names({"a.weight": [3], "b": []}, theirs={"c": [4]}),
        layers,
        [Stage("fusion", 1e-4, *sides, gradients)],
        {"EN": (7.0, 7.25)},
        (0.001, 1.0),
        ours,
        theirs,
        "2026-01-03",
    )


def test_both_languages_say_the_same():
    assert TEXTS.keys() == LANGUAGES.keys()
    english, *others = TEXTS.values()
    for other in others:
        assert other.keys() == english.keys()
        for key in english:
            ours, theirs = (
                {field for _, field, *_ in string.Formatter().parse(text[key]) if field}
                for text in (english, other)
            )
            assert ours == theirs, key
    assert {f"note_{name}" for name in CASES} <= english.keys()


def test_the_report_has_the_form_of_a_ports_readme(tmp_path):
    paths = report.write(parity(), tmp_path, "jfusion parity film")
    assert [path.name for path in paths] == [
        "report.md",
        "report.html",
        "report.zh.md",
        "report.zh.html",
        "parity.json",
    ]
    english, chinese = (paths[i].read_text(encoding="utf-8") for i in (0, 2))
    headings = re.findall(r"^## (.*)$", english, re.M)
    assert headings == [
        "In short",
        "Environment",
        "Data",
        "Training",
        "Testing",
        "Aligned log",
        "Performance log",
    ]
    assert re.findall(r"^## (.*)$", chinese, re.M)[1:] == [
        "环境",
        "数据",
        "训练",
        "测试",
        "对齐日志",
        "性能日志",
    ]
    assert "| 2 | 1 | 1.001 | 1.0e-03 |" in english and "| 2 | 1 | 1.001 | 1.0e-03 |" in chinese
    assert "| EN | 7.0000 | 7.2500 | -2.5e-01 |" in english
    assert "1 more are zero up to rounding" in english and "zero.bias" not in english
    assert "Only in the authors' code: `c` [4]" in english
    assert "| training step, fusion (s) | 0.5 | 2 | 0.25 |" in english
    assert json.loads(paths[-1].read_text())["metrics"] == {"EN": [7.0, 7.25]}


def test_pictures_are_next_to_the_report_and_inside_the_page(tmp_path):
    report.write(parity(), tmp_path, "jfusion parity film")
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    names = re.findall(r"!\[[^]]*\]\((.*?)\)", text)
    assert names == ["layers.png", "losses_fusion.png"]
    for name in names:
        assert np.ptp(read_rgb(tmp_path / name)) > 100
    page = (tmp_path / "report.zh.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 2 and '<html lang="zh-CN">' in page
    assert 'href="report.html"' in page and "{" not in page.split("</style>")[1].split("<img")[0]


@pytest.mark.parametrize("language", LANGUAGES)
def test_recorded_figures_are_called_so(language):
    text = report.markdown(report.document(parity(recorded=True), language, "jfusion parity film"))
    assert "2026-01-02" in text and "authors/repo abc" in text
    assert TEXTS[language]["performance_recorded"][:8] in text


def test_the_terminal_gets_the_summary():
    lines = report.lines(parity())
    assert "- Stage fusion: the loss differs by 0 at the first step and by at most 1.0e-03" in (
        lines[3][:82] + lines[3][82:90]
    )
    assert (
        lines[-1]
        == "- A training step takes 0.25 of the authors' time, at 0.25 of their peak memory."
    )
    assert report.lines(parity(recorded=True))[0].startswith("PyTorch was not run")
