"""Writes a comparison as Markdown and HTML, in English and in Chinese, with pictures of its curves."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jfusion.files import replacing, write_text
from jfusion.parity import compare
from jfusion.parity.compare import Difference
from jfusion.parity.session import Parity, Stage
from jfusion.parity.texts import LANGUAGES, TEXTS
from jfusion.report.charts import COLORS, DPI, new_figure, style
from jfusion.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES = {
    "film": "FILM",
    "cddfuse": "CDDFuse",
    "sfdfuse": "SFDFuse",
    "ddfm": "DDFM",
    "lfdt": "LFDT-Fusion",
    "fccf": "Diff-FCCF",
}
WORST = 10  # gradients in the table
NOISE = 1e-6  # of the greatest gradient's norm: a gradient below it is zero up to rounding


@dataclass(frozen=True)
class Block:
    """A part of a report: heading, paragraph, list, table, picture, or a table that can be opened.

    kind: h1, h2, h3, p, ul, table, img, details. lines: its text, of a table the header and the rows, of a
    picture its file and what it shows.
    """

    kind: str
    lines: Sequence
    summary: str = ""


def write(parity: Parity, folder: Path, command: str) -> list[Path]:
    """Writes everything into a folder, and returns the paths, the English Markdown first.

    command: how the report was made. Raises UserError where something cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with style():
        pictures = {"layers.png": layers_picture(parity.layers)}
        pictures |= {f"losses_{s.name}.png": losses_picture(s) for s in parity.stages}
        for name, figure in pictures.items():
            with replacing(folder / name, "the picture", "figure") as temporary:
                figure.savefig(temporary, format="png", dpi=DPI)
    paths = []
    for language, stem in LANGUAGES.items():
        blocks = document(parity, language, command)
        write_text(folder / f"{stem}.md", markdown(blocks), "the report")
        write_text(folder / f"{stem}.html", page(blocks, language, folder), "the report")
        paths += [folder / f"{stem}.md", folder / f"{stem}.html"]
    write_text(folder / "parity.json", as_json(parity), "the figures")
    return [*paths, folder / "parity.json"]


def lines(parity: Parity) -> list[str]:
    """The summary for a terminal, and where recorded figures stand in, a line that says so."""
    say = _Writer(parity, "en")
    head = [_recorded(parity, say).replace("**", "")] if parity.recorded else []
    return head + [f"- {line}" for line in summary(parity, say)]


def as_json(parity: Parity) -> str:
    """Every figure of the report."""
    stages = {
        s.name: {
            "learning_rate": s.rate,
            "ours": s.ours,
            "theirs": s.theirs,
            "gradients": [asdict(d) for d in s.gradients],
        }
        for s in parity.stages
    }
    values = {
        "system": parity.setup.system,
        "recorded": parity.recorded,
        "environment": parity.environment,
        "data": parity.data,
        "names": asdict(parity.names),
        "layers": [asdict(d) for d in parity.layers],
        "stages": stages,
        "metrics": parity.metrics,
        "memory": [parity.ours["memory"], parity.theirs["memory"]],
    }
    return json.dumps(values, indent=1, default=list) + "\n"


# ---- what the report says ----------------------------------------------------------------------


class _Writer:
    """The texts of one language, filled in."""

    def __init__(self, parity: Parity, language: str):
        self.parity, self.texts = parity, TEXTS[language]
        self.stem = LANGUAGES[language]

    def __call__(self, key: str, **values: object) -> str:
        return self.texts[key].format(system=self.parity.setup.system, **values)


