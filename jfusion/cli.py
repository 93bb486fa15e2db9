"""The `jfusion` command: which module runs a sub-command, how its options are read, exit codes.

A sub-command `jfusion NAME` is the module `jfusion/commands/NAME.py`, imported when it is typed. It has
a dataclass `Options`, whose fields become arguments and options, and `run(options) -> int`. A command
that also takes the settings of a system has `system_of(values)`, which returns the name of that system from the
options that were given (None where they name none), and `run(options, settings) -> int`. A command that
reads options from a file has `from_file(values)`, which adds them to those that were typed. A command that
also understands the options of a published script has `spelled(arguments)`, which gives them their names.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import os
import re
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from jfusion import config, interrupt, processes
from jfusion.errors import UserError, did_you_mean, log_error, nearest, printable
from jfusion.files import protecting_inputs
from jfusion.systems import registry
from jfusion.version import __version__

COMMANDS = {
    "preprocess": "make an H5 file from folders of pairs",
    "describe": "let a vision-language model write a paragraph about each pair",
    "embed": "make paragraph features from texts",
    "slices": "write the slices of a medical volume as 8-bit images",
    "check": "verify an H5 file and print what is in it",
    "train": "train a system, or resume a run",
    "plot": "draw the curves of training runs over one another",
    "runs": "list training runs, or remove their checkpoints",
    "test": "fuse a test set and print its metrics next to the paper's",
    "fuse": "fuse two images, folders, volumes or videos",
    "align": "register the images of each pair (Diff-FCCF), or calibrate a rig of two cameras",
    "weights": "list the weights that come with jfusion, and their cards",
    "inspect": "show what is in a checkpoint",
    "convert": "write a checkpoint in another format or by other names",
    "metrics": "evaluate folders of fused images",
    "parity": "prove a port: next to the authors' code, from names to speed",
    "papers": "show the numbers that the papers printed",
    "app": "open a page to fuse images, compare methods, and see results and runs",
    "demo": "run the whole job on sample photographs",
    "systems": "list the systems",
    "doctor": "show what jfusion found on this machine",
    "cache": "carry what was compiled to another machine",
}
FILE_HELP = "settings as JSON or YAML; options override them"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code.

    0: done; 2: a mistake of the user's, in one line; 70: a fault of jfusion's, in one line that names the
    log with the traceback; 130: Ctrl-C.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _open_missing_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a character that a terminal lacks becomes "?"
            stream.reconfigure(errors="replace")
    try:
        with protecting_inputs():
            command = partial(_command, arguments)
            # the processes of a training share every batch; see jfusion.runtime.mpi
            several = processes.are_several() and arguments[:1] != ["train"]
            code = processes.run(command) if several else command()
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except _Exit as done:
        return done.code
    except KeyboardInterrupt:
        return interrupt.CODE
    except BrokenPipeError:
        sys.stdout = None  # nobody reads it any more; Python would say so once more at exit
        return 0
    except Exception as error:
        code = _failed(error)
        _drop_full_output()
        return code


def _command(arguments: list[str]) -> int:
    """Runs the command that was typed, or says what commands there are."""
    if not arguments or arguments[0] not in COMMANDS:
        return _no_command(arguments)
    return _run(arguments[0], arguments[1:]) or 0


def _drop_full_output() -> None:
    """Drops what stdout cannot take: Python would write it once more at exit, and change the exit code."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        sys.stdout = None


