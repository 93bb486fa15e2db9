"""What the papers say of a system: its published rows, its evaluator, and what to know of both.

All of it is in CSV files of this folder: `names.csv` has the rows of a system in the published
tables, where a setting may choose other rows; `notes.csv` has remarks on a task, `protocols.csv` the
evaluator, the number of pairs and a remark for each data set ("*": all others), and `sources.csv` the
same for papers that measured the systems of others ("": an evaluator that is not known).
"""

from __future__ import annotations

import csv
from functools import cache

from jfusion.errors import UserError, counted, did_you_mean
from jfusion.metrics import PRESETS
from jfusion.metrics.table import Table
from jfusion.papers.tables import FOLDER, cells

OF_OTHERS = ("others_2026", "vifb_average")  # tables that measured the systems of others
PUBLISHED = "published"  # how the label of a published row begins

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

    The system's own paper comes first, then the papers of others that measured it. names: what the
    tables call it, if not by its usual name.
    """
    names = names or published_names(system) or (system,)
    plain = {name.lower() for name in names}
    prefix = system.lower().replace("-", "_") + "_"
    rows: dict[str, dict[str, float]] = {}
    for c in sorted(cells(), key=lambda c: not c.table.startswith(prefix)):
        of_others = not c.table.startswith(prefix) and c.table not in OF_OTHERS
        if of_others or c.system.lower() not in plain or not same(c.dataset, dataset):
            continue
        rows.setdefault(c.source.split(",")[0], {})[c.metric] = c.value
    return rows


def same(dataset: str, other: str) -> bool:
    """Whether two names mean one data set: MRI-CT, MRI_CT and Harvard_CT do."""
    return _plain(dataset) == _plain(other)


def parse(paper: str) -> tuple[str, str]:
    """Returns the system and the data set of "film/RoadScene".

    Raises UserError when nothing was published on it.
    """
    system, slash, dataset = paper.partition("/")
    printed = {c.system.lower(): c.system for c in cells() if c.table in OF_OTHERS}
    systems = {row["system"]: row["system"] for row in _rows("names")}
    choices = {**printed, **systems}
    if system.lower() not in choices or not slash:
        raise UserError(
            f"--paper wants system/dataset, for example film/RoadScene, not {paper!r}"
            f"{did_you_mean(system, choices.values())}"
        )
    system = choices[system.lower()]
    if not published(system, dataset):
        names = {name.lower() for name in published_names(system) or (system,)}
        sets = {c.dataset for c in cells() if c.system.lower() in names}
        raise UserError(f"{system} published nothing on {dataset!r}{did_you_mean(dataset, sets)}")
    return system, dataset


def add_published(
    table: Table,
    system: str,
    dataset: str,
    names: tuple[str, ...] = (),
    preset: str | None = None,
    named: bool = False,
) -> Table:
    """Adds to `table`, whose first rows are ours, a published row; of one or two rows of ours, the differences.

    It is the first row whose evaluator can be compared with `preset`, and only its metrics of the same
    definition; preset None: the first row as it is. named: the label says the system too.
    """
    ours = [row for row in table.rows if not row.signed and not row.label.startswith(PUBLISHED)]
    for source, row in published(system, dataset, names).items():
        row = _comparable(row, evaluator(source, system, dataset), preset)
        if set(row) & set(table.columns):
            name = f" {system}" if named else ""
            table.add(f"{PUBLISHED}{name} ({source})", row)
            for r in ours if len(ours) <= 2 and not named else ():
                differences = {m: r.values[m] - v for m, v in row.items() if m in r.values}
                label = "difference" if len(ours) == 1 else f"difference of {r.label}"
                table.add(label, differences, signed=True)
            break
    return table


def evaluator(source: str, system: str, dataset: str) -> str:
    """Returns the preset that can be compared with the numbers of a source; "" when it is not known."""
    for row in _rows("sources"):
        if source.startswith(row["source"]):
            return row["preset"]
    return _protocol(system, dataset)["preset"]


def _comparable(row: dict[str, float], theirs: str, ours: str | None) -> dict[str, float]:
    """The values of a row whose metrics have the same definition in both evaluators."""
    if ours is None or theirs == ours:
        return row
    if not theirs or PRESETS[theirs].channels != PRESETS[ours].channels:
        return {}
    first, second = PRESETS[theirs].metrics, PRESETS[ours].metrics
    return {m: v for m, v in row.items() if m in first and first[m] == second[m]}


def protocol(system: str, dataset: str, preset: str, pairs: int) -> list[str]:
    """Returns what differs between our evaluation and the paper's, one plain line each.

    preset, pairs: the evaluator and the number of pairs of ours.
    """
    rows = published(system, dataset)
    shown = [
        s for s, row in rows.items() if _comparable(row, evaluator(s, system, dataset), preset)
    ]
    if rows and not shown:
        return [_not_shown(s, system, dataset) for s in rows]
    theirs = _protocol(system, dataset)
    remark = next((r for r in _rows("sources") if shown and shown[0].startswith(r["source"])), None)
    if remark:
        theirs = {"pairs": remark["pairs"], "preset": remark["preset"], "note": remark["caveat"]}
    lines = []
    if theirs["pairs"] and int(theirs["pairs"]) != pairs:
        of_theirs = counted(int(theirs["pairs"]), "pair")
        lines.append(f"the published row is over {of_theirs}, ours over {pairs}")
    if not theirs["pairs"]:
        lines.append(
            f"ours is over {counted(pairs, 'pair')}; the source of the published row does not say which pairs "
            "it is over"
        )
    if theirs["preset"] != preset:
        lines.append(f"its definitions are those of --preset {theirs['preset']}, ours of {preset}")
    if theirs["note"]:
        lines.append(theirs["note"])
    return lines


def _not_shown(source: str, system: str, dataset: str) -> str:
    theirs = evaluator(source, system, dataset)
    reason = (
        f"its definitions are those of --preset {theirs}"
        if theirs
        else "its evaluator is not known"
    )
    shown = f"jfusion papers show {system}/{dataset}"
    return f"the row of {system} in {source} is not comparable: {reason} ({shown} prints it)"


def caveat(source: str) -> str:
    """Returns what to know of the numbers of a source; "" when there is nothing."""
    return next((r["caveat"] for r in _rows("sources") if source.startswith(r["source"])), "")


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
