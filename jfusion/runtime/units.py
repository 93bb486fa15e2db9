"""Compiles the C++ sources of Jittor's core in a few units of many files each.

Jittor compiles some 150 files one by one, and each reads the same headers for seconds. Here neighbors in
the order in which Jittor links them become one unit, which keeps the order in which they are initialized.
The installed package is only read: names that two files of a unit share are changed in the unit.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from jfusion.errors import UserError, counted

JITTOR_VERSION = "1.3.11.0"
CSRC = Path(__file__).parent / "csrc"

# They give a name of Jittor's headers another meaning.
_ALONE = ("cuda_flags.cc", "pyjt_jit_flags.cc", "cpu_atomic.cc")

# Names of one file alone that several files have.
_PRIVATE = re.compile(
    r"^(?:inline\s+)?static\s+(?:inline\s+)?(?:const )?[\w<>]+\*?\s+"
    r"(make_\w+|isvar|init|findc|fast_strcmp|get_shape|set_shape|short_type|_|(?:bi|u)nary_ops)\b",
    re.MULTILINE,
)
_MACRO = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)", re.MULTILINE)

_USE_CUDA = re.compile(r"^(?:extern int use_cuda|DECLARE_FLAG\(int, use_cuda\));", re.MULTILINE)
# These headers lack a guard.
_UNGUARDED = re.compile(r'^#include "(grad|jit_compiler)\.h"$', re.MULTILINE)
_GUARDED = '#ifndef INCLUDED_\\1\n#define INCLUDED_\\1\n#include "\\1.h"\n#endif'

# What of a core's file is replaced, exactly once: (file, old, new).
_CHANGES = (
    (
        "jit_compiler.cc",
        "    cache_compile(cmd, cache_path, jittor_path);\n    auto jit_entry",
        "    if (is_cuda_op)\n"
        "        cache_compile(cmd, cache_path, jittor_path);\n"
        "    else\n"
        "        compile_kernel(cmd, jit_src_path, jit_lib_path, symbol_name, src, cc_flags, extra_flags);\n"
        "    auto jit_entry",
    ),
    (
        "jit_compiler.cc",
        "std::mutex dl_open_mutex;\n",
        f'}}\n}}\n#include "{CSRC / "kernels.h"}"\nnamespace jittor {{\nnamespace jit_compiler {{\n'
        "std::mutex dl_open_mutex;\n",
    ),
    (
        "op_compiler.cc",
        "\nusing namespace jit_compiler;\n",
        f'\n}}\n#include "{CSRC / "places.h"}"\nnamespace jittor {{\nusing namespace jit_compiler;\n',
    ),
    ("op_compiler.cc", " get_op_info(name);", " op_info_here(name);"),
    ("op_compiler.cc", " get_op_info(_op->name());", " op_info_here(_op->name());"),
    # these threads wait for the compiler, whose processes `kernels.h` counts
    (
        "parallel_compiler.cc",
        "int(mem_info.total_cpu_ram/(1024ll*1024*1024*3))",
        "16",
    ),
)


class Command(NamedTuple):
    """One of Jittor's commands that make an object file of a source."""

    compiler: str
    source: str
    flags: str
    object: str

    @classmethod
    def parse(cls, text: str) -> Command:
        """The parts of a command; raises ValueError for another kind of command."""
        match = re.fullmatch(r'"([^"]+)" "([^"]+)"(.*) -c -o "([^"]+)"\s*', text)
        if match is None:
            raise ValueError(text)
        return cls(*match.groups())

    @property
    def name(self) -> str:
        """The name of the source."""
        return Path(self.source).name


def compile_in_units(commands: list[str], folder: Path, others: Sequence[str] = ()) -> None:
    """Runs Jittor's commands, many sources at once, and leaves the text of the units in `folder`.

    others: commands of another form, which run as they are.

    Raises UserError with the compiler's first error.
    """
    cores = len(os.sched_getaffinity(0))
    parsed = [Command.parse(text) for text in commands]
    units = divide(parsed, 2 * cores)
    empty = _empty_object(parsed[0].compiler, folder)
    with ThreadPoolExecutor(cores) as pool:
        jobs = [pool.submit(_run, command) for command in others]
        longest = sorted(units, key=_weight, reverse=True)
        jobs += [pool.submit(_compile, unit, folder, empty) for unit in longest]
        for job in jobs:
            job.result()


