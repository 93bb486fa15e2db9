"""A report as one HTML file: tables, charts, values of each image, and the pairs with a divider.

The file needs no other file and no network. Full-size images are linked, not copied.
"""

from __future__ import annotations

import base64
import html
import io
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np

from jfusion.errors import UserError
from jfusion.files import write_text
from jfusion.metrics.table import Table
from jfusion.report import charts, viewer
from jfusion.report.comparison import Comparison
from jfusion.report.ranks import ranks
from jfusion.report.table import Block
from jfusion.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = viewer.STYLE + Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
SCRIPT = viewer.SCRIPT + Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
LONGEST = 640  # pixels of the longer side of an image in the file
QUALITY = 80
ROOM = 16_000_000  # bytes of the images in the file; the pairs after that are linked only
ENDS = 3  # pairs that are shown first as the worst, and as the best
DPI = 110
CHINESE = {  # what the script puts in place of the English words, in a Chinese browser
    "Means": "平均值",
    "Notes": "说明",
    "Charts": "图表",
    "Values of each image": "每幅图像的数值",
    "Pairs": "图像对",
    "Settings": "设置",
    "worst": "最差",
    "best": "最佳",
    "image": "图像",
    "method": "方法",
    "full size": "原始尺寸",
    "Left": "左侧",
    "Right": "右侧",
    "The pairs with the lowest and the highest mean ranks in the metrics come first.": (
        "按各指标的平均名次，最差和最佳的图像对排在最前。"
    ),
    "The file has no room for the images of the other pairs; their results are linked.": (
        "文件容量有限，其余图像对只给出结果的链接。"
    ),
}


@dataclass(frozen=True)
class Shot:
    """A pair in the gallery. set, name: as in the comparison.

    read: gives its images by what they are called, sources first, (H, W) or (H, W, 3) uint8 of one size.
    links: the files of full size, by the same names.
    """

    set: str
    name: str
    read: Callable[[], Mapping[str, np.ndarray]]
    links: Mapping[str, Path] = field(default_factory=dict)


def write(
    path: str | Path,
    title: str,
    blocks: Sequence[Block],
    comparison: Comparison,
    shots: Sequence[Shot],
    notes: Iterable[str] = (),
    settings: Mapping[str, object] | None = None,
) -> Path:
    """Writes the report and returns its path.

    blocks: the tables of means. comparison: the values of each image. shots: the pairs, whose images are
    read here. settings: what the result was made with; versions are added. Raises UserError when the file
    cannot be written.
    """
    path = Path(path)
    check(path)
    body = [
        _section("Means", [means_table(b.table, b.title) for b in blocks]),
        _section("Notes", _list(notes)),
        _section("Pairs", _gallery(comparison, shots, path.parent)),
        _section("Charts", [_picture(name, figure) for name, figure in _charts(comparison)]),
        _section("Values of each image", [_values(comparison, name) for name in comparison.values]),
        _section("Settings", [_settings({**(settings or {}), **versions()})]),
    ]
    page = _PAGE.format(
        title=html.escape(title), style=STYLE, script=SCRIPT, body="\n".join(filter(None, body))
    )
    write_text(path, page, "the report")
    return path


def check(path: Path) -> None:
    """Raises UserError where a report would replace a file that is none."""
    if path.is_file() and _MADE not in path.read_bytes()[:4096]:
        raise UserError(f"the report would replace {path}, which is no report; move that file")


def versions() -> dict[str, str]:
    """What the report was made with, and when."""
    from importlib.metadata import version

    return {
        "jfusion": __version__,
        "Python": platform.python_version(),
        "NumPy": version("numpy"),
        "Jittor": version("jittor"),
        "made": time.strftime("%Y-%m-%d %H:%M"),
    }


def from_worst(comparison: Comparison, name: str) -> list[str]:
    """The images of a data set, that with the lowest values first: by their mean rank in all metrics.

    Of several methods, the ranks of all count; a value that is not defined is the last.
    """
    of_set = {method: images for method, images in comparison.values[name].items() if images}
    columns = comparison.defined(name)
    names = [x for x in next(iter(of_set.values())) if all(x in of for of in of_set.values())]
    signs = np.array([-1.0 if c in comparison.lower else 1.0 for c in columns])
    table = np.array(
        [[[of[x].get(c, np.nan) for c in columns] for of in of_set.values()] for x in names], float
    )
    table = np.nan_to_num((table * signs).reshape(len(names), -1), nan=-np.inf)
    means = ranks(table.T, higher_is_better=False).mean(0)
    return [names[i] for i in np.argsort(means, kind="stable")]


# ---- the parts ---------------------------------------------------------------------------------


def _say(text: str) -> str:
    return f'<span data-zh="{CHINESE[text]}">{html.escape(text)}</span>'


def _section(title: str, parts: Sequence[str]) -> str:
    return f"<section><h2>{_say(title)}</h2>\n" + "\n".join(parts) + "</section>" if parts else ""


def _list(notes: Iterable[str]) -> list[str]:
    items = [f"<li>{html.escape(note)}</li>" for note in notes]
    return ["<ul>", *items, "</ul>"] if items else []