def document(parity: Parity, language: str, command: str) -> list[Block]:
    """The report, in the form that the README of a Jittor port has."""
    say = _Writer(parity, language)
    other = next(stem for stem in LANGUAGES.values() if stem != say.stem)
    title = TEXTS[language]["title"].format(system=TITLES[parity.setup.system])
    blocks = [
        Block("h1", [title]),
        Block("p", [say("other", file=f"{other}.md")]),
        Block("p", [say("made", command=command, date=parity.date, version=__version__)]),
    ]
    if parity.recorded:
        blocks.append(Block("p", [_recorded(parity, say)]))
    blocks += [Block("h2", [say("summary")]), Block("ul", summary(parity, say))]
    for part in (_environment, _data, _training, _testing, _aligned, _performance):
        blocks += part(parity, say)
    note = say(f"note_{parity.setup.system}")
    return blocks + ([Block("h2", [say("notes")]), Block("p", [note])] if note else [])


def _recorded(parity: Parity, say: _Writer) -> str:
    theirs = parity.theirs
    return say(
        "recorded",
        code=theirs["code"],
        torch=theirs["versions"]["torch"],
        recorded=theirs["recorded"],
        kept=compare.KEPT,
    )


def summary(parity: Parity, say: _Writer) -> list[str]:
    """The most important figures, a line each."""
    names, data = parity.names, parity.data
    if names.one_to_one:
        lines = [say("short_names", equal=len(names.equal), parameters=f"{data['parameters']:,}")]
    else:
        other = len(names.ours) + len(names.theirs) + len(names.shapes)
        lines = [say("short_names_not", equal=len(names.equal), other=other)]
    worst = max(parity.layers, key=_share)
    share = _scientific(_share(worst))
    lines.append(say("short_layers", count=len(parity.layers), relative=share, name=worst.name))
    for stage in parity.stages:
        there, _ = significant(stage.gradients)
        median = _scientific(np.median([d.relative for d in there]))
        count = len(there)
        lines.append(say("short_gradients", stage=stage.name, count=count, median=median))
        values = _relatives(stage)
        first, most = _scientific(values[0]), _scientific(max(values))
        steps = len(values)
        lines.append(say("short_losses", stage=stage.name, first=first, worst=most, steps=steps))
    if parity.metrics:
        share, largest = parity.differing
        lines.append(say("short_images", share=f"{share:.3%}", largest=f"{largest:.0f}"))
    if not parity.recorded:
        stage = parity.stages[-1]
        ratio = _seconds(stage.ours) / _seconds(stage.theirs)
        memory = parity.ours["memory"] / parity.theirs["memory"]
        lines.append(say("short_speed", ratio=f"{ratio:.2f}", memory=f"{memory:.2f}"))
    return lines


def _environment(parity: Parity, say: _Writer) -> list[Block]:
    rows = [[say(name), *values] for name, values in parity.environment.items()]
    return [
        Block("h2", [say("environment")]),
        Block("table", [["", say("port"), say("original")], *rows]),
        Block("p", [say("install")]),
    ]


def _data(parity: Parity, say: _Writer) -> list[Block]:
    data = parity.data
    arrays = ", ".join(f"`{k}` {v}" for k, v in data["batch"].items())
    weights, images = (
        say(f"{kind}_drawn") if data[key] is None else say(f"{kind}_file", path=data[key])
        for kind, key in (("weights", "weights"), ("data", "data"))
    )
    lines = [weights, images, say("batch", arrays=arrays)]
    return [Block("h2", [say("data")]), Block("ul", lines)]


def _training(parity: Parity, say: _Writer) -> list[Block]:
    header = [say("stage"), say("rate"), say("step")]
    header += [f"{say(k)}, {say(side)}" for k in ("first_loss", "last_loss") for side in _SIDES]
    rows = [
        [
            s.name,
            f"{s.rate:g}",
            str(len(s.ours["losses"])),
            *(_loss(x["losses"][i]) for i in (0, -1) for x in (s.ours, s.theirs)),
        ]
        for s in parity.stages
    ]
    return [
        Block("h2", [say("training")]),
        Block("p", [say("training_text", steps=parity.setup.steps)]),
        Block("table", [header, *rows]),
        Block("p", [say("a_real_run")]),
    ]


_SIDES = ("port", "original")


