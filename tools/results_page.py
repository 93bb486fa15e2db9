"""Writes docs/results.md from what tools/results_measure.py measured and from the published tables.

    python tools/results_page.py

It also draws one contact sheet for each task, of pairs made from scikit-image's photographs, and writes
the measured rows into the cards of the shipped weights. docs/results/remarks.json holds what no program
can see: what to know of a set, why a method is the default of a task, and how the trainings went.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from results_measure import (
    BASELINES,
    CHECKS,
    COLUMNS,
    FOLDER,
    ROOT,
    SETS,
    TestSet,
    methods,
    rows,
    system_for,
)

from jfusion import inference, metrics, weights
from jfusion.data import image, sample
from jfusion.data.h5 import Pair
from jfusion.data.layout import TASKS, find_samples, task
from jfusion.files import write_text
from jfusion.metrics.plausibility import MOST_CLIPPED
from jfusion.metrics.table import Table, means
from jfusion.papers import tables
from jfusion.report import figures
from jfusion.weights import cards

PAGE = ROOT / "docs/results.md"
REMARKS = FOLDER / "remarks.json"
SHOWN = (*metrics.PAPER, "CC", "SCD")
RANK = "mean rank"
BAR = 0.95  # of every metric of the published row
# What the tables call the systems that jfusion has; the best of the others is shown as well.
OURS = {
    "FILM": ("FILM",),
    "CDDFuse": ("CDDFuse", "CDDF"),
    "SFDFuse": ("SFDFuse",),
    "LFDT-Fusion": ("LFDT-Fusion", "LFDT"),
}
PUBLISHED = ("RoadScene", "TNO", "MEFB", "Lytro")  # whose pairs here are the papers'
BAR_OF = {("film", "RoadScene"), ("film", "Lytro"), ("film", "MEFB")}
BAR_OF |= {("cddfuse", "RoadScene"), ("cddfuse", "TNO")}
SHEET_HEIGHT = 110  # pixels of one image on a contact sheet
ON_SHEET = ("motorcycle", "astronaut", "rocket", "phantom")

HEAD = """# Results

This page is written by `python tools/results_page.py` from `docs/results/*.csv`; do not edit it by hand.
`python tools/results_measure.py --root VLFDataset` measures what those files do not have yet.

All values are computed as `jfusion test` computes them: by FILM's evaluator, on gray images. FILM's own tables
have six metrics. Four of them (EN, SD, SF, AG) see the fused image alone, so even a photographic negative gets
good values. Therefore **CC** and **SCD**, which compare with the sources, are shown too, and warnings
follow each table. *{rank}*: a method is ranked in each of the eight columns among the methods measured
here (published rows are not ranked), and its ranks are averaged. The number of pairs is in brackets. Best in bold,
second best in italics. Means are over the pairs for which a metric is defined: SCD is not where the fused image equals
a source.

"""


def main() -> None:
    """Writes the page, the sheets, and the measured rows of the cards."""
    remarks = json.loads(REMARKS.read_text(encoding="utf-8"))
    lines = [HEAD.format(rank=RANK), *_overview(), *_bars()]
    for name in TASKS:
        of_task = [s for s in SETS if s.task == name and rows(s)]
        if not of_task:
            continue
        lines += ["", f"## {name}: {TASKS[name].text}", "", *remarks.get(name, [])]
        for of in of_task:
            lines += ["", f"### {of.name}", "", *_section(of, remarks)]
        lines += ["", *_sheet(name)]
    lines += ["", "## Trainings", "", *remarks["trainings"]]
    write_text(PAGE, "\n".join(lines) + "\n", "the page")
    for name in weights.names():
        _update_card(name)


# ---- what was measured -----------------------------------------------------------------------------


def _values(of: TestSet, left_out: Iterable[str] = ()) -> dict[str, list[dict[str, float]]]:
    """Method -> the values of each image, in the order of `methods`.

    The images are those that every method without weights has; a network that lacks one is left out.
    """
    found: dict[str, dict[str, dict[str, float]]] = {method: {} for method in methods(of)}
    for row in rows(of):
        values = {k: float(row[k]) for k in (*COLUMNS, *CHECKS)}
        found[row["method"]][row["image"]] = values
    common = set.intersection(*(set(found[m]) for m in BASELINES)) - set(left_out)
    return {
        method: [values[x] for x in sorted(common)]
        for method, values in found.items()
        if common and common <= set(values)
    }


def _means(of: TestSet, left_out: Iterable[str] = ()) -> dict[str, dict[str, float]]:
    """Method -> the mean of each column, with the mean rank."""
    mean = {method: means(values)[0] for method, values in _values(of, left_out).items()}
    for method, rank in _ranks(mean, SHOWN).items():
        mean[method][RANK] = rank
    return mean


def _ranks(mean: dict[str, dict[str, float]], columns: Iterable[str]) -> dict[str, float]:
    """The mean over the columns of each method's rank, 1 for the best; equals share their mean rank."""
    from scipy.stats import rankdata

    table = np.array([[values[c] for c in columns] for values in mean.values()])
    table = np.nan_to_num(table, nan=-np.inf)  # a metric that is not defined is the last
    return dict(zip(mean, rankdata(-table, axis=0).mean(1), strict=True)) if mean else {}


