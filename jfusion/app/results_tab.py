"""The tab Results: the page of results of the repository, and the cards of the weights."""

from __future__ import annotations

import base64
import html
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jfusion import weights
from jfusion.app.fuse_tab import AT_ONCE
from jfusion.app.problems import in_a_corner
from jfusion.app.ui import gr
from jfusion.app.words import Words

if TYPE_CHECKING:
    from jfusion.app.page import Page

DOCS = Path(__file__).parents[2] / "docs"  # when the package is in its repository


def add(page: Page) -> None:
    """Adds the tab to the page that is being built; what it shows is read when it is chosen."""
    with gr.Tab(page.text("results"), id="results") as tab:
        cards = gr.HTML(elem_id="jf-cards")
        results = gr.Markdown(elem_id="jf-results")
    tab.select(_shown, None, [cards, results], api_visibility="private", **AT_ONCE)


@in_a_corner
def _shown(request: gr.Request) -> tuple[str, str]:
    words = Words.of(request)
    return cards(words), results(words)


def cards(words: Words) -> str:
    """The cards of the weights that come with jfusion, to be unfolded."""
    parts = [f"<h2>{words('cards')}</h2>"]
    for name in weights.names():
        card = weights.card(name)
        rows = "".join(
            f'<tr><th scope="row">{html.escape(key)}</th><td>{_value(value)}</td></tr>'
            for key, value in card.items()
        )
        parts.append(
            f"<details><summary>{html.escape(name)}</summary>"
            f'<div class="jf-scroll" tabindex="0" role="region" aria-label="{html.escape(name)}">'
            f'<table class="jf-values jf-card"><tbody>{rows}</tbody></table></div></details>'
        )
    return "".join(parts)


def _value(value: Any) -> str:
    """A value of a card: what is short in one line, everything else line by line."""
    if isinstance(value, str):
        return html.escape(value)
    if isinstance(value, dict):
        separator = ", " if all(isinstance(v, int | float) for v in value.values()) else "<br>"
        return separator.join(f"{html.escape(str(k))}: {_value(v)}" for k, v in value.items())
    if isinstance(value, list):
        short = all(isinstance(v, int | float) for v in value)
        return (", " if short else "<br>").join(map(_value, value))
    return html.escape(json.dumps(value))


def results(words: Words) -> str:
    """docs/results.md with its images inside; a line where this installation has none."""
    file = DOCS / "results.md"
    if not file.is_file():
        return words("no_results")
    text = file.read_text(encoding="utf-8")
    text = re.sub(r"(?m)^\| +\|(?=.*\n\|-)", f"| {words('method')} |", text)  # no empty head
    text = re.sub(r"!\[([^\]]*)\]\(([^)\s]+)\)", _inlined, text)
    return re.sub(
        r"\[([^\]]+)\]\((?!data:)[^)\s]+\)", r"\1", text
    )  # links to files of the repository


def _inlined(match: re.Match[str]) -> str:
    """An image of the page with its bytes; its title where it is not there."""
    path = DOCS / match[2]
    if path.suffix != ".jpg" or not path.is_file():
        return match[1]
    data = base64.b64encode(path.read_bytes()).decode()
    return f"![{match[1]}](data:image/jpeg;base64,{data})"