def _testing(parity: Parity, say: _Writer) -> list[Block]:
    blocks = [Block("h2", [say("testing")])]
    if not parity.metrics:
        return [*blocks, Block("p", [say("testing_none")])]
    header = [say("metric"), *map(say, _SIDES), say("difference")]
    rows = [
        [name, f"{ours:.4f}", f"{theirs:.4f}", _scientific(ours - theirs)]
        for name, (ours, theirs) in parity.metrics.items()
    ]
    text = say("testing_text", pairs=parity.data["pairs"])
    return [*blocks, Block("p", [text]), Block("table", [header, *rows])]


def _aligned(parity: Parity, say: _Writer) -> list[Block]:
    blocks = [Block("h2", [say("aligned")]), *_names(parity, say), *_layers(parity, say)]
    for stage in parity.stages:
        blocks += _gradients(stage, say)
    blocks.append(Block("h3", [say("losses")]))
    for stage in parity.stages:
        rows = [
            [str(i + 1), _loss(ours), _loss(theirs), _scientific(compare.relative(ours, theirs))]
            for i, (ours, theirs) in enumerate(
                zip(stage.ours["losses"], stage.theirs["losses"], strict=True)
            )
        ]
        blocks += [
            Block("p", [say("losses_text", stage=stage.name)]),
            Block("img", [f"losses_{stage.name}.png", f"{say('losses')}: {stage.name}"]),
            Block("table", [[say("step"), *map(say, _SIDES), say("relative")], *rows]),
        ]
    return blocks


def _names(parity: Parity, say: _Writer) -> list[Block]:
    names = parity.names
    theirs = len(names.equal) + len(names.theirs) + len(names.shapes) + len(names.ignored)
    counts = {"theirs": theirs, "equal": len(names.equal), "ignored": len(names.ignored)}
    lines = []
    for key, found in (
        ("only_ours", names.ours),
        ("only_theirs", names.theirs),
        ("other_shapes", names.shapes),
    ):
        if found:
            listed = ", ".join(f"`{name}` {shape}" for name, shape in found.items())
            lines.append(say(key, names=listed))
    rows = [[f"`{name}`", "x".join(map(str, shape)) or "1"] for name, shape in names.equal.items()]
    table = [[say("name"), say("shape")], *rows]
    return [
        Block("h3", [say("names")]),
        Block("p", [say("names_text", **counts)]),
        *([Block("ul", lines)] if lines else []),
        Block("details", table, say("all_names", count=len(names.equal))),
    ]


def _layers(parity: Parity, say: _Writer) -> list[Block]:
    rows = [
        [
            f"`{d.name}`",
            "x".join(map(str, d.shape)),
            _scientific(d.largest),
            f"{d.scale:.3g}",
            _scientific(d.relative),
        ]
        for d in parity.layers
    ]
    header = [say(k) for k in ("layer", "shape", "largest", "of", "relative")]
    return [
        Block("h3", [say("layers")]),
        Block("p", [say("layers_text")]),
        Block("img", ["layers.png", say("layers")]),
        Block("table", [header, *rows]),
    ]


def _gradients(stage: Stage, say: _Writer) -> list[Block]:
    there, zero = significant(stage.gradients)
    worst = sorted(there, key=lambda d: -d.relative)[:WORST]
    rows = [
        [f"`{d.name}`", "x".join(map(str, d.shape)), f"{d.scale:.2e}", _scientific(d.relative)]
        for d in worst
    ]
    median = _scientific(np.median([d.relative for d in there]))
    header = [say(k) for k in ("name", "shape", "of", "relative")]
    text = say("gradients_text", count=len(there), stage=stage.name, median=median)
    left_out = [Block("p", [say("zero_gradients", count=zero)])] if zero else []
    return [
        Block("h3", [f"{say('gradients')}: {stage.name}"]),
        Block("p", [text]),
        Block("table", [header, *rows]),
        *left_out,
    ]


