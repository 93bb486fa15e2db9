"""The page in a real browser: the main way through each tab, what it loads, and how it looks to all."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHOWN = "#jf-result .jf-stage"


def choose(page, pair):
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