def _mean_rank_of_task(name: str) -> dict[str, float]:
    """Each method's mean rank over the sets of a task, the best first."""
    per_set = [_means(s) for s in SETS if s.task == name and rows(s)]
    common = [m for m in (per_set[0] if per_set else ()) if all(m in s for s in per_set)]
    mean = {m: float(np.mean([s[m][RANK] for s in per_set])) for m in common}
    return dict(sorted(mean.items(), key=lambda item: item[1]))


# ---- the parts of the page -------------------------------------------------------------------------


def _overview() -> list[str]:
    """The default of each task, next to the mean ranks."""
    shipped = weights.names()
    brought = f"Weights that come with jfusion: {', '.join(shipped)}." if shipped else ""
    lines = [brought or "No weights come with this version; [Trainings](#trainings) says why.", ""]
    lines += ["| task | default | mean ranks over its test sets |", "|---|---|---|"]
    for name in TASKS:
        ranks = [f"{m} {v:.2f}" for m, v in _mean_rank_of_task(name).items()]
        listed = ", ".join(ranks) or "not measured"
        lines.append(f"| {name} | {weights.default_for(name) or '-'} | {listed} |")
    return lines


def _section(of: TestSet, remarks: dict[str, list[str]]) -> list[str]:
    lines = [_table(of), *remarks.get(of.name, [])]
    same = remarks.get(f"{of.name} same scene", [])
    if same:
        count = len({row["image"] for row in rows(of)} - set(same))
        lines += ["", f"The {count} pairs that show no place of a training image:", ""]
        lines.append(_table(of, same))
    return [*lines, *_warnings(of)]


def _table(of: TestSet, left_out: Iterable[str] = ()) -> str:
    table = Table([*SHOWN, RANK], [RANK])
    counts = {method: len(values) for method, values in _values(of, left_out).items()}
    for method, mean in _means(of, left_out).items():
        label = f"**{method}**" if method in weights.names() else method
        table.add(f"{label} ({counts[method]})", mean, ranked=True)
    for label, values in [] if left_out else _published(of):
        table.add(label, values)
    return table.markdown()


def _published(of: TestSet) -> list[tuple[str, dict[str, float]]]:
    """The rows of the systems in `OURS` on a set, and of the best other system."""
    sources: dict[str, dict[str, dict[str, float]]] = {}
    for cell in tables.cells():
        if cell.dataset == of.name and of.name in PUBLISHED:
            source = sources.setdefault(cell.source, {})
            source.setdefault(cell.system, {})[cell.metric] = cell.value
    found = []
    for title, names in OURS.items():
        first = next(((s, n) for s in sources for n in names if n in sources[s]), None)
        if first:
            found.append(
                (f"{title}, published ({first[0].partition(',')[0]})", sources[first[0]][first[1]])
            )
    known = {n for names in OURS.values() for n in names}
    others = {s: {n: v for n, v in sources[s].items() if n not in known} for s in sources}
    common = {s: [c for c in SHOWN if all(c in v for v in o.values())] for s, o in others.items()}
    largest = max(others, key=lambda s: (bool(others[s]), len(common[s])), default=None)
    if largest is not None and others[largest]:
        rivals = others[largest]
        ranks = _ranks(rivals, common[largest])
        best = min(ranks, key=ranks.__getitem__)
        found.append((f"{best}, the best other in {largest}", rivals[best]))
    return found