def significant(gradients: Sequence[Difference]) -> tuple[list[Difference], int]:
    """The gradients that are more than rounding, and how many are not."""
    greatest = max((d.scale for d in gradients), default=0.0)
    there = [d for d in gradients if d.scale > NOISE * greatest]
    return there, len(gradients) - len(there)


def _performance(parity: Parity, say: _Writer) -> list[Block]:
    n, _, h, w = parity.data["shape"]
    threads = parity.setup.threads
    ours, theirs = parity.ours, parity.theirs
    rows = []
    for stage in parity.stages:
        seconds = _seconds(stage.ours), _seconds(stage.theirs)
        firsts = stage.ours["seconds"][0], stage.theirs["seconds"][0]
        rows += [
            [say("train_step", stage=stage.name), *_row(*seconds)],
            [say("train_images", stage=stage.name), *_row(*(n / s for s in seconds))],
            [say("first_step", stage=stage.name), *_row(*firsts)],
        ]
    forward = [float(np.median(x["forward_seconds"])) for x in (ours, theirs)]
    rows += [
        [say("forward"), *_row(*forward)],
        [say("forward_images"), *_row(*(n / s for s in forward))],
    ]
    if parity.data["pairs"] > 1:  # the first one compiles
        fuse = (float(np.median(x["fuse_seconds"][1:])) for x in (ours, theirs))
        rows.append([say("fuse"), *_row(*fuse)])
    rows.append([say("memory"), *_row(ours["memory"], theirs["memory"])])
    text = say("performance_text", batch=n, h=h, w=w, threads=threads)
    recorded = say("performance_recorded", processor=parity.environment["processor"][1])
    header = [say("what"), *map(say, _SIDES), say("ratio")]
    return [
        Block("h2", [say("performance")]),
        Block("p", [text]),
        *([Block("p", [recorded])] if parity.recorded else []),
        Block("table", [header, *rows]),
    ]


def _row(ours: float, theirs: float) -> list[str]:
    return [f"{ours:.4g}", f"{theirs:.4g}", f"{ours / theirs:.2f}"]


def _seconds(side: dict[str, list[float]]) -> float:
    """The median of a step's seconds, without the first, which compiles."""
    return float(np.median(side["seconds"][1:]))


def _relatives(stage: Stage) -> list[float]:
    pairs = zip(stage.ours["losses"], stage.theirs["losses"], strict=True)
    return [compare.relative(ours, theirs) for ours, theirs in pairs]


def _share(difference: Difference) -> float:
    """The largest difference over the largest value."""
    return difference.largest / difference.scale if difference.scale else difference.largest