def means_table(table: Table, title: str) -> str:
    """A table of means, with a caption if `title` is not ""; the best in bold, the second best underlined."""
    marks = ("{}", "<b>{}</b>", "<u>{}</u>")
    head = "<td></td>" + "".join(f'<th scope="col">{html.escape(c)}</th>' for c in table.headed())
    rows = []
    for row in table.rows:
        cells = (marks[table.rank(row, c)].format(table.cell(row, c)) for c in table.columns)
        body = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f'<tr><th scope="row">{html.escape(row.label)}</th>{body}</tr>')
    return _scrolled(title, head, rows)


def _scrolled(title: str, head: str, rows: Sequence[str], kind: str = "") -> str:
    """A table that scrolls on a narrow screen, by keys as well."""
    name = html.escape(title)
    caption = f"<caption>{name}</caption>" if title else ""
    return (
        f'<div class="jf-scroll" tabindex="0" role="region" aria-label="{name or "Means"}">'
        f'<table class="jf-values{kind}">{caption}<thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _values(comparison: Comparison, name: str) -> str:
    """The values of each image and method; a click on a column sorts by it."""
    columns = comparison.defined(name)
    named = [_say("image"), _say("method"), *map(html.escape, columns)]
    head = "".join(f'<th scope="col"><button type="button">{c}</button></th>' for c in named)
    rows = []
    for method, images in comparison.values[name].items():
        for image, values in images.items():
            cells = "".join(
                f"<td>{_number(values.get(c, np.nan), comparison.decimals.get(c, 2))}</td>"
                for c in columns
            )
            first = f'<th scope="row">{html.escape(image)}</th><td>{html.escape(method)}</td>'
            rows.append(f"<tr>{first}{cells}</tr>")
    return _scrolled(name or "values", head, rows, " jf-sorted")


def _number(value: float, decimals: int) -> str:
    return f"{value:.{decimals + 1}f}" if np.isfinite(value) else "-"


def _gallery(comparison: Comparison, shots: Sequence[Shot], folder: Path) -> list[str]:
    """The pairs: of each data set the worst, the best, then the others by name, while there is room."""
    parts, room, left_out = [], ROOM, False
    badges = {}
    order = {}
    for name in comparison.values:
        names = from_worst(comparison, name)
        few = min(ENDS, len(names) // 2)
        ends = dict.fromkeys(names[:few], "worst") | dict.fromkeys(names[::-1][:few], "best")
        badges |= {(name, x): badge for x, badge in ends.items()}
        order |= {(name, x): i for i, x in enumerate(ends)}
    after = len(order)
    for shot in sorted(shots, key=lambda s: order.get((s.set, s.name), after)):
        badge = badges.get((shot.set, shot.name), "")
        pictures = viewer.slider(shot.read(), LONGEST, quality=QUALITY) if room > 0 else ""
        for label in ("Left", "Right"):
            pictures = pictures.replace(f"<span>{label}</span>", _say(label))
        if len(pictures) > room:
            pictures, room = "", 0
        room, left_out = room - len(pictures), left_out or not pictures
        parts.append(_pair(shot, badge, pictures, folder, len(comparison.values) > 1))
    if not parts:
        return []
    said = ["The pairs with the lowest and the highest mean ranks in the metrics come first."]
    if left_out:
        said.append(
            "The file has no room for the images of the other pairs; their results are linked."
        )
    return [
        *(f"<p>{_say(text)}</p>" for text in said),
        '<div class="jf-gallery">',
        *parts,
        "</div>",
    ]


def _pair(shot: Shot, badge: str, pictures: str, folder: Path, several: bool) -> str:
    title = html.escape(f"{shot.set}: {shot.name}" if several else shot.name)
    mark = f' <span class="jf-badge jf-{badge}">{_say(badge)}</span>' if badge else ""
    links = ", ".join(
        f'<a href="{html.escape(_address(path, folder))}">{html.escape(label)}</a>'
        for label, path in shot.links.items()
    )
    links = f'<p class="jf-quiet">{_say("full size")}: {links}</p>' if links else ""
    return f"<article><h3>{title}{mark}</h3>{pictures}{links}</article>"


def _address(path: Path, folder: Path) -> str:
    """A file as the report links it: by the way from the report's folder."""
    return quote(os.path.relpath(path.absolute(), folder.absolute()).replace(os.sep, "/"))


def _charts(comparison: Comparison) -> Iterable[tuple[str, Figure]]:
    with charts.style():
        for name, of_set in comparison.values.items():
            if comparison.defined(name):
                yield f"{name}: distribution of each metric", charts.distributions(comparison, name)
            methods = [m for m, images in of_set.items() if images]
            if len(methods) > 1 and len(comparison.defined(name)) > 2:
                yield f"{name}: the methods in all metrics", charts.radar(comparison, name)


def _picture(name: str, figure: Figure) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI)
    data = base64.b64encode(stream.getvalue()).decode()
    alt = html.escape(name)
    return f'<figure class="jf-chart"><img alt="{alt}" src="data:image/png;base64,{data}"><figcaption>{alt}</figcaption></figure>'


def _settings(settings: Mapping[str, object]) -> str:
    rows = [
        f'<tr><th scope="row">{html.escape(str(key))}</th><td>{html.escape(str(value))}</td></tr>'
        for key, value in settings.items()
        if value not in (None, "", ())
    ]
    return f'<div class="jf-scroll" tabindex="0" role="region" aria-label="Settings"><table class="jf-values jf-settings"><tbody>{"".join(rows)}</tbody></table></div>'


_MADE = b'name="generator" content="jfusion"'
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="jfusion">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
<script>
{script}
</script>
</body>
</html>
"""
