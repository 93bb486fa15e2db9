"""Reports: one HTML file that needs no other."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from jfusion.cli import main
from jfusion.metrics.table import Table
from jfusion.report import page
from jfusion.report.comparison import Comparison
from jfusion.report.page import Shot, from_worst
from jfusion.report.table import Block

NAMES = [f"{i}<x>" for i in range(8)]


def comparison(methods=("ours", "B&B")):
    values = {
        m: {n: {"EN": float(i + j), "SD": 2.0 * i} for i, n in enumerate(NAMES)}
        for j, m in enumerate(methods)
    }
    return Comparison("film", ["EN", "SD"], {"TNO": values})


def shots(names=NAMES, side=20):
    rng = np.random.default_rng(0)
    images = {k: rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for k in ("A", "B", "fused")}
    return [Shot("TNO", name, lambda: images) for name in names]


def made(tmp_path, **more):
    data = comparison()
    options = {"blocks": [Block("TNO", data.table("TNO"))], "comparison": data, "shots": shots()}
    return page.write(tmp_path / "r.html", "a < b", **(options | more)).read_text(encoding="utf-8")


def test_the_page_is_whole_escaped_and_asks_nobody(tmp_path):
    text = made(tmp_path, notes=["x < y"], settings={"seed": 3, "weights": None})
    assert '<th scope="row">B&amp;B</th><td><b>4.50</b></td>' in text
    assert "<li>x &lt; y</li>" in text and "<title>a &lt; b</title>" in text
    assert ">3</td>" in text and "weights" not in text and "NumPy" in text
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text) and "http" not in text
    assert text.count('class="jf-viewer"') == len(NAMES) and text.count("<article>") == len(NAMES)
    assert "<x>" not in text


def test_the_worst_and_the_best_pairs_come_first(tmp_path):
    assert from_worst(comparison(), "TNO") == NAMES
    titles = re.findall(r"<h3>(\d).*?</h3>", made(tmp_path))
    assert titles == list("01276534")
    lower = Comparison("film", ["MSE"], {"s": {"m": {n: {"MSE": float(n[0])} for n in NAMES}}})
    assert from_worst(lower, "s") == NAMES[::-1]


def test_pairs_for_which_there_is_no_room_are_linked(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "ROOM", 30_000)
    files = {"fused": tmp_path / "a b" / "ö#.png"}
    linked = [Shot(s.set, s.name, s.read, files) for s in shots(side=60)]
    text = made(tmp_path, shots=linked)
    assert 0 < text.count('class="jf-viewer"') < len(NAMES) and "no room" in text
    assert text.count('href="a%20b/%C3%B6%23.png"') == len(NAMES)


def test_fifty_pairs_stay_below_20_megabytes(tmp_path):
    rng = np.random.default_rng(0)  # noise, the worst for JPEG
    images = {k: rng.integers(0, 256, (640, 640, 3), dtype=np.uint8) for k in ("A", "fused")}
    many = [Shot("TNO", f"{i}", lambda: images) for i in range(50)]
    assert len(made(tmp_path, shots=many)) < 20e6


def test_values_that_are_not_defined_are_dashes(tmp_path):
    values = {"ours": {"x": {"EN": 1.0, "SD": float("nan")}, "y": {"EN": 2.0, "SD": 1.0}}}
    data = Comparison("film", ["EN", "SD"], {"TNO": values})
    text = made(tmp_path, comparison=data, blocks=[Block("", Table(["EN"]))], shots=[])
    assert "<td>-</td>" in text and '<h2><span data-zh="图像对"' not in text


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        a, b = rng.integers(0, 256, (2, 40, 50), dtype=np.uint8)
        for folder, pixels in (("ir", a), ("vi", np.stack([b, b // 2, b // 3], 2))):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / f"{name}.png")
    return tmp_path


def test_fuse_writes_a_report_also_of_results_that_were_there(folders, capsys):
    command = ["fuse", str(folders / "ir"), str(folders / "vi"), "-o", str(folders / "out")]
    assert main([*command, "--method", "average", "--report"]) == 0
    assert "report.html" in capsys.readouterr().out
    text = (folders / "out/report.html").read_text(encoding="utf-8")
    assert text.count("<article>") == 2 and 'href="../ir/one.png"' in text
    assert str(folders) not in text and ">average</td>" in text and "Qabf" in text
    (folders / "out/one.png").unlink()
    assert main([*command, "--method", "average", "--report"]) == 0
    again = (folders / "out/report.html").read_text(encoding="utf-8")
    assert again.count("<article>") == 2
    assert "1 result there before, perhaps of another method" in again and ">results</td>" in again
    (folders / "out/report.html").unlink()
    assert main([*command, "--method", "average", "--report"]) == 0
    assert (folders / "out/report.html").exists()
    (folders / "out/report.html").write_text("my own")
    (folders / "out/one.png").unlink()
    assert main([*command, "--method", "average", "--report"]) == 2
    assert (
        "which is no report" in capsys.readouterr().err and not (folders / "out/one.png").exists()
    )


def test_metrics_writes_a_report_of_several_methods(folders):
    for method in ("average", "maximum"):
        out = str(folders / method)
        main(["fuse", str(folders / "ir"), str(folders / "vi"), "-o", out, "--method", method])
    sources = ["--a", str(folders / "ir"), "--b", str(folders / "vi")]
    fused = ["--fused", str(folders / "average"), str(folders / "maximum")]
    assert main(["metrics", *sources, *fused, "--html", str(folders / "m.html")]) == 0
    text = (folders / "m.html").read_text(encoding="utf-8")
    assert text.count("<article>") == 2 and text.count("<option>maximum</option>") == 2
    assert "<b>" in text and "jf-chart" in text


def test_fuse_refuses_a_report_of_volumes_or_clips(folders, capsys):
    command = ["fuse", str(folders / "ir"), str(folders / "vi"), "-o", "x.mp4", "--report"]
    assert main(command) == 2 and "--report is for images" in capsys.readouterr().err
