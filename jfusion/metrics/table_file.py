"""The file of a comparison (`table.yaml`): data sets, methods, and options of `jfusion metrics`.

    sets:
      TNO: {a: tno/ir, b: tno/vi, list: tno/test.txt, paper: film}
      RoadScene: {a: road/ir, b: road/vi}

    Methods:
      Ours: results/ours/{set}
      Theirs: results/theirs/{set}/{name}_fused
    preset: film
    latex: table.tex

Relative paths begin in the folder of the file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from jfusion import config
from jfusion.errors import UserError, did_you_mean
from jfusion.metrics.folders import DataSet

SET_KEYS = {f.name for f in fields(DataSet)} - {"name", "origin"} | {"paper"}
OUTPUTS = {"csv", "json", "markdown", "latex", "html", "figures", "strips"}
LISTS = ("paper", "zoom")


def options(path: str, names: Collection[str]) -> dict[str, Any]:
    """The options of the file, of those that may have these names. Raises UserError for any other."""
    content = config.read(path)
    for key in content:
        if key not in {*names, "sets", "methods"}:
            near = did_you_mean(key, [*names, "sets", "methods"])
            raise UserError(f"{path}: unknown setting {key!r}{near}")
    values = {key: value for key, value in content.items() if key in names}
    for key in OUTPUTS & values.keys():
        values[key] = _beside(path, values[key])
    for key in LISTS:
        if isinstance(values.get(key), str):
            values[key] = [values[key]]
    if isinstance(values.get("metrics"), list):
        values["metrics"] = ",".join(map(str, values["metrics"]))
    return values


def sets(path: str) -> tuple[list[DataSet], dict[str, list[str]]]:
    """The data sets, and the published rows (SYSTEM/DATASET) by data set. Raises UserError."""
    content = config.read(path).get("sets")
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: sets must be a mapping, such as TNO: {{a: tno/ir, b: tno/vi}}")
    result, papers = [], {}
    for name, places in content.items():
        name, where = str(name), f"{path}: the set {name}"
        _check_set(where, places)
        found = {key: _beside(path, place) for key, place in places.items() if key != "paper"}
        result.append(DataSet(name, **found, origin=where))
        listed = places.get("paper", [])
        listed = listed if isinstance(listed, list) else [listed]
        papers[name] = [str(p) if "/" in str(p) else f"{p}/{name}" for p in listed]
    return result, papers


def _check_set(where: str, places: Any) -> None:
    if not isinstance(places, dict) or not {"a", "b"} <= places.keys():
        raise UserError(f"{where} needs a and b, such as {{a: tno/ir, b: tno/vi}}")
    for key, value in places.items():
        if key not in SET_KEYS:
            raise UserError(f"{where}: unknown setting {key!r}{did_you_mean(str(key), SET_KEYS)}")
        if key != "paper" and (not isinstance(value, str) or not value):
            raise UserError(f"{where}: {key} must be a path, not {value!r}")


def methods(path: str) -> dict[str, str]:
    """Label -> place of the fused images. Raises UserError."""
    content = config.read(path).get("methods")
    valid = isinstance(content, Mapping) and all(isinstance(v, str) and v for v in content.values())
    if not valid or not content:
        raise UserError(f"{path}: methods must be a mapping, such as Ours: results/ours/{{set}}")
    return {str(label): _beside(path, place) for label, place in content.items()}


def _beside(file: str, path: Any) -> str:
    """A path as the file means it: a relative one begins where the file is."""
    return str(Path(file).parent / str(path))
