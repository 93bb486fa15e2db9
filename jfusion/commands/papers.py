"""`jfusion papers`: the numbers that the papers printed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jfusion.config import REQUIRED, CommandOptions, setting
from jfusion.errors import UserError
from jfusion.metrics.table import Table
from jfusion.papers import compare, tables


@dataclass(frozen=True)
class Options(CommandOptions):
    """What is printed of the published tables."""

    action: Literal["list", "show"] = setting(
        REQUIRED,
        "list: the tables, their data sets, metrics and sources; show: the numbers",
        "list|show",
        positional=True,
    )
    row: str | None = setting(
        None,
        "show: what was published of a system on a data set, with its evaluator",
        "SYSTEM/DATASET",
        positional=True,
    )
    system: str | None = setting(None, "show: this system only (default: all)", "NAME")
    dataset: str | None = setting(None, "show: this data set only (default: all)", "NAME")
    metric: str | None = setting(None, "show: this metric only (default: all)", "NAME")


def run(options: Options) -> int:
    """Prints the tables."""
    filters = (options.system, options.dataset, options.metric)
    if options.row and (options.action != "show" or any(filters)):
        raise UserError("SYSTEM/DATASET stands alone: jfusion papers show SYSTEM/DATASET")
    if options.row:
        _show(*compare.parse(options.row))
        return 0
    if options.action == "show":
        for dataset, source, table in tables.select(*filters):
            print(f"{dataset} ({source})\n{table.text()}\n")
        return 0
    if any(filters):
        raise UserError("--system, --dataset and --metric choose from: jfusion papers show")
    print(tables.overview())
    return 0


def _show(system: str, dataset: str) -> None:
    """Prints a row for each source, the evaluator that it can be compared with, and its caveat."""
    for source, row in compare.published(system, dataset).items():
        printed = {m: max(2, len(f"{v:.10g}".partition(".")[2])) for m, v in row.items()}
        table = Table(row, decimals=printed)
        table.add(system, row)
        preset = compare.evaluator(source, system, dataset)
        compared = f"compare with --preset {preset}" if preset else "its evaluator is not known"
        print(f"{dataset} ({source}): {compared}\n{table.text()}")
        if caveat := compare.caveat(source):
            print(f"note: {caveat}")
        print()