def _scientific(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"


def _loss(value: float) -> str:
    return f"{value:.7g}"


# ---- pictures ----------------------------------------------------------------------------------


def losses_picture(stage: Stage) -> Figure:
    """The losses of both sides over one another, and below them the relative difference."""
    steps = np.arange(1, len(stage.ours["losses"]) + 1)
    figure = new_figure(5.4, 3.8)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    upper.plot(steps, stage.theirs["losses"], color=COLORS[0], linewidth=3, alpha=0.5)
    upper.plot(steps, stage.ours["losses"], color=COLORS[1], linewidth=1, marker=".")
    upper.legend(["PyTorch, the authors'", "Jittor, jfusion"], frameon=False)
    upper.set_ylabel("loss")
    upper.set_title(stage.name)
    lower.semilogy(steps, np.maximum(_relatives(stage), 1e-9), color="black", marker=".")
    lower.set_ylabel("relative difference")
    lower.set_xlabel("step")
    lower.xaxis.get_major_locator().set_params(integer=True)
    for axis in (upper, lower):
        axis.grid(color="#dddddd", linewidth=0.5)
    return figure


def layers_picture(layers: Sequence[Difference]) -> Figure:
    """The largest difference of each layer over its largest value, in the order of the run."""
    figure = new_figure(5.4, max(1.6, 0.13 * len(layers) + 0.7))
    axis = figure.add_subplot()
    places = np.arange(len(layers))
    values = [max(_share(d), 1e-9) for d in layers]
    axis.barh(places, values, left=0, height=0.7, color=COLORS[0])
    axis.set_xscale("log")
    axis.set_xlim(min(1e-8, min(values)), max(1e-3, 2 * max(values)))
    axis.set_yticks(places, [d.name for d in layers], fontsize=5)
    axis.set_ylim(len(layers) - 0.4, -0.6)
    axis.set_xlabel("largest difference / largest value")
    axis.grid(axis="x", color="#dddddd", linewidth=0.5)
    return figure


# ---- Markdown and HTML -------------------------------------------------------------------------


def markdown(blocks: Sequence[Block]) -> str:
    """The blocks as Markdown."""
    return "\n\n".join(map(_markdown, blocks)) + "\n"


def _markdown(block: Block) -> str:
    if block.kind in ("h1", "h2", "h3"):
        return f"{'#' * int(block.kind[1])} {block.lines[0]}"
    if block.kind == "ul":
        return "\n".join(f"- {line}" for line in block.lines)
    if block.kind == "img":
        return f"![{block.lines[1]}]({block.lines[0]})"
    if block.kind == "p":
        return block.lines[0]
    header, *rows = block.lines
    lines = [header, ["---"] * len(header), *rows]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    if block.kind == "table":
        return table
    return f"<details><summary>{block.summary}</summary>\n\n{table}\n\n</details>"


def page(blocks: Sequence[Block], language: str, folder: Path) -> str:
    """The blocks as a page of its own, with the pictures of the folder inside."""
    body = "\n".join(_html(block, folder) for block in blocks)
    title = html.escape(blocks[0].lines[0])
    return _PAGE.format(language="zh-CN" if language == "zh" else "en", title=title, body=body)


def _html(block: Block, folder: Path) -> str:
    if block.kind in ("h1", "h2", "h3", "p"):
        return f"<{block.kind}>{_inline(block.lines[0])}</{block.kind}>"
    if block.kind == "ul":
        items = "".join(f"<li>{_inline(line)}</li>" for line in block.lines)
        return f"<ul>{items}</ul>"
    if block.kind == "img":
        name, alt = block.lines
        data = base64.b64encode((folder / name).read_bytes()).decode()
        return f'<img src="data:image/png;base64,{data}" alt="{html.escape(alt)}">'
    header, *rows = block.lines
    head = "".join(f"<th>{_inline(cell)}</th>" for cell in header)
    lines = "\n".join(
        "<tr>" + "".join(f"<td>{_inline(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    table = f"<table>\n<tr>{head}</tr>\n{lines}\n</table>"
    if block.kind == "table":
        return table
    return f"<details><summary>{_inline(block.summary)}</summary>\n{table}\n</details>"


def _inline(text: str) -> str:
    """Markdown's code, emphasis and links within a line as HTML; a link to a report leads to its page."""
    text = html.escape(text, quote=False)
    text = re.sub(r"`([^`]*)`", r"<code>\1</code>", text)
    text = re.sub(r"\*\*([^*]*)\*\*", r"<b>\1</b>", text)
    return re.sub(
        r"\[([^\]]*)\]\(([^)]*)\)",
        lambda m: f'<a href="{re.sub(r"[.]md$", ".html", m[2])}">{m[1]}</a>',
        text,
    )


_PAGE = """<!DOCTYPE html>
<html lang="{language}">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 15px/1.55 sans-serif; margin: 2em auto; max-width: 62em; padding: 0 1em; color: #222; }}
img {{ max-width: 100%; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; }}
th, td {{ text-align: left; padding: 0.15em 1em 0.15em 0; border-bottom: 1px solid #ddd; }}
code {{ font-size: 90%; background: #f4f4f4; }}
summary {{ cursor: pointer; }}
</style>
{body}
</html>
"""
