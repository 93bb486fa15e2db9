"""The page: what stands on it. Each tab is a module of its own, with a function `add`."""

from __future__ import annotations

import html
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jfusion.app import compare_tab, folder_tab, fuse_tab, results_tab, runs_tab
from jfusion.app.methods import Methods
from jfusion.app.ui import gr
from jfusion.app.words import Words, translations
from jfusion.app.work import one_line
from jfusion.report import viewer

STYLE = viewer.STYLE + (Path(__file__).with_name("page.css")).read_text(encoding="utf-8")
HEAD = f"<script>{viewer.SCRIPT}{Path(__file__).with_name('page.js').read_text(encoding='utf-8')}</script>"


@dataclass
class Page:
    """What all tabs share.

    folder: the temporary folder. methods: what can be chosen. max_pixels: megapixels of an image, at
    most. local: whether only this machine reaches the page, so that it may read folders of this machine.
    """

    folder: Path
    methods: Methods = field(default_factory=Methods)
    max_pixels: float = 100.0
    local: bool = True
    runs: Path = Path("exp")
    text: Callable[[str], Any] = str  # key -> a text that Gradio shows in the browser's language

    def fresh_folder(self) -> Path:
        """A new folder for the files of one job."""
        path = self.folder / "jobs" / uuid.uuid4().hex
        path.mkdir(parents=True)
        return path

    def line(self, error: Exception, words: Words, *files: str | None) -> str:
        """An error in one line, in which the uploaded `files` have their names."""
        return one_line(error, {file: Path(file).name for file in files if file}, words("fault"))

    def problem(self, error: Exception, words: Words, *files: str | None) -> str:
        """An error as the page shows it: `line`, where the answer would stand."""
        text = html.escape(self.line(error, words, *files))
        return f'<p class="jf-problem" role="alert">{text}</p>'


def build(page: Page) -> Any:
    """The page, ready to be served."""
    page.text = translated()
    with gr.Blocks(title="jfusion", analytics_enabled=False, fill_width=False) as blocks:
        gr.Markdown("# jfusion")
        gr.Markdown(page.text("intro"))
        with gr.Tabs():
            fuse_tab.add(page)
            for tab in (compare_tab, folder_tab, results_tab, runs_tab):
                tab.add(page)
    blocks.queue(max_size=32, default_concurrency_limit=1)
    return blocks


def translated() -> Any:
    """Gradio's translations of the texts of the page."""
    return gr.I18n(**translations())


def theme() -> Any:
    """One quiet style, with the fonts that the machine has."""
    fonts = gr.themes.Font
    sans = [fonts(name) for name in ("system-ui", "Noto Sans", "Noto Sans CJK SC", "sans-serif")]
    mono = [fonts(name) for name in ("ui-monospace", "monospace")]
    base = gr.themes.Base(primary_hue="blue", neutral_hue="slate", font=sans, font_mono=mono)
    strong = {"button_primary_background_fill": "#1d4ed8", "button_primary_text_color": "#ffffff"}
    quiet = {"body_text_color_subdued": "#475569", "input_placeholder_color": "#475569"}
    quiet |= {f"{key}_dark": "#cbd5e1" for key in quiet}
    hover = {"button_primary_background_fill_hover": "#1e40af"}
    return base.set(
        **strong, **hover, **quiet, **{f"{key}_dark": v for key, v in (strong | hover).items()}
    )
