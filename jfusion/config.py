"""Typed configurations: frozen dataclasses, to and from dictionaries, files and the command line."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from jfusion.errors import UserError, did_you_mean, nearest
from jfusion.files import read_text

T = TypeVar("T")
REQUIRED = dataclasses.MISSING  # the default of a setting that must be given
COUNTS = {2: "two", 3: "three", 4: "four"}
SHOWN = 60  # choices in more characters than this stand in the help text, not in the usage


def setting(
    default: Any,
    text: str,
    metavar: str | tuple[str, ...] = "",
    positional: bool = False,
    *,
    aliases: tuple[str, ...] = (),
    hidden: bool = False,
    training: bool = False,
    least: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """A field of a configuration: its default and the help text of its option.

    metavar: what stands for the value in the help; of a tuple, one word for each item. positional: on
    the command line an argument, not an option. aliases: other options of the same value ("-o"); a hidden
    setting `<name>_alias` of the same class gets the one that was typed, without its dashes. Allowed
    values are a `Literal[...]` in the annotation.
    training: it only says how a system is trained, and a command that does not train has no option for it.
    least, above, below: the bounds of a number, and of each number of a tuple.
    """
    metadata = {"help": text, "metavar": metavar, "positional": positional}
    metadata |= {"aliases": aliases, "hidden": hidden, "training": training}
    metadata |= {"least": least, "above": above, "below": below}
    return dataclasses.field(default=default, metadata=metadata)


# ---- dictionaries and files --------------------------------------------------------------------


def to_dict(config: Any) -> dict[str, Any]:
    """Plain values only, for JSON and for a checkpoint."""
    values = dataclasses.asdict(config)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "the configuration") -> T:
    """An instance of the dataclass `cls`. Unknown names and wrong values raise UserError."""
    hints, values = type_hints(cls), renamed(cls, values)
    names = [f.name for f in dataclasses.fields(cls) if f.init]
    for key in values:
        if key not in names:
            raise UserError(f"{where}: unknown setting {key!r}{did_you_mean(key, names)}")
    return cls(**{k: _convert(v, hints[k], f"{where}: {k}") for k, v in values.items()})


def renamed(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with the settings of older versions of `cls` under their present names."""
    table, present = getattr(cls, "RENAMED", {}), {}
    for key, value in values.items():
        new = table.get(key, key)
        present |= new(value) if callable(new) else {new: value}
    return present


@functools.cache
def type_hints(cls: type) -> dict[str, Any]:
    """The types of a dataclass's fields, by name."""
    return typing.get_type_hints(cls)


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
    for key in values:
        if not isinstance(key, str):
            raise UserError(f"{path}: the name of a setting must be a text, not {key!r}")
    return values


def _json(text: str) -> Any:
    """JSON that may have comments from // to the end of a line, as some authors' files do."""
    # a string is matched first and kept, so that the // of an address in it begins no comment
    return json.loads(re.sub(r'("(?:\\.|[^"\\])*")|//[^\n]*', r"\1", text))


# ---- the command line --------------------------------------------------------------------------


def option_of(name: str) -> str:
    """The option of a setting: batch_size -> --batch-size; from_, a word of Python's -> --from."""
    return "--" + name.rstrip("_").replace("_", "-")


def add_options(
    parser: argparse._ActionsContainer, cls: type, first: bool = False, training: bool = True
) -> None:
    """One `--option` for each field of the dataclass `cls`; an option that is not given is left out.

    An option that the parser already has is shared: the task of a data set is the system's too.
    first: for a first reading, nothing is required and positional arguments are left out.
    training: with the settings that only say how a system is trained.
    """
    for field in dataclasses.fields(cls):
        if field.metadata.get("training") and not training:
            continue
        option, positional = option_of(field.name), field.metadata.get("positional", False)
        if option in parser._option_string_actions or field.metadata.get("hidden"):
            continue
        hint = type_hints(cls)[field.name]
        common = {"default": argparse.SUPPRESS, "help": _help(field, hint).replace("%", "%%")}
        aliases = field.metadata.get("aliases", ())
        if positional and aliases:
            metavar = field.metadata["metavar"]
            parser.add_argument(*aliases, dest=field.name, action=_Alias, metavar=metavar, **common)
        if positional and first:
            continue
        if positional:
            shape: dict[str, Any] = {} if field.default is REQUIRED else {"nargs": "?"}
            if typing.get_origin(hint) is Sequence:
                shape = {"nargs": "+" if field.default is REQUIRED else "*"}
            metavar = field.name.upper() if aliases else field.metadata["metavar"]
            shape |= {"action": _Place} if aliases else {}
            parser.add_argument(
                field.name, metavar=metavar or field.name.upper(), **shape, **common
            )
            continue
        common |= {"dest": field.name, "required": field.default is REQUIRED and not first}
        if bool in _members(hint):
            parser.add_argument(option, action=argparse.BooleanOptionalAction, **common)
            continue
        parser.add_argument(option, *aliases, **_shape(field, hint), **common)
        if isinstance(field.default, tuple) and type(None) in typing.get_args(hint):
            off = {**common, "action": "store_const", "const": None, "help": f"{option} none"}
            parser.add_argument(option.replace("--", "--no-", 1), **off)


