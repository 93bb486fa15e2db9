"""What Jittor reads while it is imported: its variables, its interpreter, the folder it comes from."""

from __future__ import annotations

import contextlib
import os
import shlex
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from jfusion.files import point_link, write_script
from jfusion.runtime import cuda_patches, cuda_toolkit
from jfusion.runtime.cache import cache_home, shell_safe, short_hash
from jfusion.runtime.machine import (
    compiler,
    cuda,
    local_mpi,
    physical_cores,
    precision,
    python_config,
    usable_toolkit,
)


def environment() -> dict[str, str]:
    """The variables that Jittor reads while it is imported. The user's own settings win."""
    nvcc, _ = cuda()
    local = local_mpi("SIZE", 1)  # processes that share the cores
    variables = {
        "log_silent": "1",
        "use_mpi": "0",
        "FIX_TORCH_ERROR": "0",  # otherwise Jittor imports PyTorch when it is installed
        "cache_name": _cache_name(),  # otherwise the branch of the git checkout around it
        "gdb_path": "",
        "nvcc_path": nvcc,
        "OMP_NUM_THREADS": str(max(1, physical_cores() // local)),
    }
    if nvcc:  # the three would be downloaded, and cuDNN does what oneDNN would do
        variables |= {"use_cutt": "0", "use_cutlass": "0", "use_nccl": "0", "use_mkl": "0"}
        variables |= {"NVIDIA_TF32_OVERRIDE": "1" if precision() == "tf32" else "0"}
    variables["python_config_path"] = python_config() or str(_stand_in("python-config", CONFIG))
    chosen = {key: os.environ.get(key, value) for key, value in variables.items()}
    if compiler() is None:
        chosen["cc_path"] = str(_stand_in("no-g++", NO_COMPILER))
    return {**chosen, "nvcc_path": nvcc}


# What a machine without a compiler lacks: Jittor asks both while it is imported, although the core is there.
NO_COMPILER = """#!/bin/sh
[ "$1" = --version ] && exec echo "g++ 0.0.0"
echo "no C++ compiler found, and this kernel has not been carried here; remedy: apt-get install g++" >&2
exit 1
"""
CONFIG = f"""#!/bin/sh
case "$1" in
    --extension-suffix) echo {sysconfig.get_config_var("EXT_SUFFIX")} ;;
    *) echo -I{sysconfig.get_paths()["include"]} ;;
esac
"""


def _stand_in(name: str, text: str) -> Path:
    return write_script(cache_home() / f"{name}-{short_hash(text)}", text)


def _cache_name() -> str:
    """The name of the folder that Jittor compiles into.

    Patched sources get a folder of their own: Jittor ends the process when the sources of a compiled
    core have changed.
    """
    toolkit = usable_toolkit()
    name = cuda_patches.patch_id(toolkit) if isinstance(toolkit, cuda_toolkit.Toolkit) else ""
    return f"jfusion-{name}" if name else "jfusion"


@contextlib.contextmanager
def changed_environment(variables: dict[str, str]) -> Iterator[None]:
    """Sets the variables; afterward HOME, JITTOR_HOME, cc_path and nvcc_path are what they were.

    nvcc_path is that of the folder of links: taken for the user's, it would get a folder of links of its own, and
    with it another core.
    """
    before = {key: os.environ.get(key) for key in ("HOME", "JITTOR_HOME", "cc_path", "nvcc_path")}
    os.environ.update(variables)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def outside_mpi() -> dict[str, str]:
    """The environment variables without those by which a process knows that mpirun started it."""
    marks = ("OMPI_", "PMIX_", "PRTE_")
    return {k: v for k, v in os.environ.items() if not k.startswith(marks)}


def jittor_site(home: Path, nvcc: str) -> Path:
    """The folder to import Jittor from: the installed package, or a copy patched for CUDA."""
    installed = Path(metadata.distribution("jittor").locate_file("")).resolve()
    toolkit = usable_toolkit() if nvcc else None
    if isinstance(toolkit, cuda_toolkit.Toolkit) and cuda_patches.needed(toolkit):
        return cuda_patches.patched(installed / "jittor", home, toolkit)
    return installed


# Jittor compiles each kernel to assembler text with its script asm_tuner.py, which looks for marks in the
# text and assembles it. That takes twice the time and 2 MB a kernel. A source without a mark needs none
# of it, so it goes straight to the compiler.
INTERPRETER = """#!/bin/sh
case "$1" in */asm_tuner.py)
    if ! grep -q @begin "$3"; then
        compiler=${{2#--cc_path=}}
        shift 2
        exec "$compiler" "$@"
    fi
esac
HOME={home} JITTOR_HOME={home} exec {python} "$@"
"""


def interpreter(home: Path, executable: str) -> Path:
    """A script that runs this Python with `home` as HOME; most kernels go to the compiler without Python."""
    script = home / f"python-{short_hash(executable)}"
    return write_script(script, INTERPRETER.format(home=home, python=shlex.quote(executable)))


def without_spaces(home: Path, compiler: Path) -> str:
    """The path of Open MPI's compiler, or of a script that calls it through a link without spaces.

    Jittor asks the compiler for its flags and passes them to a shell unquoted.
    """
    prefix = compiler.absolute().parent.parent
    if shell_safe(prefix):
        return str(compiler)
    mark = short_hash(str(prefix))
    link = point_link(home / f"mpi-{mark}", prefix)
    places = {str(prefix), str(prefix.resolve())}
    swaps = " ".join(f"-e {shlex.quote(f's|{place}|{link}|g')}" for place in sorted(places))
    text = f'#!/bin/sh\n{shlex.quote(str(compiler))} "$@" | sed {swaps}\n'
    return str(write_script(home / f"mpicc-{mark}", text))