def _open_missing_streams() -> None:
    """Gives a process that was started without stdin, stdout or stderr (`2>&-`) /dev/null in its place.

    Otherwise the next file that is opened has the number of stderr, and what is printed is written to it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(
                os.open(os.devnull, os.O_RDWR), True
            )  # the lowest free number: this one
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115


def _failed(error: Exception) -> int:
    """Prints one line for an error; returns the exit code."""
    if isinstance(error, UserError):
        text, code = str(error), 2
    elif isinstance(error, MemoryError):
        text, code = "this needs more memory than there is; use smaller images or batches", 2
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        where = f" ({error.filename})" if error.filename else ""
        text, code = f"nothing more can be written{where}: {error.strerror}; free some space", 2
    else:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        text, code = f"a fault of jfusion's own, {reason} (the traceback: {log_error()})", 70
    with contextlib.suppress(OSError):
        print(f"jfusion: {printable(text, 4000)}", file=sys.stderr)
    return code


def _no_command(arguments: list[str]) -> int:
    """`jfusion`, `jfusion --help`, `jfusion --version`, or a command that is mistyped."""
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    parser = _Parser(
        prog="jfusion",
        usage="jfusion COMMAND [options]",
        description="Fuses pairs of images into one: published systems on Jittor.",
        epilog=f"commands:\n{listed}\n\n"
        f"A data set, start to end: jfusion preprocess, jfusion train {registry.DEFAULT}, jfusion test.\n"
        "jfusion COMMAND --help lists the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"jfusion {__version__}")
    if arguments and not arguments[0].startswith("-"):
        parser.error(f"unknown command {arguments[0]!r}{did_you_mean(arguments[0], COMMANDS)}")
    parser.parse(arguments)
    parser.print_help()
    return 0


def _run(command: str, arguments: list[str]) -> int:
    module = import_module(f"jfusion.commands.{command}")
    arguments = module.spelled(arguments) if hasattr(module, "spelled") else arguments
    parser = _parser(command, module)
    parser.add(module.Options)
    if not hasattr(module, "system_of"):
        values = config.parsed(parser.parse(arguments), module.Options)
        values = module.from_file(values) if hasattr(module, "from_file") else values
        options = config.from_dict(module.Options, values, command)
        interrupt.raise_on_interrupt()
        return module.run(options)
    parser.add_argument("--config", metavar="FILE", help=FILE_HELP)
    parser.takes_settings = True
    system = _add_settings(parser, module, arguments)
    namespace = parser.parse(arguments)
    values, settings = config.parsed(namespace, module.Options), {}
    if system is not None:
        cls = registry.config_class(system)
        settings = config.parsed(namespace, cls)
        if hasattr(namespace, "config"):
            of_command, of_system = _read_settings(namespace.config, module.Options, cls)
            values, settings = {**of_command, **values}, {**of_system, **settings}
    options = config.from_dict(module.Options, values, command)
    interrupt.raise_on_interrupt()
    return module.run(options, settings)


# ---- the parser of a command -------------------------------------------------------------------


class _Exit(Exception):
    """The parser has printed what there is to say."""

    def __init__(self, code: int):
        self.code = code


class _Parser(argparse.ArgumentParser):
    """argparse without abbreviations, with a short usage, and with a hint for an unknown option."""

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, argument_default=argparse.SUPPRESS, **options)
        self.quiet = False
        self.takes_settings = False  # of a system, which the options name
        self.system: str | None = None  # whose settings are among the options
        self.renamed: dict[str, str] = {}  # options of older versions, and what they are called now

    def add(
        self, cls: type, group: argparse._ArgumentGroup | None = None, training: bool = True
    ) -> None:
        """Adds the options of the dataclass `cls`, which stand together in the help in a group."""
        config.add_options(group or self, cls, training=training)
        for old, new in getattr(cls, "RENAMED", {}).items():
            if isinstance(new, str):
                self.renamed[config.option_of(old)] = config.option_of(new)

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        """The values that were given; positional arguments may stand between the options."""
        namespace, rest = self.parse_known_intermixed_args(arguments)
        typed = next((word.partition("=")[0] for word in rest if word.startswith("-")), None)
        if typed is not None:
            self.error(f"unknown option {typed}{self._hint(typed)}")
        if rest:
            self.error(f"unexpected argument {rest[0]!r}")
        if twice := getattr(namespace, "twice", None):
            self.error(twice)
        return namespace

    def _hint(self, typed: str) -> str:
        """What may help with an unknown option: its new name, whose setting it is, or the nearest one."""
        positive = typed.replace("--no-", "--", 1)
        if positive in self.renamed:
            return f", which is called {self.renamed[positive]} now"
        if self.system and positive in map(
            config.option_of, config.type_hints(registry.config_class(self.system))
        ):
            return ", which only jfusion train takes"
        for other in registry.SYSTEMS if self.takes_settings else ():
            fields = config.type_hints(registry.config_class(other))
            if positive in map(config.option_of, fields):
                here = f"these are those of {self.system}" if self.system else "name the system"
                return f", a setting of {other}; {here}"
        near = self._nearest(typed.strip("-"))
        return f"; did you mean --{near}?" if near else ""

    def _nearest(self, word: str) -> str | None:
        """The option that was meant, by its initials (lr), its beginning (batch), or its letters."""
        names = [option.strip("-") for option in self._option_string_actions if len(option) > 2]
        for name in names:
            if name.startswith(word) or word == "".join(part[:1] for part in name.split("-")):
                return name
        return nearest(word, names, 0.6)

    def format_usage(self) -> str:
        """One line: `usage: jfusion NAME ARGUMENT --required X [options]`."""
        self._shorten_usage()
        return super().format_usage()

    def format_help(self) -> str:
        """The help, with the usage of one line."""
        self._shorten_usage()
        return super().format_help()

    def _shorten_usage(self) -> None:
        if self.usage is not None:
            return
        words = [self.prog]
        for action in self._actions:
            shown = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
            if not action.option_strings:
                words.append(f"[{shown}]" if action.nargs == "?" else shown)
            elif action.required:
                words += [action.option_strings[0], shown]
        self.usage = " ".join([*words, "[options]"])

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Ends the parsing, not the process."""
        if message:
            print(message, end="", file=sys.stderr)
        raise _Exit(status)

    def error(self, message: str) -> NoReturn:
        """Prints the usage and what is wrong, unless `quiet`; the exit code is 2."""
        if self.quiet:
            self.exit(2)
        option = re.match(r"argument (?:-\w/)?(--[\w-]+)\S*: expected one argument", message)
        if option:
            message += f"; a value that begins with a dash is written {option[1]}=VALUE"
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {message} ({self.prog} --help lists the options)\n")


