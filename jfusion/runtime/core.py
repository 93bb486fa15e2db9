"""The folder of a core for the CPU, `core-KEY`: what its key stands for, and how Jittor is made to use it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from jfusion.runtime import jittor_copy, units
from jfusion.runtime.cache import short_hash
from jfusion.runtime.machine import compiler, cpu_features
from jfusion.runtime.units import CORE, CSRC, JITTOR_VERSION, compile_in_units, joined

# The headers that every kernel includes; they are compiled once. Each operation also declares the numbered
# names that its function has where several kernels are compiled together (kernels.h).
_NAMES = " ".join(f"void jit_run_{number}();" for number in range(8))
_SYSTEM = ("cmath", "algorithm", "limits", "vector", "cstring", "assert.h", "omp.h")
_JITTOR = ("var", "ops/op_register", "fused_op", "executor", "misc/cpu_math", "misc/cuda_flags")
_OPERATIONS = (
    "array",
    "broadcast_to",
    "binary",
    "unary",
    "ternary",
    "reduce",
    "reindex",
    "reindex_reduce",
)
_OPERATIONS += ("index", "random", "code", "getitem", "setitem", "transpose", "fuse_transpose")
HEADER = "\n".join(
    ["#define JIT 1", "#define JIT_cpu 1", f"#define jit_run(...) jit_run(__VA_ARGS__); {_NAMES}"]
    + [f"#include <{name}>" for name in _SYSTEM]
    + [f'#include "{name}.h"' for name in _JITTOR]
    + [f'#include "ops/{name}_op.h"' for name in _OPERATIONS]
    + ["#undef jit_run", ""]
)


def core_parts(cache_name: str) -> dict[str, str]:
    """What a core for the CPU depends on: two environments or machines where it is equal can share one."""
    path = compiler()
    flags = os.environ.get("cc_flags", "")
    asked = re.search(r"-march=(\S+)", flags)
    return {
        "Jittor": JITTOR_VERSION,
        "jfusion": short_hash(HEADER + "".join(p.read_text() for p in _recipe())),
        "Python": f"{sys.implementation.cache_tag} {sysconfig.get_platform()}",
        "oneDNN": _onednn_version(),
        "compiler": _version(path) if path else "",
        "flags": flags,
        "processor": asked.group(1) if asked else " ".join(cpu_features()),
        "name": cache_name,
    }


def _onednn_version() -> str:
    """The version of the wheel, "" where it is not installed."""
    try:
        return metadata.version("onednn-cpu-gomp")
    except metadata.PackageNotFoundError:
        return ""


def key_here(home: Path, cache_name: str) -> str:
    """The key of this environment's core; without a compiler, that of the newest core in `home` that fits."""
    parts = core_parts(cache_name)
    if not parts["compiler"]:
        for stamp in sorted(home.glob("ready-*.json"), key=lambda path: -path.stat().st_mtime):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                theirs = dict(json.loads(stamp.read_text())["parts"])
                if {**theirs, "compiler": ""} == parts:
                    return key_of(theirs)
    return key_of(parts)


def _recipe() -> list[Path]:
    modules = (Path(module.__file__) for module in (units, jittor_copy))
    return [*modules, Path(__file__), CSRC / "kernels.h", CSRC / "places.h"]


def _version(compiler: str) -> str:
    """The first line of what a compiler says of its version, without its name."""
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True)
    name = "clang" if "clang" in Path(compiler).name else "g++"
    return f"{name} {done.stdout.splitlines()[0].partition(' ')[2]}" if done.stdout else name


