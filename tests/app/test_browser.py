"""The page in a real browser: the main way through each tab, what it loads, and how it looks to all."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jfusion.app.words import Words
from jfusion.cli import main

SHOWN = "#jf-result .jf-stage"
OF_GRADIO = {"image-redundant-alt"}  # what axe finds in Gradio's own parts: an icon of its footer


def choose(page, pair, method="laplacian", label="Method"):
    """Puts the pair into the fields, and chooses a method that starts no Jittor."""
    page.get_by_label(label).first.click()
    page.get_by_role("option", name=method).click()
    for field, path in zip(("#jf-a", "#jf-b"), pair, strict=True):
        page.set_input_files(f"{field} input[type=file]", path)


def shot(page, selector):
    """What is seen of an element, (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(page.locator(selector).screenshot())).convert("RGB"))


def test_two_images_are_fused_compared_and_downloaded(served, open_page, pair, tmp_path):
    page = open_page(served[0])
    page.wait_for_selector("#jf-go")
    choose(page, pair)
    page.wait_for_selector(".jf-thumbs figure >> nth=1")
    assert "Task IVF" in page.inner_text(".jf-note")
    page.click("#jf-go")
    page.wait_for_selector(SHOWN)
    page.wait_for_selector("#jf-judged table")
    assert "Qabf" in page.inner_text("#jf-judged")
    middle = shot(page, SHOWN)
    page.focus(f"{SHOWN} input")
    page.keyboard.press("End")  # the left image covers all
    left = shot(page, SHOWN)
    page.keyboard.press("Home")
    right = shot(page, SHOWN)
    half, quarter = middle.shape[1] // 2, middle.shape[1] // 4
    rows = slice(10, middle.shape[0] // 3)
    assert np.array_equal(middle[rows, 10:quarter], left[rows, 10:quarter])
    assert np.array_equal(middle[rows, half + quarter :], right[rows, half + quarter :])
    assert not np.array_equal(left, right)
    with page.expect_download() as download:
        page.click("#jf-download")
    download.value.save_as(tmp_path / "fused.png")
    assert Image.open(tmp_path / "fused.png").size == (80, 64)
    assert page.elsewhere == [] and page.faults == []
    html = page.content()
    assert str(served[1]) not in html and str(Path(pair[0]).parent) not in html


def test_an_image_is_pasted(served, open_page, pair):
    page = open_page(served[0])
    page.wait_for_selector("#jf-a input[type=file]", state="attached")
    page.evaluate(
        """async (bytes) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "image.png", {type: "image/png"}));
            document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true}));
        }""",
        list(Path(pair[0]).read_bytes()),
    )
    page.wait_for_selector(".jf-thumbs figure")


@pytest.mark.parametrize("bad", ["text.png", "large.png"])
def test_a_bad_file_gives_one_line(served, open_page, pair, tmp_path, bad):
    if bad == "text.png":
        (tmp_path / bad).write_bytes(b"<script>alert(1)</script>")
    else:
        Image.fromarray(np.zeros((1100, 1000), np.uint8)).save(tmp_path / bad)
    page = open_page(served[0])
    choose(page, (str(tmp_path / bad), pair[1]))
    page.wait_for_selector(".jf-problem")
    page.click("#jf-go")
    page.wait_for_selector("#jf-result .jf-problem")
    said = page.inner_text("#jf-result .jf-problem")
    assert bad in said and "/" not in said.replace(bad, "") and "\n" not in said
    assert page.faults == []


def test_the_page_speaks_chinese(served, open_page):
    page = open_page(served[0], locale="zh-CN", color_scheme="dark")
    page.wait_for_selector("#jf-go")
    assert page.inner_text("#jf-go") == "开始融合"
    page.click("#jf-go")
    page.wait_for_selector("#jf-result .jf-problem")
    assert page.inner_text("#jf-result .jf-problem") == "请选择两幅图像 A 和 B。"


def test_methods_are_compared_with_one_zoom(served, open_page, pair):
    page = open_page(served[0])
    page.get_by_role("tab", name="Compare").click()
    for field, path in zip(("#jf-compare-a", "#jf-compare-b"), pair, strict=True):
        page.set_input_files(f"{field} input[type=file]", path)
        page.locator(field).get_by_text("KB").or_(
            page.locator(field).get_by_text(" B")
        ).first.wait_for()
    page.click("#jf-compare-go")
    page.wait_for_function("document.querySelectorAll('#jf-compared .jf-window').length === 7")
    page.wait_for_selector("#jf-compared table")
    page.locator("#jf-compared .jf-zoom").fill("4")
    page.focus("#jf-compared .jf-grid")
    page.keyboard.press("ArrowRight")
    moved = page.eval_on_selector_all(
        "#jf-compared .jf-window img",
        "all => [...new Set(all.map(x => getComputedStyle(x).transform))]",
    )
    assert len(moved) == 1 and moved[0].startswith("matrix(4, 0, 0, 4, -")
    assert page.faults == [] and page.elsewhere == []


def test_a_zip_file_comes_back_as_one(served, open_page, pair, tmp_path):
    with zipfile.ZipFile(tmp_path / "pairs.zip", "w") as file:
        for folder, path in zip(("ir", "vi"), pair, strict=True):
            for name in ("1", "2"):
                file.write(path, f"{folder}/{name}.png")
    page = open_page(served[0])
    page.get_by_role("tab", name="Folder").click()
    page.set_input_files("#jf-zip input[type=file]", tmp_path / "pairs.zip")
    page.locator("#jf-zip").get_by_text("pairs").first.wait_for()
    page.click("#jf-folder-go")
    page.get_by_text("Done: 2 of 2").wait_for()
    with page.expect_download() as download:
        page.click("#jf-zip-out")
    download.value.save_as(tmp_path / "fused.zip")
    assert zipfile.ZipFile(tmp_path / "fused.zip").namelist() == ["1.png", "2.png", "report.html"]


def test_results_cards_and_runs_are_shown(served, open_page):
    page = open_page(served[0])
    page.get_by_role("tab", name="Results").click()
    page.get_by_text("film-ivf").first.wait_for()
    page.get_by_role("tab", name="Runs").click()
    page.wait_for_selector("#jf-curves .jf-problem")
    assert "no run yet" in page.inner_text("#jf-curves")
    run(served[2].runs / "first", 12)
    page.get_by_role("button", name="Look again").click()
    page.wait_for_selector("#jf-curves img")
    shown = page.inner_text("#jf-curves table")
    assert "film" in shown and "train.h5" in shown and "/home" not in shown
    assert page.faults == [] and page.elsewhere == []


def run(folder, steps):
    """A run that has logged some steps."""
    folder.mkdir()
    record = {"system": "film", "dataset": "Demo", "config": {"epochs": 3}}
    record["options"] = {"data": "/home/me/train.h5"}
    (folder / "config.json").write_text(json.dumps(record))
    lines = [f"{i},{1 / (i + 1)}" for i in range(steps)]
    (folder / "metrics.csv").write_text("\n".join(["step,total", *lines]) + "\n")


@pytest.mark.parametrize(
    ("scheme", "width", "locale"), [("light", 1280, "en-US"), ("dark", 390, "zh-CN")]
)
def test_the_page_is_accessible(served, open_page, pair, scheme, width, locale):
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright",
        reason="accessibility is checked by: pip install axe-playwright-python",
    )
    viewport = {"width": width, "height": 844}
    words = Words(locale[:2])
    page = open_page(served[0], color_scheme=scheme, viewport=viewport, locale=locale)
    page.wait_for_selector("#jf-go")
    choose(page, pair, label=words("method"))
    page.wait_for_selector(".jf-thumbs figure >> nth=1")
    page.click("#jf-go")
    page.wait_for_selector("#jf-judged table")
    for tab in ("fuse", "compare", "folder", "results", "runs"):
        page.get_by_role("tab", name=words(tab), exact=True).click()
        page.wait_for_timeout(1500)  # colors fade into each other
        found = axe.Axe().run(page).response["violations"]
        assert [
            (v["id"], v["nodes"][0]["html"]) for v in found if v["id"] not in OF_GRADIO
        ] == [], tab


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(served, open_page, width):
    page = open_page(served[0], viewport={"width": width, "height": 844})
    page.wait_for_selector("#jf-go")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_report_works_without_a_server(open_page, pair, tmp_path):
    for folder, path in zip(("ir", "vi"), pair, strict=True):
        (tmp_path / folder).mkdir()
        for name in ("1", "2", "10"):
            shutil.copy(path, tmp_path / folder / f"{name}.png")
    folders = [str(tmp_path / folder) for folder in ("ir", "vi")]
    # without Jittor: the processes that it forks would keep the browser's pipe open, and its end is waited for
    method = ["--method", "laplacian"]
    assert main(["fuse", *folders, "-o", str(tmp_path / "out"), "--report", *method]) == 0
    page = open_page((tmp_path / "out/report.html").as_uri())
    page.focus(".jf-stage input")
    middle = shot(page, ".jf-stage >> nth=0")
    page.keyboard.press("End")
    assert not np.array_equal(middle, shot(page, ".jf-stage >> nth=0"))
    names = "table.jf-sorted tbody th"
    page.get_by_role("button", name="image").click()
    assert page.locator(names).all_inner_texts() == ["1", "2", "10"]
    page.get_by_role("button", name="image").click()
    assert page.locator(names).all_inner_texts() == ["10", "2", "1"]
    assert page.elsewhere == [] and page.faults == []
    chinese = open_page((tmp_path / "out/report.html").as_uri(), locale="zh-CN")
    assert chinese.inner_text("h2 >> nth=0") == "平均值"
