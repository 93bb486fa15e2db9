"""Typed configurations: frozen dataclasses, to and from dictionaries, files and the command line."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from jfusion.errors import UserError, did_you_mean
from jfusion.files import read_text

T = TypeVar("T")


def setting(default: Any, text: str) -> Any:
    """A field of a configuration with its default and the help text of its option."""
    return dataclasses.field(default=default, metadata={"help": text})


def to_dict(config: Any) -> dict[str, Any]:
    """Plain values only, for JSON and for a checkpoint."""
    values = dataclasses.asdict(config)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def from_dict(cls: type[T], values: dict[str, Any], where: str = "the configuration") -> T:
    """An instance of the dataclass `cls`. Unknown names and wrong types raise UserError."""
    hints = typing.get_type_hints(cls)
    known = {f.name for f in dataclasses.fields(cls) if f.init}
    values = _renamed(values, getattr(cls, "RENAMED", {}))
    for key in values:
        if key not in known:
            raise UserError(f"{where}: unknown setting {key!r}{did_you_mean(key, known)}")
    return cls(**{k: _convert(v, hints[k], f"{where}: {k}") for k, v in values.items()})


def _renamed(values: dict[str, Any], table: dict[str, Any]) -> dict[str, Any]:
    """`values` with the settings of older versions under their present names."""
    present: dict[str, Any] = {}
    for key, value in values.items():
        new = table.get(key, key)
        present |= new(value) if callable(new) else {new: value}
    return present


def read(path: str | Path) -> dict[str, Any]:
    """What a JSON or YAML file holds; in JSON a line may end with a comment after //."""
    text = read_text(path, "the configuration file")
    try:
        if Path(path).suffix.lower() in (".yaml", ".yml"):
            import yaml

            values = yaml.safe_load(text)
        else:
            values = _json(text)
    except Exception as error:
        raise UserError(f"{path} is not valid: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold one mapping of settings to values")
    return values


def _json(text: str) -> Any:
    """JSON; as LFDT-Fusion's files, it may have comments from // to the end of a line."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return json.loads(re.sub(r"//.*", "", text))


def add_options(parser: argparse._ActionsContainer, cls: type) -> None:
    """One `--option` for each field of the dataclass `cls`; an option not given is left out.

    A field of a name that the command has already shares its option (the task of a data set is the
    system's too).
    """
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint, option = hints[field.name], "--" + field.name.replace("_", "-")
        if option in parser._option_string_actions:
            continue
        text = field.metadata.get("help", "") + f" (default: {_shown(field.default)})"
        common = {"dest": field.name, "default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
        if hint is bool:
            parser.add_argument(option, action=argparse.BooleanOptionalAction, **common)
        else:
            many = _item_types(hint)
            shape = (
                {"nargs": len(many), "metavar": ("HEIGHT", "WIDTH")} if many else {"metavar": "X"}
            )
            parser.add_argument(option, **shape, **common)


def given(namespace: argparse.Namespace, cls: type) -> dict[str, Any]:
    """The options of `cls` that the user gave."""
    return {
        f.name: getattr(namespace, f.name)
        for f in dataclasses.fields(cls)
        if hasattr(namespace, f.name)
    }


def _shown(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _item_types(hint: Any) -> tuple[type, ...]:
    """(int, int) for `tuple[int, int]`, also inside `| None`; () for anything else."""
    for part in typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,):
        if typing.get_origin(part) is tuple:
            return typing.get_args(part)
    return ()


def _convert(value: Any, hint: Any, where: str) -> Any:
    """`value` as `hint` says; strings from the command line and lists from JSON are converted."""
    if isinstance(hint, types.UnionType):
        if value is None or (value == "none" and type(None) in typing.get_args(hint)):
            return None
        hint = next(h for h in typing.get_args(hint) if h is not type(None))
    items = _item_types(hint)
    try:
        if items:
            if len(value) != len(items):
                raise ValueError
            return tuple(_convert(v, h, where) for v, h in zip(value, items, strict=True))
        if hint is bool:
            if not isinstance(value, bool):
                raise ValueError
            return value
        if hint in (int, float, str) and not isinstance(value, bool | dict | list):
            converted = hint(value)
            if hint is int and isinstance(value, float) and value != converted:
                raise ValueError
            return converted
    except (TypeError, ValueError):
        pass
    else:
        if not isinstance(hint, type) or isinstance(value, hint):
            return value
    expected = (
        "x".join(h.__name__ for h in items) if items else getattr(hint, "__name__", str(hint))
    )
    raise UserError(f"{where} must be {expected}, not {value!r}")


@dataclasses.dataclass(frozen=True)
class SystemConfig:
    """The settings that every system has: how its training data are read.

    A system's `Config` adds its own, and may give these other defaults. `RENAMED` maps a setting of
    an older version to the present one, so that old checkpoints load: name -> new name, or name ->
    a function from the old value to new settings.
    """

    RENAMED: typing.ClassVar[dict[str, Any]] = {}

    crop: tuple[int, int] | None = setting(
        None, "train on random windows of this size; none: whole images"
    )
    augment: bool = setting(False, "train on random flips and quarter turns")
    drop_last: bool = setting(True, "leave out the incomplete batch at the end of an epoch")
    schedule: str = setting(
        "",
        "with a folder of training sets: those that epochs are drawn from, parts of their names with "
        "commas (adni,pet,gfp,ct,adni: one may come twice); default: all, evenly",
    )

    @classmethod
    def for_dataset(cls, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that an H5 file's attributes decide ("task", "dataset", "text_dim", ...)."""
        return {}

    @classmethod
    def from_official(cls, values: dict[str, Any], where: str) -> dict[str, Any]:
        """Settings from an authors' configuration file. Raises UserError where there is no such format."""
        raise UserError(f"{where}: this system's authors publish no configuration files")
