"""The published rows of a system on a data set, and a table of ours beside them."""

from __future__ import annotations

import csv
from typing import Any

from jfusion.errors import UserError, did_you_mean
from jfusion.metrics.table import Table
from jfusion.papers.tables import FOLDER, cells

NAMES = {
    "film": "FILM",
    "cddfuse": "CDDFuse",
    "sfdfuse": "SFDFuse",
    "ddfm": "DDFM",
    "film-nankai": "FILM (PyTorch)",
}
# Folder names of the VLF layout -> names in the papers' tables.
ALIASES = {"harvard_ct": "mri_ct", "harvard_pet": "mri_pet", "harvard_spect": "mri_spect"}


def published(
    system: str, dataset: str, names: tuple[str, ...] = ()
) -> dict[str, dict[str, float]]:
    """Source -> {metric: value} for a system of ours on a data set; {} when nothing was published.

    names: what the tables call it, if not by its usual name.
    """
    rows: dict[str, dict[str, float]] = {}
    for c in cells(system.replace("-", "_")):
        named = c.system in (names or (NAMES.get(system),))
        if named and _plain(c.dataset) == _plain(dataset):
            rows.setdefault(c.source.split(",")[0], {})[c.metric] = c.value
    return rows


def parse(paper: str) -> tuple[str, str]:
    """ "film/RoadScene" -> its system and data set; raises UserError when nothing was published."""
    system, slash, dataset = paper.partition("/")
    if system.lower() not in NAMES or not slash:
        known = sorted(NAMES)
        raise UserError(
            f"--paper wants system/dataset, for example film/RoadScene, not {paper!r}"
            f"{did_you_mean(system, known)}"
        )
    if not published(system.lower(), dataset):
        sets = {c.dataset for c in cells(system.lower().replace("-", "_"))}
        raise UserError(f"{system} published nothing on {dataset!r}{did_you_mean(dataset, sets)}")
    return system.lower(), dataset


def beside_published(table: Table, system: str, dataset: str, names: tuple[str, ...] = ()) -> Table:
    """`table` (whose rows are ours) with the first published row and each row's difference below."""
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
    """What differs between our evaluation and the paper's, one plain line each."""
    known = _protocol(system, dataset)
    lines = []
    if known["pairs"] and int(known["pairs"]) != pairs:
        lines.append(f"the published row is over {known['pairs']} pairs, ours over {pairs}")
    if not known["pairs"]:
        lines.append(
            f"ours is over {pairs} pairs; the source of the published row does not say which pairs "
            "it is over"
        )
    if known["preset"] != preset:
        lines.append(f"its definitions are those of --preset {known['preset']}, ours of {preset}")
    if known["note"]:
        lines.append(known["note"])
    return lines


def preset_of(system: str) -> str:
    """The evaluator that a system's paper used, one of `metrics.PRESETS`."""
    return _protocol(system, "*")["preset"]


def row_names(system: str, config: Any) -> tuple[str, ...]:
    """What the tables call the system under this configuration; () for its usual name."""
    return ()


def notes(system: str, task: str, config: Any) -> list[str]:
    """What a user of the system should know about this task, one plain line each."""
    return []


def _protocol(system: str, dataset: str) -> dict[str, str]:
    with (FOLDER / "protocols.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["system"] == system]
    rows = [row for row in rows if row["dataset"] in ("*", _plain(dataset))]
    return rows[0] if rows else {"pairs": "", "preset": "film", "note": ""}


def _plain(dataset: str) -> str:
    """One spelling for MRI-CT, MRI_CT and Harvard_CT."""
    name = dataset.lower().replace("-", "_")
    return ALIASES.get(name, name)
