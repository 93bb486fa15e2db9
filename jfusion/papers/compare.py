"""What the papers say of a system: its published rows, its evaluator, and what to know of both.

All of it is in CSV files of this folder: `names.csv` has the rows of a system in the published
tables, where a setting may choose other rows; `notes.csv` has remarks on a task, `protocols.csv` the
evaluator, the number of pairs and a remark for each data set ("*": all others).
"""

from __future__ import annotations

import csv
from functools import cache

from jfusion.errors import UserError, did_you_mean
from jfusion.metrics.table import Table
from jfusion.papers.tables import FOLDER, cells

# Folder names of the VLF layout -> names in the papers' tables.
ALIASES = {"harvard_ct": "mri_ct", "harvard_pet": "mri_pet", "harvard_spect": "mri_spect"}


def published_names(system: str, config: object = None) -> tuple[str, ...]:
    """Returns what the published tables call a system; () when they have no row of it.

    A setting of `config` may choose other rows: CDDFuse has one for each way that the authors ran it
    on medical pairs.
    """
    rows = [row for row in _rows("names") if row["system"] == system]
    chosen = [row for row in rows if row["setting"] and _applies(row, config)]
    return tuple(row["row"] for row in chosen or rows if chosen or not row["setting"])


def notes(system: str, task: str, config: object = None) -> list[str]:
    """Returns what a user of a system should know of a task under `config`, one plain line each."""
    rows = [row for row in _rows("notes") if (row["system"], row["task"]) == (system, task)]
    return [row["note"] for row in rows if _applies(row, config)]


def preset_of(system: str) -> str:
    """Returns the evaluator that a system's paper used, one of `metrics.PRESETS`."""
    return _protocol(system, "*")["preset"]


def published(
    system: str, dataset: str, names: tuple[str, ...] = ()
) -> dict[str, dict[str, float]]:
    """Returns source -> {metric: value} of a system on a data set; {} when nothing was published.

    names: what the tables call it, if not by its usual name.
    """
    names = names or published_names(system)
    rows: dict[str, dict[str, float]] = {}
    for c in cells(system.replace("-", "_")):
        if c.system in names and _plain(c.dataset) == _plain(dataset):
            rows.setdefault(c.source.split(",")[0], {})[c.metric] = c.value
    return rows


def parse(paper: str) -> tuple[str, str]:
    """Returns the system and the data set of "film/RoadScene".

    Raises UserError when nothing was published on it.
    """
    system, slash, dataset = paper.partition("/")
    systems = sorted({row["system"] for row in _rows("names")})
    if system.lower() not in systems or not slash:
        raise UserError(
            f"--paper wants system/dataset, for example film/RoadScene, not {paper!r}"
            f"{did_you_mean(system, systems)}"
        )
    if not published(system.lower(), dataset):
        sets = {c.dataset for c in cells(system.lower().replace("-", "_"))}
        raise UserError(f"{system} published nothing on {dataset!r}{did_you_mean(dataset, sets)}")
    return system.lower(), dataset


def add_published(table: Table, system: str, dataset: str, names: tuple[str, ...] = ()) -> Table:
    """Adds to `table`, whose rows are ours, the first published row and each row's difference."""
    ours = list(table.rows)
    for source, row in published(system, dataset, names).items():
        if set(row) & set(table.columns):
            table.add(f"published ({source})", row)
            for r in ours:
                differences = {m: r.values[m] - v for m, v in row.items() if m in r.values}
                label = "difference" if len(ours) == 1 else f"difference of {r.label}"
                table.add(label, differences, signed=True)
            break
    return table


def protocol(system: str, dataset: str, preset: str, pairs: int) -> list[str]:
    """Returns what differs between our evaluation and the paper's, one plain line each.

    preset, pairs: the evaluator and the number of pairs of ours.
    """
    theirs = _protocol(system, dataset)
    lines = []
    if theirs["pairs"] and int(theirs["pairs"]) != pairs:
        lines.append(f"the published row is over {theirs['pairs']} pairs, ours over {pairs}")
    if not theirs["pairs"]:
        lines.append(
            f"ours is over {pairs} pairs; the source of the published row does not say which pairs "
            "it is over"
        )
    if theirs["preset"] != preset:
        lines.append(f"its definitions are those of --preset {theirs['preset']}, ours of {preset}")
    if theirs["note"]:
        lines.append(theirs["note"])
    return lines


def _protocol(system: str, dataset: str) -> dict[str, str]:
    rows = [row for row in _rows("protocols") if row["system"] == system]
    rows = [row for row in rows if row["dataset"] in ("*", _plain(dataset))]
    return rows[0] if rows else {"pairs": "", "preset": "film", "note": ""}


@cache
def _rows(name: str) -> list[dict[str, str]]:
    with (FOLDER / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _applies(row: dict[str, str], config: object) -> bool:
    """Whether `config` has the setting and the value of a row; a row without a setting always applies."""
    return not row["setting"] or str(getattr(config, row["setting"], None)) == row["value"]


def _plain(dataset: str) -> str:
    """One spelling for MRI-CT, MRI_CT and Harvard_CT."""
    name = dataset.lower().replace("-", "_")
    return ALIASES.get(name, name)