class _Alias(argparse.Action):
    """Stores the value, and under `<dest>_alias` the option that was typed for it."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        if before := getattr(namespace, f"{self.dest}_alias", None):
            parser.error(f"--{before} and {option_string} both name {self.dest.upper()}")
        setattr(namespace, self.dest, values)
        setattr(namespace, f"{self.dest}_alias", option_string.strip("-"))


class _Place(argparse.Action):
    """Stores a positional argument; under `twice` what is wrong where an option names the same thing."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        if alias := getattr(namespace, f"{self.dest}_alias", None):
            named = f"{self.dest.upper()} is named by --{alias} and by its place"
            namespace.twice = (
                f"{named} ({values}); give both sides by options, or both by their places"
            )
        setattr(namespace, self.dest, values)


def parsed(namespace: argparse.Namespace, cls: type) -> dict[str, Any]:
    """The options of `cls` that the user typed, converted; a wrong value raises UserError.

    An empty text is a mistake, such as a shell variable that is not set, unless it is the default or the
    help text says what it means.
    """
    values = {}
    for field in dataclasses.fields(cls):
        if hasattr(namespace, field.name):
            positional = field.metadata.get("positional", False)
            where = field.name if positional else option_of(field.name)
            value, hint = getattr(namespace, field.name), type_hints(cls)[field.name]
            empty = "" in value if isinstance(value, list) else value == ""
            if empty and field.default != "" and "empty:" not in field.metadata.get("help", ""):
                raise UserError(f"{where} must not be empty")
            values[field.name] = _bounded(_convert(value, hint, where), field, where)
    return values


def _help(field: dataclasses.Field, hint: Any) -> str:
    """The help text, with the choices that are too many for the usage, and the default, once."""
    text, choices, default = field.metadata.get("help", ""), _choices(hint), field.default
    if choices and len(_braces(choices)) > SHOWN:
        text += f": {', '.join(map(str, choices))}"
    if (
        field.metadata.get("positional")
        or default is REQUIRED
        or ("default" if default is None else "default:") in text
    ):
        return text
    return f"{text} (default: {_shown(default)})"


def _shown(value: Any) -> str:
    """A default as the help text names it."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value) or "empty"


def _shape(field: dataclasses.Field, hint: Any) -> dict[str, Any]:
    """How many values an option takes, and what stands for them in the help."""
    metavar, choices = field.metadata.get("metavar"), _choices(hint)
    for part in _members(hint):
        if typing.get_origin(part) is Sequence:
            return {"nargs": "+", "action": "extend", "metavar": metavar or "X"}
        if typing.get_origin(part) is tuple:
            items = typing.get_args(part)
            return {"nargs": len(items), "metavar": metavar or ("N",) * len(items)}
    if choices and len(_braces(choices)) <= SHOWN:
        return {"metavar": metavar or _braces(choices)}
    return {"metavar": metavar or ("N" if int in _members(hint) else "X")}


def _braces(choices: tuple[Any, ...]) -> str:
    return "{" + ",".join(map(str, choices)) + "}"


# ---- values and their types --------------------------------------------------------------------


def _members(hint: Any) -> tuple[Any, ...]:
    """The types of a union, without None; of anything else, itself."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(h for h in typing.get_args(hint) if h is not type(None))
    return (hint,)


def _choices(hint: Any) -> tuple[Any, ...]:
    """The values of a `Literal`, also inside `| None`; () for another type."""
    (part, *_) = _members(hint)
    return typing.get_args(part) if typing.get_origin(part) is typing.Literal else ()


def check(config: Any) -> None:
    """Checks the values of a frozen dataclass against types and bounds, and converts them like `from_dict`.

    Raises UserError that names the setting and whose it is: the system of a module `<system>.config`, the
    command of a module `commands.<command>`, otherwise the class.
    """
    cls = type(config)
    package, _, module = cls.__module__.rpartition(".")
    where = package.rpartition(".")[2] if module == "config" else cls.__name__
    where = module if package.endswith(".commands") else where
    for field in dataclasses.fields(config):
        hint, name = type_hints(cls)[field.name], f"{where}: {field.name}"
        value = _bounded(_convert(getattr(config, field.name), hint, name), field, name)
        object.__setattr__(config, field.name, value)


