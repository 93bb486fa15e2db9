"""The tab Compare: one pair, fused by several methods, side by side."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from jfusion.app import fuse_tab, work
from jfusion.app.fuse_tab import WORK
from jfusion.app.methods import without_weights
from jfusion.app.ui import gr
from jfusion.app.words import Words
from jfusion.app.work import Wish
from jfusion.data import image
from jfusion.errors import UserError
from jfusion.metrics import METRICS
from jfusion.metrics.table import Table
from jfusion.report import viewer
from jfusion.report.page import means_table

if TYPE_CHECKING:
    from jfusion.app.page import Page

MOST = 6  # methods


def add(page: Page) -> None:
    """Adds the tab to the page that is being built."""
    text, tab = page.text, Tab(page)
    names = page.methods.names
    with gr.Tab(text("compare"), id="compare"):
        with gr.Row():
            a = gr.File(label=text("image_a"), elem_classes="jf-drop", elem_id="jf-compare-a")
            b = gr.File(label=text("image_b"), elem_classes="jf-drop", elem_id="jf-compare-b")
        with gr.Row(elem_classes="jf-examples"):
            fuse_tab.example_buttons(page, [a, b])
        task = fuse_tab.task_menu(page)
        chosen = gr.CheckboxGroup(
            names,
            value=[n for n in names if n in without_weights()][:MOST],
            label=text("methods"),
            elem_id="jf-methods",
        )
        go = gr.Button(text("compare_go"), variant="primary", elem_id="jf-compare-go")
        shown = gr.HTML(elem_id="jf-compared")
        go.click(tab.compare, [a, b, task, chosen], shown, api_visibility="private", **WORK)


class Tab:
    """What happens on the tab."""

    def __init__(self, page: Page):
        self.page = page

    def compare(
        self,
        a: str | None,
        b: str | None,
        task: str,
        chosen: list[str],
        request: gr.Request,
    ) -> Iterator[str]:
        """The images side by side, one more with each method, and then the table of metrics.

        A method that fails has a line in place of its image.
        """
        words = Words.of(request)
        images: dict[str, np.ndarray] = {}
        values: dict[str, Mapping[str, float]] = {}
        problems: list[str] = []
        try:
            if not (a and b):
                raise UserError(words("both"))
            if not 0 < len(chosen) <= MOST:
                raise UserError(words("some"))
            reader = image.Reader(max_pixels=self.page.max_pixels)
            for side, path in (("A", a), ("B", b)):
                image.header(path, reader.most)
                images[side] = reader.rgb(path)
        except Exception as error:
            yield self.page.problem(error, words, a, b)
            return
        for i, method in enumerate(chosen):
            said = words("working", method=method, done=i, count=len(chosen))
            yield self._view(images, values, problems, words, said)
            try:
                fused = self._fused(a, b, Wish(task, method))
                values[method] = work.evaluate(fused, self.page.max_pixels).values
                images[method] = image.read_rgb(fused.result)
            except Exception as error:
                line = self.page.line(error, words, a, b)
                problems.append(
                    f'<p class="jf-problem" role="alert">{html.escape(f"{method}: {line}")}</p>'
                )
        yield self._view(images, values, problems, words, "")

    def _fused(self, a: str, b: str, wish: Wish) -> work.Fused:
        page = self.page
        return work.fuse_pair(a, b, wish, page.methods, page.fresh_folder(), page.max_pixels)

    def _view(
        self,
        images: Mapping[str, np.ndarray],
        values: Mapping[str, Mapping[str, float]],
        problems: list[str],
        words: Words,
        said: str,
    ) -> str:
        height, width = list(images.values())[-1].shape[:2]
        sized = {name: image.resample(as_rgb(x), height, width) for name, x in images.items()}
        labels = viewer.Labels(zoom=words("zoom"), grid=words("grid"))
        status = f'<p class="jf-quiet" role="status">{html.escape(said)}</p>' if said else ""
        table = metrics_table(values, words) if values else ""
        return viewer.grid(sized, labels=labels) + status + table + "".join(problems)


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """An image (H, W) or (H, W, 3) uint8 as (H, W, 3)."""
    return np.repeat(pixels[..., None], 3, 2) if pixels.ndim == 2 else pixels


def metrics_table(values: Mapping[str, Mapping[str, float]], words: Words) -> str:
    """The metrics of several methods as a table; the best in bold, the second best underlined."""
    columns = list(next(iter(values.values())))
    table = Table(columns, {c for c in columns if not METRICS[c].higher_is_better})
    for method, row in values.items():
        table.add(method, row, ranked=True)
    return means_table(table, words("values"))
