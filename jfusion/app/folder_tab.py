"""The tab Folder: all pairs of a zip file, or of two folders of this machine."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jfusion.app import archive, fuse_tab
from jfusion.app.folder_job import FolderJob
from jfusion.app.fuse_tab import AT_ONCE, WORK
from jfusion.app.problems import in_a_corner
from jfusion.app.ui import gr
from jfusion.app.words import Words
from jfusion.app.work import Wish
from jfusion.data.layout import check_inputs
from jfusion.errors import UserError

if TYPE_CHECKING:
    from jfusion.app.page import Page


def add(page: Page) -> None:
    """Adds the tab to the page that is being built."""
    text, tab = page.text, Tab(page)
    with gr.Tab(text("folder"), id="folder"):
        packed = gr.File(
            label=text("zip"), file_types=[".zip"], elem_classes="jf-drop", elem_id="jf-zip"
        )
        with gr.Row(visible=page.local):
            a, b = (gr.Textbox(label=text(f"path_{side}"), max_lines=1) for side in "ab")
        with gr.Row():
            task, method = fuse_tab.task_menu(page), fuse_tab.method_menu(page)
        align = gr.Checkbox(label=text("align"))
        with gr.Row():
            go = gr.Button(text("folder_go"), variant="primary", elem_id="jf-folder-go")
            stop = gr.Button(text("stop"), variant="stop", elem_id="jf-stop")
        said = gr.HTML(elem_id="jf-folder")
        download = gr.DownloadButton(text("zip_out"), visible=False, elem_id="jf-zip-out")
        asked = [packed, a, b, task, method, align]
        go.click(tab.fuse, asked, [said, download], api_visibility="private", **WORK)
        stop.click(tab.stop, None, None, api_visibility="private", **AT_ONCE)


class Tab:
    """What happens on the tab; `jobs` are those that run, by the session of the browser."""

    def __init__(self, page: Page):
        self.page = page
        self.jobs: dict[str | None, FolderJob] = {}

    def fuse(
        self,
        packed: str | None,
        a: str,
        b: str,
        task: str,
        method: str,
        align: bool,
        request: gr.Request,
    ) -> Iterator[tuple]:
        """How many pairs are fused, and in the end the results as a zip file with a report."""
        words, nothing = Words.of(request), gr.update(value=None, visible=False)
        yield f'<p class="jf-quiet" role="status">{words("starting")}</p>', nothing
        folder = self.page.fresh_folder()
        try:
            sources = self._sources(packed, a, b, folder, words)
            wish = Wish(task, method, align=align)
            job = FolderJob(
                *sources, folder / "fused", wish, self.page.methods, self.page.max_pixels
            )
            self.jobs[request.session_hash] = job
            try:
                for done in job.watch():
                    yield _progress(words("progress", done=done, count=job.count), job), nothing
            finally:
                self.jobs.pop(request.session_hash, None)
            job.check()
            key = "stopped" if job.stopped else "done"
            lines = "".join(f'<p class="jf-note">{html.escape(line)}</p>' for line in job.said())
            shown = _progress(words(key, done=job.done, count=job.count), job) + lines
            if not job.done:
                yield shown, nothing
                return
            path = archive.pack(job.out, folder / "fused.zip")
            yield shown, gr.update(value=str(path), visible=True)
        except Exception as error:
            yield self.page.problem(error, words, packed), nothing

    def _sources(
        self, packed: str | None, a: str, b: str, folder: Path, words: Words
    ) -> tuple[Path, Path]:
        """The two folders: those of the zip file, or those of this machine that were named."""
        if packed:
            return archive.unpack(packed, folder / "images")
        a, b = (a or "").strip(), (b or "").strip()
        if not (a and b):
            raise UserError(words("needs_folder"))
        if not self.page.local:
            raise UserError("folders of this machine are read for its own browsers alone")
        paths = check_inputs(Path(a).expanduser().absolute(), Path(b).expanduser().absolute())
        if not paths[0].is_dir():
            raise UserError(words("needs_folder"))
        return paths

    @in_a_corner
    def stop(self, request: gr.Request) -> None:
        """Stops the job of this browser; what is fused can be downloaded."""
        job = self.jobs.get(request.session_hash)
        if job is not None:
            job.stop()


def _progress(text: str, job: FolderJob) -> str:
    said = html.escape(text)
    return (
        f'<p class="jf-note" role="status">{said}</p>'
        f'<progress class="jf-progress" value="{job.done}" max="{max(job.count, 1)}" aria-label="{said}">'
        "</progress>"
    )
