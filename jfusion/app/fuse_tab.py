"""The tab Fuse: two images, what fuses them, and the result next to them."""

from __future__ import annotations

import html
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jfusion.app import examples, work
from jfusion.app.methods import AUTO
from jfusion.app.problems import in_a_corner
from jfusion.app.ui import gr
from jfusion.app.words import Words
from jfusion.app.work import KINDS, Fused, Wish
from jfusion.data import image
from jfusion.data.layout import TASKS
from jfusion.errors import UserError
from jfusion.fusing import task as tasks
from jfusion.report import viewer

if TYPE_CHECKING:
    from jfusion.app.page import Page

LONGEST = 1280  # pixels of an image on the page
THUMBNAIL = 400


def add(page: Page) -> None:
    """Adds the tab to the page that is being built."""
    text = page.text
    with gr.Tab(text("fuse"), id="fuse"):
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                with gr.Row():
                    a = gr.File(label=text("image_a"), elem_classes="jf-drop", elem_id="jf-a")
                    b = gr.File(label=text("image_b"), elem_classes="jf-drop", elem_id="jf-b")
                gr.Markdown(text("paste"), elem_classes="jf-quiet")
                with gr.Row(elem_classes="jf-examples"):
                    example_buttons(page, [a, b])
                looked = gr.HTML()
                task, method = task_menu(page), method_menu(page)
                sentence = gr.Textbox(
                    label=text("text"),
                    placeholder=text("text_hint"),
                    lines=2,
                    max_length=work.TEXT,
                    visible=page.methods.reads_text(AUTO),
                )
                with gr.Accordion(text("more"), open=False):
                    align = gr.Checkbox(label=text("align"))
                    kind = gr.Dropdown(list(KINDS), value="PNG", label=text("kind"))
                go = gr.Button(text("go"), variant="primary", elem_id="jf-go")
            with gr.Column(scale=3, min_width=320):
                view = gr.HTML(elem_id="jf-result")
                download = gr.DownloadButton(text("download"), visible=False, elem_id="jf-download")
                judged = gr.HTML(elem_id="jf-judged")
                undo = gr.Button(text("undo"), visible=False, elem_id="jf-undo")
        fused = gr.State()
        tab = Tab(page)
        for field in (a, b):
            field.change(tab.look, [a, b, task], looked, api_visibility="private", **AT_ONCE)
        gr.on(
            [method.change, task.change],
            in_a_corner(lambda m, t: gr.update(visible=page.methods.reads_text(m, t))),
            [method, task],
            sentence,
            api_visibility="private",
            **AT_ONCE,
        )
        asked = [a, b, task, method, sentence, align, kind]
        shown = [view, download, fused, judged, undo]
        for_programs = [gr.File(visible=False), gr.JSON(visible=False)]
        gr.Button(visible=False).click(
            tab.for_programs, asked, for_programs, api_name="fuse", **WORK
        )
        undo.click(lambda: True, None, align, api_visibility="private", **AT_ONCE).then(
            tab.fuse, asked, shown, api_visibility="private", **WORK
        ).then(tab.evaluate, fused, [judged, undo], api_visibility="private", **WORK)
        go.click(tab.fuse, asked, shown, api_visibility="private", **WORK).then(
            tab.evaluate, fused, [judged, undo], api_visibility="private", **WORK
        )


# How Gradio runs what is quick, and what is long: the latter one at a time.
AT_ONCE: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": 4}
WORK: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "work"}


def task_menu(page: Page) -> Any:
    """The menu of the tasks."""
    choices = [(page.text("auto_task"), AUTO), *((name, name) for name in TASKS)]
    return gr.Dropdown(choices, value=AUTO, label=page.text("task"))


def method_menu(page: Page) -> Any:
    """The menu of the methods."""
    choices = [(page.text("auto"), AUTO), *((name, name) for name in page.methods.names)]
    return gr.Dropdown(choices, value=AUTO, label=page.text("method"))


def example_buttons(page: Page, fields: list[gr.File]) -> None:
    """A button for each example, which puts its two images into the fields."""

    @in_a_corner
    def make(task: str) -> list[str]:
        return [str(path) for path in examples.pair(task, page.fresh_folder())]

    for task in examples.TASKS:
        gr.Button(task, size="sm").click(
            partial(make, task), None, fields, api_visibility="private", **AT_ONCE
        )