def _bounded(value: Any, field: dataclasses.Field, where: str) -> Any:
    """`value`, whose numbers must be finite and within the bounds of the setting."""
    least, above, below = (field.metadata.get(key) for key in ("least", "above", "below"))
    for number in value if isinstance(value, list | tuple) else (value,):
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if isinstance(number, float) and not math.isfinite(number):
            raise UserError(f"{where} must be a finite number, not {number}")
        if least is not None and number < least:
            raise UserError(f"{where} must be {least} or more, not {number}")
        if above is not None and number <= above:
            raise UserError(f"{where} must be above {above}, not {number}")
        if below is not None and number >= below:
            raise UserError(f"{where} must be below {below}, not {number}")
    return value


def _convert(value: Any, hint: Any, where: str) -> Any:
    """`value` as `hint` says; strings from the command line and lists from JSON are converted."""
    if type(None) in typing.get_args(hint) and (value is None or value == "none"):
        return None
    for member in _members(hint):
        try:
            return _as(member, value)
        except (TypeError, ValueError, OverflowError):  # overflow: int(inf), float(10**400)
            continue
    choices = [str(choice) for choice in _choices(hint)]
    if not choices:
        expected = " or ".join(map(_named, _members(hint)))
        raise UserError(f"{where} must be {expected}, not {value!r}")
    listed = " or ".join(choices) if len(choices) < 3 else f"one of {', '.join(choices)}"
    near = nearest(str(value), choices)
    ending = f"; did you mean {near!r}?" if near else ""
    raise UserError(f"{where} must be {listed}, not {value!r}{ending}")


def _as(hint: Any, value: Any) -> Any:
    """`value` as a value of one type; ValueError or TypeError when it is none."""
    origin, items = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return items[[str(item) for item in items].index(str(value))]
    if origin is tuple and isinstance(value, str):
        value = value.split("x")  # 16x16, as the help text writes it
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_as(h, v) for h, v in zip(items, value, strict=True))
    if origin is Sequence and isinstance(value, list | tuple):
        return [_as(items[0], v) for v in value]
    if hint in (int, float, str) and not isinstance(value, bool | dict | list | tuple | None):
        converted = hint(value)
        if hint is int and isinstance(value, float) and value != converted:
            raise ValueError
        return converted
    # True is an int for Python, but no number of anything
    if origin is None and isinstance(value, hint) and hint is not int:
        return value
    raise ValueError


def _named(hint: Any) -> str:
    """A type as an error names it: a whole number, two whole numbers, ..."""
    items = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        number = {int: "whole numbers", float: "numbers"}.get(items[0], "values")
        return f"{COUNTS.get(len(items), len(items))} {number}"
    if items:
        return " or ".join(map(_named, items))
    return {int: "a whole number", float: "a number"}.get(hint) or getattr(
        hint, "__name__", str(hint)
    )


# ---- commands and systems ----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class CommandOptions:
    """The options of a sub-command, whose types and choices are checked when they are created."""

    def __post_init__(self) -> None:
        check(self)


@dataclasses.dataclass(frozen=True)
class SystemConfig:
    """The settings that every system has: how its training data are read.

    A system's `Config` adds its own, and may give these other defaults. `RENAMED` maps a setting of
    an older version to the present one, so that old checkpoints load: name -> new name, or name ->
    a function from the old value to new settings.
    """

    RENAMED: ClassVar[dict[str, Any]] = {}
    # Whether the system can also be trained on a folder of single images, and not on pairs alone.
    TRAINS_ON_IMAGES: ClassVar[bool] = False

    crop: tuple[int, int] | None = setting(
        None,
        "train on random windows of this size; none: whole images",
        ("HEIGHT", "WIDTH"),
        training=True,
        least=1,
    )
    augment: bool = setting(
        False, "train on random flips and rotations by 90 degrees", training=True
    )
    drop_last: bool = setting(
        True, "leave out the incomplete batch at the end of an epoch", training=True
    )

    def __post_init__(self) -> None:
        """Checks the types and the choices of all settings; a subclass calls this before its own checks."""
        check(self)

    @classmethod
    def for_dataset(cls, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that an H5 file's attributes decide ("task", "dataset", "text_dim", ...)."""
        return {}

    @classmethod
    def from_old_run(
        cls, config: dict[str, Any], options: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The settings and the options of a run of an older version, where one became the other since."""
        return config, options

    @classmethod
    def from_official(cls, values: dict[str, Any], where: str) -> dict[str, Any]:
        """Settings from an authors' configuration file. Raises UserError where there is no such format."""
        raise UserError(f"{where}: this system's authors publish no configuration files")

    def check_training(self) -> None:
        """Raises UserError for settings that the system is not trained with."""
