"""A page that is served for a test, and a pair of images to fuse."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """A gray image and one in color, of one scene, 64x80."""
    folder = tmp_path_factory.mktemp("pair")
    rng = np.random.default_rng(0)
    scene = np.kron(rng.integers(0, 256, (8, 10)), np.ones((8, 8))).astype(np.uint8)
    Image.fromarray(255 - scene).save(folder / "warm.png")
    Image.fromarray(np.stack([scene, scene // 2, scene // 3], 2)).save(folder / "seen.png")
    return str(folder / "warm.png"), str(folder / "seen.png")


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """The address and the temporary folder of a page, and the `Page` itself."""
    pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'jfusion[app]'")
    from jfusion.app import serve
    from jfusion.app.page import Page, build

    with serve.temporary_folder() as folder:
        page = Page(folder, max_pixels=1, runs=tmp_path_factory.mktemp("runs"))
        blocks = build(page)
        address = serve.launch(blocks, folder, "127.0.0.1", None, 20)
        yield address, folder, page
        blocks.close(verbose=False)


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; the tests that drive it are skipped where there is none.

    It ends with its file: processes that Jittor forks in a later test would keep its pipe open, and its end
    is waited for.
    """
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="a browser is driven by: pip install playwright"
    )
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser):
    """open_page(address, locale=..., ...) -> a page in a context of its own.

    `page.elsewhere` lists what it asked of other machines, `page.faults` the errors of its scripts.
    """
    contexts = []

    def opened(address, **options):
        options = {"viewport": {"width": 1280, "height": 900}, "locale": "en-US"} | options
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.elsewhere, page.faults = [], []
        own = ("data:", "blob:", address)  # a report is a file, and asks for nothing
        page.on("request", lambda r: r.url.startswith(own) or page.elsewhere.append(r.url))
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