class Tab:
    """What happens on the tab. Errors become one line where the answer would stand."""

    def __init__(self, page: Page):
        self.page = page

    def look(self, a: str | None, b: str | None, task: str, request: gr.Request) -> str:
        """The images that were chosen, small, and the task that they seem to be of."""
        words, parts = Words.of(request), []
        try:
            reader = image.Reader(max_pixels=self.page.max_pixels)
            images = {}
            for side, path in (("A", a), ("B", b)):
                if path:
                    image.header(
                        path, reader.most
                    )  # refuses what is too large before it is decoded
                    images[side] = reader.rgb(path)
                    parts.append(thumbnail(side, images[side], words))
            said = ""
            if len(images) == 2 and task == AUTO:
                guess = tasks.find(None, "", "", [("pair", Path(a), Path(b))], reader)
                said = words(
                    "guessed", task=f"{guess.task} ({words(guess.task)})", reason=guess.reason
                )
                said += f" {words('swapped')}" if guess.swapped else ""
        except Exception as error:
            return self.page.problem(error, words, a, b)
        note = f'<p class="jf-note">{html.escape(said)}</p>' if said else ""
        return f'<div class="jf-thumbs">{"".join(parts)}</div>{note}' if parts else ""

    def fuse(
        self, request: gr.Request, a: str | None, b: str | None, *chosen: Any
    ) -> Iterator[tuple]:
        """The result next to its images, its file, and a line that metrics are being computed.

        chosen: the fields of `Wish`, as `for_programs` names them.
        """
        words = Words.of(request)
        nothing = gr.update(value=None, visible=False)
        try:
            wish = Wish(*chosen)
            if a and b and self._compiles(a, b, wish):
                said = f'<p class="jf-note" role="status">{words("compiles")}</p>'
                yield said, nothing, None, "", gr.update(visible=False)
            fused = self._fused(a, b, wish, words)
            view = self._view(fused, words)
        except Exception as error:
            hidden = gr.update(visible=False)
            yield self.page.problem(error, words, a, b), nothing, None, "", hidden
            return
        file = gr.update(value=str(fused.result), visible=True)
        measuring = f'<p class="jf-quiet" role="status">{words("measuring")}</p>'
        yield view, file, fused, measuring, gr.update(visible=False)

    def _compiles(self, a: str, b: str, wish: Wish) -> bool:
        task = work.task_of(a, b, wish, self.page.max_pixels)
        return self.page.methods.compiles(wish.method, task)

    def for_programs(
        self,
        a: str | None,
        b: str | None,
        task: str,
        method: str,
        text: str,
        align: bool,
        kind: str,
    ) -> tuple[str, dict[str, float]]:
        """Fuses two image files; returns the file of the result and its metrics."""
        try:
            fused = self._fused(a, b, Wish(task, method, text, align, kind), Words())
            return str(fused.result), work.evaluate(fused, self.page.max_pixels).values
        except Exception as error:
            raise gr.Error(self.page.line(error, Words(), a, b), print_exception=False) from None

    def _fused(self, a: str | None, b: str | None, wish: Wish, words: Words) -> Fused:
        if not (a and b):
            raise UserError(words("both"))
        page = self.page
        return work.fuse_pair(a, b, wish, page.methods, page.fresh_folder(), page.max_pixels)

    def _view(self, fused: Fused, words: Words) -> str:
        """The slider, and what was said while the pair was fused."""
        reader = image.Reader(max_pixels=self.page.max_pixels)
        result = image.Reader("full", self.page.max_pixels).rgb(fused.result)
        height, width = result.shape[:2]
        images = {"A": reader.rgb(fused.a), "B": reader.rgb(fused.b), words("fused"): result}
        labels = viewer.Labels(words("left"), words("right"), words("divider"))
        facts = f"{words('size', width=width, height=height)}, {words('seconds', seconds=fused.seconds)}"
        shown = {str(path): path.name for path in (fused.a, fused.b, fused.result)}
        notes = [work.without_paths(note, shown) for note in fused.notes]
        return (
            viewer.slider(images, LONGEST, labels)
            + f'<p class="jf-quiet" role="status">{facts}</p>'
            + "".join(f'<p class="jf-note">{html.escape(note)}</p>' for note in notes)
        )

    def evaluate(self, fused: Fused | None, request: gr.Request) -> tuple:
        """The metrics of the result, what looks suspicious, and a button where the images are shifted."""
        words = Words.of(request)
        if fused is None:
            return "", gr.update(visible=False)
        try:
            found = work.evaluate(fused, self.page.max_pixels)
        except Exception as error:
            files = (str(fused.a), str(fused.b), str(fused.result))
            return self.page.problem(error, words, *files), gr.update(visible=False)
        lines = list(found.warnings)
        if found.shift is not None:
            lines.append(words("shifted", shift=found.shift))
        notes = "".join(f'<p class="jf-note">{html.escape(line)}</p>' for line in lines)
        return values_table(found.values, words) + notes, gr.update(visible=found.shift is not None)


def thumbnail(label: str, pixels: Any, words: Words) -> str:
    """An image, small, with its size below."""
    height, width = pixels.shape[:2]
    size = words("size", width=width, height=height)
    address = viewer.data_uri(pixels, THUMBNAIL)
    return f'<figure><img alt="{label}" src="{address}"><figcaption>{label}: {size}</figcaption></figure>'


def values_table(values: dict[str, float], words: Words) -> str:
    """The metrics of one image as a table."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in values)
    cells = "".join(f"<td>{value:.3f}</td>" for value in values.values())
    return (
        f'<div class="jf-scroll" tabindex="0" role="region" aria-label="{words("values")}">'
        f'<table class="jf-values"><caption>{words("values")}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody><tr>{cells}</tr></tbody></table></div>"
    )
