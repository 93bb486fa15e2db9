"""Runs a command with an emulated GPU: Jittor's CUDA kernels, one thread after another on the CPU.

    python tools/cuda_on_cpu.py WORK [--packages SITE] [--real-compiler] -- COMMAND...

The kernels that Jittor writes for CUDA are compiled as plain C++ (cuda_emulator/nvcc.py); cuBLAS, cuDNN
and cuRAND are plain loops. This shows that jfusion's path on a GPU computes the right numbers, as far as
the sources go. It does not show what NVIDIA's compiler and libraries do with them, and nothing of speed. CUB's sorting and
scans do not compile.

With --real-compiler NVIDIA's nvcc compiles the kernels, for sm_90, and none is launched: the command computes
nothing of use, and leaves the core and its kernels in `$JFUSION_HOME` (WORK/home). tools/gpu_kit.sh carries them
to a machine with a GPU.

WORK is a folder for everything compiled; SITE holds `nvidia/` with the packages of requirements-cuda13.txt,
if they are not in this environment.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from cuda_emulator.libraries import COMPUTING, HERE, find, make_stubs
from cuda_emulator.nvcc import translate

from jfusion.files import write_script
from jfusion.runtime import cuda_toolkit

# The driver: it offers one GPU, the one that CUDA_VISIBLE_DEVICES names if it is set.
DRIVER = """
#include <stdlib.h>
#include <string.h>
static const char* named(void) { const char* s = getenv("CUDA_VISIBLE_DEVICES"); return s ? s : "0"; }
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int* n) { *n = *named() != 0; return 0; }
int cuDeviceGetUuid(char* name, int device) { memset(name, 1, 16); strncpy(name, named(), 16); return 0; }
"""

REAL = """#!/bin/sh
case "$*" in *--dryrun*) echo '#$ TOP={tree}' >&2; exit 0;; esac
exec {nvcc} {found_in} "$@"
"""


def main() -> None:
    """Makes the toolkit in WORK if it is not there, then runs the command in this process's place."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--packages", type=Path, help="a folder that holds nvidia/")
    parser.add_argument(
        "--real-compiler", action="store_true", help="compile for a GPU; launch nothing"
    )
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    work = options.work.resolve()
    tree = work / "toolkit"
    if not (tree / "ready").exists():
        make_toolkit(find(options.packages), work, tree, options.real_compiler)
    environment = {
        "nvcc_path": str(tree / "bin" / "nvcc"),
        "JFUSION_HOME": os.environ.get("JFUSION_HOME", str(work / "home")),
        "LD_LIBRARY_PATH": f"{tree / 'lib64'}:{os.environ.get('LD_LIBRARY_PATH', '')}",
    }
    os.execvpe(options.command[0], options.command, {**os.environ, **environment})


def make_toolkit(found: cuda_toolkit.Toolkit, work: Path, tree: Path, real_compiler: bool) -> None:
    """Makes `tree`: a folder with bin/nvcc, include and lib64, and a driver library.

    real_compiler: bin/nvcc is NVIDIA's, which says that `tree` is its toolkit.
    """
    shutil.rmtree(tree, ignore_errors=True)  # an earlier call may have been interrupted
    cuda_toolkit.link_tree(found, work, "real").parents[1].rename(tree)
    make_stubs(found, tree, COMPUTING)
    driver = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(tree / "lib64" / "libcuda.so.1")]
    subprocess.run(driver, input=DRIVER, text=True, check=True)
    if real_compiler:
        found_in = f"-I{tree}/include -L{tree}/lib64"
        write_script(
            tree / "bin" / "nvcc", REAL.format(tree=tree, nvcc=found.nvcc, found_in=found_in)
        )
        (tree / "ready").touch()
        return
    header = "misc/cuda_atomic.h"  # the one header that launches kernels
    source = Path(metadata.distribution("jittor").locate_file(f"jittor/src/{header}"))
    (tree / "translated/misc").mkdir(parents=True)
    (tree / "translated" / header).write_text(translate(source.read_text()))
    own = [sys.executable, HERE / "nvcc.py", found.nvcc, tree]
    words = " ".join(shlex.quote(str(word)) for word in own)
    write_script(tree / "bin" / "nvcc", f'#!/bin/sh\nexec {words} "$@"\n')
    (tree / "ready").touch()


if __name__ == "__main__":
    main()
