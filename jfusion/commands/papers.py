"""`jfusion papers`: the numbers that the papers printed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jfusion.config import REQUIRED, CommandOptions, setting
from jfusion.errors import UserError
from jfusion.papers import tables


@dataclass(frozen=True)
class Options(CommandOptions):
    """What is printed of the published tables."""

    action: Literal["list", "show"] = setting(
        REQUIRED,
        "list: the tables, their data sets, metrics and sources; show: the numbers",
        "list|show",
        positional=True,
    )
    system: str | None = setting(None, "show: this system only (default: all)", "NAME")
    dataset: str | None = setting(None, "show: this data set only (default: all)", "NAME")
    metric: str | None = setting(None, "show: this metric only (default: all)", "NAME")


def run(options: Options) -> int:
    """Prints the tables."""
    filters = (options.system, options.dataset, options.metric)
    if options.action == "show":
        for dataset, source, table in tables.select(*filters):
            print(f"{dataset} ({source})\n{table.text()}\n")
        return 0
    if any(filters):
        raise UserError("--system, --dataset and --metric choose from: jfusion papers show")
    print(tables.overview())
    return 0
