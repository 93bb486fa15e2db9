"""The tab Runs: the curves, previews and settings of the training runs in a folder."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jfusion.app.problems import in_a_corner
from jfusion.app.ui import gr
from jfusion.app.words import Words
from jfusion.app.work import without_paths
from jfusion.errors import UserError
from jfusion.report import charts, curves
from jfusion.runs import Run, runs_in

if TYPE_CHECKING:
    from jfusion.app.page import Page

DPI = 110
# A look at the runs does not wait for a job that fuses.
LOOK: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "look"}


def add(page: Page) -> None:
    """Adds the tab to the page that is being built; runs are looked for when it is chosen."""
    text, tab = page.text, Tab(page)
    with gr.Tab(text("runs"), id="runs") as chosen:
        with gr.Row():
            run = gr.Dropdown([], label=text("run"), elem_id="jf-run", scale=4)
            again = gr.Button(text("refresh"), scale=1)
        shown = gr.HTML(elem_id="jf-curves")
    gr.on(
        [chosen.select, again.click], tab.look, run, [run, shown], api_visibility="private", **LOOK
    )
    run.input(tab.show, run, shown, api_visibility="private", **LOOK)


class Tab:
    """What happens on the tab."""

    def __init__(self, page: Page):
        self.page = page

    @in_a_corner
    def look(self, before: str | None, request: gr.Request) -> tuple:
        """The names of the runs, newest first, and the curves of the one that was shown, or the newest."""
        names = [run.folder.name for run in runs_in(self.page.runs)]
        name = before if before in names else next(iter(names), None)
        return gr.update(choices=names, value=name), self.show(name, request)

    def show(self, name: str | None, request: gr.Request) -> str:
        """The curves and previews of a run, and its settings, in which files have their names alone."""
        words = Words.of(request)
        try:
            runs = {run.folder.name: run for run in runs_in(self.page.runs)}
            if name not in runs:
                raise UserError(words("no_runs"))
            return _figure(runs[name], words) + _settings(runs[name], words)
        except Exception as error:
            return self.page.problem(error, words)


def _figure(run: Run, words: Words) -> str:
    frames = curves.frames_of(run)
    with charts.style():
        figure = curves.draw([run], curves.columns([run]), 0, {run: frames} if frames else {})
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=DPI)
    data = base64.b64encode(stream.getvalue()).decode()
    alt = html.escape(words("curves", run=run.folder.name))
    return f'<img class="jf-figure" alt="{alt}" src="data:image/png;base64,{data}">'


def _without_folders(value: str) -> str:
    """A setting without the folders of this machine."""
    return Path(value).name if value.startswith("/") else without_paths(value)


def _settings(run: Run, words: Words) -> str:
    rows = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(_without_folders(value))}</td></tr>'
        for name, (value,) in curves.settings([run]).items()
    )
    return (
        f'<div class="jf-scroll" tabindex="0" role="region" aria-label="{words("setting")}">'
        f'<table class="jf-values jf-card"><caption>{words("setting")}</caption><tbody>{rows}</tbody>'
        "</table></div>"
    )