def key_of(parts: dict[str, str]) -> str:
    """The name of a core with these parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def kernel_flags(folder: Path) -> str:
    """The flags that kernels are compiled with; the header of this name has been compiled with them."""
    own = os.environ.get("cc_flags", "")
    return (
        f' -std=c++14 -fPIC -march=native {own} -I"{folder}/jittor/src" -I"{folder}/jittor/extern" '
        f'-I"{sysconfig.get_paths()["include"]}" -include {folder}/kernel.h -fopenmp '
        + ("" if " -O" in f" {own}" else "-Ofast ")
    )


def start_header(folder: Path, site: Path) -> subprocess.Popen | None:
    """Copies Jittor from `site` into the folder and starts to compile what every kernel includes.

    Jittor is then imported from the copy, so that no path of an environment gets into the core. Returns None
    where there is no compiler: what was carried here runs without.
    """
    jittor_copy.make(site, folder)
    header = folder / "kernel.h"
    header.write_text(HEADER)
    if compiler() is None:
        return None
    flags = shlex.split(kernel_flags(folder).replace(f"-include {header}", ""))
    command = [str(compiler()), *flags, "-w", "-x", "c++-header", str(header)]
    command += ["-o", f"{header}.gch"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _with_relative_places(command: str, folder: Path, home: Path) -> str:
    """A command whose library in `folder` looks for others within `home` from its own place: it may be carried."""

    def relative(found: re.Match) -> str:
        return f"-Wl,-rpath,'$ORIGIN/{os.path.relpath(found[1], folder)}'"

    return re.sub(rf'-Wl,-rpath,"?({re.escape(str(home))}/[^"\s]*)"?', relative, command)


@contextlib.contextmanager
def jittor_uses(folder: Path) -> Iterator[None]:
    """While Jittor is imported: it compiles into `folder` what is not there, and leaves alone what is.

    Otherwise it would compile into a folder that depends on the environment and on the machine's name, and
    would read all sources again to see whether they have changed.
    """
    import jittor_utils
    from jittor_utils import lock

    sys.path.append(str(folder))
    jittor_utils.cache_path, lock.lock_path = str(folder), str(folder / "jittor.lock")
    lock.jittor_lock = lock.Lock(lock.lock_path)
    # what Jittor would ask a script, which runs a dozen programs
    includes = dict.fromkeys(sysconfig.get_paths()[name] for name in ("include", "platinclude"))
    jittor_utils._py3_include_path = " ".join(f'-I"{path}"' for path in includes)
    jittor_utils._py3_extension_suffix = sysconfig.get_config_var("EXT_SUFFIX")
    jittor_utils.is_starting = True
    replaced = _Replaced(folder, jittor_utils)
    try:
        yield
    finally:
        replaced.put_back()
        jittor_utils.is_starting = False


class _Replaced:
    """Replaces the functions of Jittor that run compilers by ones that run none for what is there."""

    def __init__(self, folder: Path, utils: Any) -> None:
        self._folder, self._utils = folder, utils
        self._later: list[str] = []  # commands for which there is time until the core is linked
        self._run, self._run_many = utils.run_cmd, utils.run_cmds
        self._load, self._helpers = utils.try_import_jit_utils_core, None
        utils.run_cmd, utils.run_cmds = self.run, self.run_many
        utils.try_import_jit_utils_core = self.load_helpers

    def put_back(self) -> None:
        """Puts Jittor's own functions back."""
        utils = self._utils
        utils.run_cmd, utils.run_cmds = self._run, self._run_many
        utils.try_import_jit_utils_core = self._load
        utils.cc = self._helpers or utils.cc

    def __getattr__(self, name: str) -> Any:
        return getattr(self._helpers, name)  # as Jittor's module of helpers

    def load_helpers(self, silent: bool | None = None) -> None:
        """Imports Jittor's module of helpers where it is made, and takes its place in any case."""
        if self._helpers is None:
            self._utils.cc = None
            self._load(silent)
            self._helpers, self._utils.cc = self._utils.cc, self

    def run(self, command: str, *rest: Any, **named: Any) -> str:
        """Runs a command of Jittor's; the one that compiles the file data.cc, at once deleted, runs later."""
        source = self._folder / "data.cc"
        if f'"{source}"' not in command:
            return self._run(command, *rest, **named)
        kept = self._folder / "gen" / "data.cc"
        shutil.copyfile(source, kept)
        self._later.append(command.replace(f'"{source}"', f'"{kept}"').replace("-O2", f"{CORE} -w"))
        return ""

    def cache_compile(self, command: str, *_: str) -> bool:
        """Runs a command unless its output exists, which it makes in one step. Returns False: nothing is old.

        Jittor's helpers are the first library of a core; they are made with the rest.
        """
        output = re.findall(r' -o "([^"]+)"', command)[-1]
        if Path(output).exists():
            return False
        if Path(output).name.startswith("jit_utils_core"):
            self._later.append(joined(command, self._folder / "obj_files"))
            return False
        made = f"{output}.{os.getpid()}"
        command = _with_relative_places(command, Path(output).parent, self._folder.parent)
        self._run(command.replace(f' -o "{output}"', f' -o "{made}"'))
        Path(made).replace(output)
        return False

    def run_many(self, commands: list[str], cache: str, jittor: str, message: str = "") -> None:
        """Compiles the objects of the library whose name `message` ends with, unless that exists."""
        name = message.rpartition(" ")[2] + sysconfig.get_config_var("EXT_SUFFIX")
        if not any((self._folder / part / name).exists() for part in ("", "custom_ops")):
            compile_in_units(commands, self._folder / "obj_files", self._later)
            self._later = []
        with self._utils.import_scope(os.RTLD_NOW | os.RTLD_GLOBAL | os.RTLD_DEEPBIND):
            self.load_helpers()
