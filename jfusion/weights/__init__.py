"""The weights that come with jfusion, by name. Needs no Jittor.

Each has a card next to it; the files of one, called "film-ivf" for example, are

* `film-ivf.safetensors`: the weights in float16, read by `jfusion.checkpoint` as any other file;
* `film-ivf.json`: the card (`cards.py` lists what stands in it), with the SHA-256 of the other files;
* `film-ivf.npy`, for a system that reads paragraphs: the features of a paragraph that fits every pair
  of its task, for those who have no description of theirs.

`defaults.json` names for each task what is used where the user names nothing: weights, or a method
that needs none. `tools/ship_weights.py` writes all of them but `defaults.json`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from jfusion.data.layout import task as check_task
from jfusion.errors import UserError, did_you_mean
from jfusion.files import read_text
from jfusion.text.features import read_features
from jfusion.weights import cards

__all__ = ["FOLDER", "card", "default_for", "find", "names", "neutral_text", "resolve", "verify"]

FOLDER = Path(__file__).parent  # where everything is looked for; tests put another one here
SUFFIX = ".safetensors"
NO_CARDS = ("defaults",)  # JSON files that describe no weights


def names(task: str | None = None, system: str | None = None) -> list[str]:
    """The names of the weights that come with jfusion; of one task, of one system, or of both."""
    found = sorted(p.stem for p in FOLDER.glob("*.json") if p.stem not in NO_CARDS)
    if task is None and system is None:
        return found
    described = {name: card(name) for name in found}
    return [
        name
        for name, of in described.items()
        if task in (None, *of["tasks"]) and system in (None, of["system"])
    ]


def card(name: str) -> dict[str, Any]:
    """The card of the weights called `name`.

    Raises UserError for an unknown name, with the nearest one, and for a card that is not complete.
    """
    if name not in names():
        known = did_you_mean(name, names()) if names() else "; this version brings none"
        raise UserError(f"unknown weights {name!r}{known}")
    return cards.read(FOLDER / f"{name}.json")


def find(name: str) -> Path:
    """The file of the weights called `name`, whose hash is right. Raises UserError as `verify` does."""
    verify(name)
    return FOLDER / card(name)["file"]["name"]


def resolve(path: str | Path) -> Path:
    """The file of the weights of that name; a path that is none of their names, as it is.

    A file of the user's that has such a name is meant by ./NAME. Raises UserError as `find` does.
    """
    return find(str(path)) if str(path) in names() else Path(path)


def verify(name: str) -> None:
    """Raises UserError unless every file on a card is there and has the SHA-256 that the card names."""
    for entry in cards.files(card(name)):
        path = FOLDER / entry["name"]
        if not path.is_file():
            raise UserError(f"the weights {name} lack their file {path}; install jfusion again")
        if hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
            raise UserError(
                f"{path} is damaged or was changed: its SHA-256 is not the one on the card of {name}; "
                "install jfusion again"
            )


def neutral_text(path: str | Path | None) -> np.ndarray | None:
    """The features (L, D) of a paragraph that fits every pair, for weights that bring them.

    path: the file of the weights, as `find` gives it; None, or any other file: None.
    """
    found = card_of(path)
    if found is None or found["text"] is None:
        return None
    return read_features(FOLDER / found["text"]["file"]["name"])


def card_of(path: str | Path | None) -> dict[str, Any] | None:
    """The card of the weights whose file `find` gave; None for None, and for any other file."""
    path = None if path is None else Path(path)
    if path is None or path.parent != FOLDER or path.stem not in names():
        return None
    return card(path.stem)


def default_for(task: str) -> str | None:
    """What is used for a task where the user names nothing: the name of weights, or of a system
    without weights. None where `defaults.json` has no entry for it.

    Raises UserError for an unknown task.
    """
    check_task(task)
    path = FOLDER / "defaults.json"
    try:
        defaults = json.loads(read_text(path, "the defaults"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}; install jfusion again") from error
    return defaults.get(task)
