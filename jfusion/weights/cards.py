"""The card of weights: what a user should know before using them, in one JSON format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jfusion.errors import UserError
from jfusion.files import read_text, write_text

# What stands on a card, and the type of each value.
KEYS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "file": dict,  # "name", "bytes", "sha256"
    "system": str,
    "tasks": list,  # one network may serve several
    "settings": dict,  # those of the system's configuration
    "text": (
        dict,
        type(None),
    ),  # "encoder", "encoder_hash", "paragraph", "file"; None: no paragraphs
    "data": list,  # for each source: "name", "count", "terms" as stated, or "none stated"
    "data_list": dict,  # "count" and "sha256" of the sorted sample names, joined by newlines
    "recipe": dict,  # "commands", "commit", "seed", "steps", "hours", "machine"
    "measured": list,  # for each test set: "set", "pairs", "date", "values"
    "not_good_for": list,
    "license": str,
}
FILE = ("name", "sha256", "bytes")


def read(path: Path) -> dict[str, Any]:
    """A card. Raises UserError that names what is missing or of a wrong type."""
    try:
        card = json.loads(read_text(path, "the card"))
    except ValueError as error:
        raise UserError(f"the card {path} is not valid JSON: {error}") from error
    check(card, f"the card {path}")
    return card


def check(card: Any, where: str) -> None:
    """Raises UserError unless `card` has every key with a value of its type, and no other key."""
    if not isinstance(card, dict):
        raise UserError(f"{where} must hold one mapping")
    wrong = [k for k, kind in KEYS.items() if not isinstance(card.get(k, KEYS), kind)]
    wrong += [k for k in card if k not in KEYS]
    if wrong:
        raise UserError(f"{where} lacks, or has wrong values for: {', '.join(wrong)}")
    for entry in files(card):
        if not isinstance(entry, dict) or set(FILE) - set(entry):
            raise UserError(f"{where}: a file must have {', '.join(FILE)}")
        if Path(str(entry["name"])).name != entry["name"]:
            raise UserError(f"{where}: {entry['name']!r} is no name of a file next to it")


def files(card: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries of the files that a card describes: the weights, and the features of a paragraph."""
    return [card["file"], *([card["text"].get("file")] if card["text"] else [])]


def write(path: Path, card: dict[str, Any]) -> None:
    """Writes a card after `check`."""
    check(card, f"the card {path}")
    write_text(path, text(card) + "\n", "the card")


def text(card: dict[str, Any]) -> str:
    """A card as it is written and shown."""
    return json.dumps({k: card[k] for k in KEYS}, indent=2, ensure_ascii=False)