def parser_of(command: str, system: str | None = None) -> argparse.ArgumentParser:
    """The parser of a command, for documentation; its group `settings` holds those of a system, if named."""
    module = import_module(f"jfusion.commands.{command}")
    parser = _parser(command, module)
    parser.add(module.Options)
    parser.settings = parser.add_argument_group("settings")
    if system is not None:
        parser.add(registry.config_class(system), parser.settings, hasattr(module, "TRAINS"))
    return parser


def _parser(command: str, module: ModuleType) -> _Parser:
    text = COMMANDS[command]
    return _Parser(
        prog=f"jfusion {command}",
        description=text[0].upper() + text[1:] + ".",
        epilog=getattr(module, "EPILOG", None),
    )


# ---- the settings of a system ------------------------------------------------------------------


def _add_settings(parser: _Parser, module: ModuleType, arguments: list[str]) -> str | None:
    """Adds the settings of the command's system; returns its name, None where no setting is given.

    A first reading, which knows the options of the command only, says which system it is. An argument
    (not an option) that stands before the first setting is the system's name.
    """
    first = _Parser(add_help=False)
    first.add_argument("-h", "--help", action="store_true")
    first.add_argument("--config")
    config.add_options(first, module.Options, first=True)
    first.quiet = True
    try:
        namespace, rest = first.parse_known_args(arguments)
    except _Exit:  # the second reading says what is wrong
        return None
    values = config.parsed(namespace, module.Options)
    arguments_of = [f.name for f in dataclasses.fields(module.Options) if f.metadata["positional"]]
    for name in arguments_of:
        if rest and not rest[0].startswith("-"):
            values.setdefault(name, rest.pop(0))
    if not (rest or hasattr(namespace, "help") or hasattr(namespace, "config")):
        return None
    system = module.system_of(values)
    if system is None and hasattr(namespace, "config"):
        system = registry.DEFAULT
    if system is None:
        return None
    parser.system = system
    group, training = parser.add_argument_group(f"settings of {system}"), hasattr(module, "TRAINS")
    parser.add(registry.config_class(system), group, training)
    return system


def _read_settings(path: str, options: type, cls: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values in a file for the command's options, and for the settings of its system.

    A file whose values are mappings is one of the authors'. Unknown names raise UserError.
    """
    values = config.read(path)
    of_command, of_system = ({f.name for f in dataclasses.fields(c)} for c in (options, cls))
    of_command -= {"system", *of_system}
    if any(isinstance(value, Mapping) for value in values.values()):
        values = cls.from_official(values, path)
        values = {k: v for k, v in values.items() if k in of_command | of_system}
    values = config.renamed(cls, values)
    for name in values:
        if name not in of_command | of_system:
            near = did_you_mean(name, of_command | of_system)
            raise UserError(f"{path}: unknown setting {name!r}{near}")
    first, second = (
        {k: v for k, v in values.items() if k in names} for names in (of_command, of_system)
    )
    return first, second