def _warnings(of: TestSet) -> list[str]:
    """How many images of each method are anti-correlated with a source, clipped, or without SCD."""
    lines = []
    for method, values in _values(of).items():
        counts = {
            "anti-correlated with A": sum(v["CC_A"] < 0 for v in values),
            "anti-correlated with B": sum(v["CC_B"] < 0 for v in values),
            "clipped in more than 1 % of the pixels": sum(
                v["clipped"] > MOST_CLIPPED for v in values
            ),
            "equal to a source, so without SCD": sum(np.isnan(v["SCD"]) for v in values),
        }
        parts = [f"{n} of {len(values)} {what}" for what, n in counts.items() if n]
        lines += [f"- {method}: {', '.join(parts)}"] if parts else []
    return ["", "Warnings:", "", *lines] if lines else []


def _bars() -> list[str]:
    """For each shipped network, whether it reaches the published row and beats every baseline."""
    lines = []
    for name in weights.names():
        card = weights.card(name)
        for of in SETS:
            if (card["system"], of.name) in BAR_OF and name in _means(of):
                lines.append(f"- {name} on {of.name}: {_bar(name, card['system'], of)}")
    return (
        [
            "",
            "Do our weights reach the published row (0.95 of each metric) and a better mean rank than every method without weights?",
            "",
            *lines,
        ]
        if lines
        else []
    )


def _bar(name: str, system: str, of: TestSet) -> str:
    """One sentence: which conditions are met."""
    title = {"film": "FILM", "cddfuse": "CDDFuse"}[system]
    mean = _means(of)
    row = next(v for label, v in _published(of) if label.startswith(title))
    row = {m: v for m, v in row.items() if m in (*SHOWN, "MI")}  # SSIM has another formula there
    short = [f"{m} {mean[name][m]:.2f} of {v}" for m, v in row.items() if mean[name][m] < BAR * v]
    ranks = _ranks(mean, metrics.PAPER)
    better = [m for m in BASELINES if ranks[m] <= ranks[name]]
    negative = [s for s in "AB" if mean[name][f"CC_{s}"] <= 0]
    parts = [f"below {BAR} of {title}'s row in {', '.join(short)}"] if short else []
    if better:
        parts.append(
            f"the mean rank of the six metrics is not better than that of {', '.join(better)}"
        )
    parts += [f"CC with {s} is not positive" for s in negative]
    return "no: " + "; ".join(parts) if parts else "yes"


# ---- contact sheets --------------------------------------------------------------------------------


def _sheet(name: str) -> list[str]:
    """Draws the contact sheet of a task, of pairs that may be shown; returns the lines of the page."""
    if name not in sample.ENDINGS:
        return []
    demo = TestSet("Demo", name)
    measured = {m for of in SETS if of.task == name for m in _values(of)}
    systems = {m: system_for(m, demo) for m in methods(demo) if m in measured}
    drawn = []
    for rgb in _shown_pairs(name):
        pair = Pair.of_images(name, *rgb, None, task(name).chroma)
        fused = [inference.fuse_pair(s, pair)[0].image for s in systems.values()]
        drawn.append([*rgb, *fused])
    path = FOLDER / f"{name}.jpg"
    with tempfile.TemporaryDirectory() as drawing:
        grid = figures.grid(Path(drawing, "x.png"), ["A", "B", *systems], drawn, SHEET_HEIGHT)
        image.write(path, image.read_rgb(grid), "jpeg")
    return [
        f"![{name}: the sources and each method](results/{path.name})",
        "",
        "*Pairs made from scikit-image's photographs (`jfusion demo`). The images of the test sets belong to "
        "their owners: `jfusion test --dataset NAME --task TASK METHOD` writes a sheet of them, grid.png.*",
    ]


def _shown_pairs(name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """The pairs of a contact sheet, (H, W, 3) uint8."""
    with tempfile.TemporaryDirectory() as folder:
        sample.make(Path(folder), name)
        samples = find_samples(Path(folder), name, "Demo", "all")
        reader = image.Reader()
        return [reader.pair(x.a, x.b) for x in samples if x.name in ON_SHEET]


# ---- cards -----------------------------------------------------------------------------------------


def _update_card(name: str) -> None:
    """Writes what was measured onto the card of shipped weights."""
    card = weights.card(name)
    before = {m["set"]: m for m in card["measured"]}
    measured = []
    for of in SETS:
        values = _values(of).get(name, [])
        if values:
            mean = {k: round(v, 4) for k, v in means(values)[0].items()}
            row = {"set": of.name, "pairs": len(values), "values": mean}
            old = before.get(of.name, {})
            same = {k: old.get(k) for k in row} == row
            measured.append({**row, "date": old["date"] if same else time.strftime("%Y-%m-%d")})
    cards.write(weights.FOLDER / f"{name}.json", {**card, "measured": measured})


if __name__ == "__main__":
    main()