def joined(command: str, folder: Path) -> str:
    """A command of Jittor's that makes a library of several sources, with one unit in their place."""
    names = " ".join(re.findall(r'"[^"]+\.cc"', command))
    path = folder / "unit-library.cc"
    sources = enumerate(re.findall(r'"([^"]+)"', names))
    path.write_text("".join(text_in_unit(Path(source), number) for number, source in sources))
    return command.replace(names, f'"{path}"').replace("-O2", f"-w -g0 {CORE}")


def divide(commands: list[Command], count: int) -> list[list[Command]]:
    """Neighboring commands in about `count` groups of about the same work, and some commands alone."""
    share = sum(_weight([c]) - _HEADERS for c in commands) / count + _HEADERS
    alone = [[c] for c in commands if c.name in _ALONE]
    units: list[list[Command]] = []
    for command in (c for c in commands if c.name not in _ALONE):
        full = units and _weight([*units[-1], command]) > share
        same = units and _optimization(units[-1][0]) == _optimization(command)
        if full or not same:
            units.append([])
        units[-1].append(command)
    return units + alone


def _weight(unit: list[Command]) -> float:
    """About the seconds that a unit takes, from measurements with g++ 12."""
    sizes = (Path(c.source).stat().st_size / _BYTES[_optimization(c)] for c in unit)
    return _HEADERS + sum(sizes)


CORE = "-Og"  # the core's arithmetic is in the kernels
GENERATED = "-O0"
_HEADERS = 3

# how many bytes of source the compiler gets through in a second, after the headers
_BYTES = {GENERATED: 100_000, CORE: 20_000}


def _optimization(command: Command) -> str:
    """What converts Python's arguments is generated and large; it is called once for an operation."""
    return GENERATED if command.name.startswith("pyjt_") else CORE


def _compile(unit: list[Command], folder: Path, empty: bytes) -> None:
    first = unit[0]
    path = folder / f"unit-{first.name}"
    path.write_text("".join(text_in_unit(Path(c.source), n) for n, c in enumerate(unit)))
    flags = re.sub(r"-Wall|-Wno-unknown-pragmas|-O2", "", first.flags)
    command = (
        f'"{first.compiler}" "{path}" {flags} -w -g0 {_optimization(first)} -c -o "{first.object}"'
    )
    try:
        _run(command, len(unit))
    except UserError:
        if len(unit) == 1:
            raise
        for single in unit:  # for another compiler, say, two files may share a name
            _compile([single], folder, empty)
        return
    for other in unit[1:]:
        Path(other.object).write_bytes(empty)


def _run(command: str, files: int = 1) -> None:
    """Runs a command that compiles so many files, and says so for the progress bar."""
    started = time.monotonic()
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line]
        raise UserError(
            f"Jittor's core could not be compiled: {(lines or [done.stderr[-300:]])[0]}"
        )
    took, output = time.monotonic() - started, command.split()[-1]
    print(f"{took:.1f} s, {counted(files, 'file')}: {output}", flush=True)


def changed(
    text: str, old: str, new: str, file: Path, count: int = 1, use: str = "", way_out: str = ""
) -> str:
    """The text of a file of Jittor's with `new` for `old`, which must be in it exactly `count` times.

    use, way_out: added to the message. Raises UserError for the file of another version.
    """
    if text.count(old) != count:
        raise UserError(
            f"{file} is not that of Jittor {JITTOR_VERSION}{use}; install jittor=={JITTOR_VERSION}{way_out}"
        )
    return text.replace(old, new)


def text_in_unit(source: Path, number: int) -> str:
    """The text of a file as a part of a unit: with private names of its own, and macros that end with it."""
    text = source.read_text(encoding="utf-8")
    macros = sorted(set(_MACRO.findall(text)))
    for name in sorted(set(_PRIVATE.findall(text))):
        text = re.sub(rf"(?<![.>])\b{name}\b", f"{name}_of_{number}", text)
    for file, old, new in _CHANGES:
        if file == source.name:
            text = changed(text, old, new, source)
    # without CUDA a header makes this variable a constant, 0
    if source.name not in _ALONE and _USE_CUDA.search(text):
        text = '#include "misc/cuda_flags.h"\n' + _USE_CUDA.sub("", text)
    text = _UNGUARDED.sub(_GUARDED, text)
    ends = "".join(f"#undef {name}\n" for name in macros)
    return f'#line 1 "{source}"\n{text}\n{ends}'


def _empty_object(compiler: str, folder: Path) -> bytes:
    """The bytes of an object file without content, which stands for the sources that are in a unit."""
    path = folder / "empty.o"
    subprocess.run(
        [compiler, "-x", "c++", "-c", os.devnull, "-o", str(path)], check=True, capture_output=True
    )
    return path.read_bytes()
