"""`jfusion weights`: the weights that come with jfusion, their cards, and whether they are undamaged."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Literal

from jfusion import weights
from jfusion.config import CommandOptions, setting
from jfusion.data.layout import TASKS
from jfusion.errors import UserError, counted
from jfusion.weights import cards

EPILOG = (
    "A name stands wherever a checkpoint does: jfusion fuse --weights NAME, jfusion.load(NAME). What was "
    "measured on the papers' test sets: docs/results.md."
)


@dataclass(frozen=True)
class Options(CommandOptions):
    """What is done, and with which weights."""

    action: Literal["list", "show", "verify"] = setting(
        "list",
        "list: the names, and the default of each task; show: a card; verify: the hashes",
        "list|show|verify",
        positional=True,
    )
    name: str | None = setting(
        None, "the weights; needed by show (default: all)", "NAME", positional=True
    )


def run(options: Options) -> int:
    """Prints the list or a card, or checks the files; 2 when one is damaged."""
    if options.action == "show":
        if options.name is None:
            raise UserError("jfusion weights show needs a name; jfusion weights lists them")
        print(cards.text(weights.card(options.name)))
        return 0
    chosen = weights.names() if options.name is None else [options.name]
    if options.action == "verify":
        return _verify(chosen)
    _list([weights.card(name) for name in chosen])
    return 0


def _verify(names: list[str]) -> int:
    """Checks every file, and names those that are wrong; returns the exit code."""
    code = 0
    for name in names:
        try:
            weights.verify(name)
            print(f"{name}: {counted(len(cards.files(weights.card(name))), 'file')}, hashes right")
        except UserError as error:
            print(f"jfusion: {error}", file=sys.stderr)
            code = 2
    if not names:
        print("no weights come with this version: there is nothing to verify")
    return code


def _list(listed: list[dict[str, Any]]) -> None:
    width = max((len(card["name"]) for card in listed), default=0)
    for card in listed:
        size = card["file"]["bytes"] / 2**20
        print(
            f"{card['name']:<{width}}  {card['system']}, {' '.join(card['tasks'])}, {size:.1f} MiB"
        )
    if not listed:
        print("no weights come with this version; methods without weights: jfusion systems")
    print("without --weights and --system, jfusion fuse and jfusion test use:")
    for task in TASKS:
        print(f"  {task}  {weights.default_for(task) or 'nothing'}")
