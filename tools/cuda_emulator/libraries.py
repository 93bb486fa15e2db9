"""Stubs of CUDA's libraries, with the same names and functions, for a machine without a GPU."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from jfusion.runtime import cuda_toolkit

HERE = Path(__file__).parent
OWN = {"cudart": "runtime.cc"}  # the device's memory is the host's
COMPUTING = {**OWN, "cublas": "cublas.cc", "cudnn": "cudnn.cc", "curand": "curand.cc"}


def find(packages: Path | None) -> cuda_toolkit.Toolkit:
    """The toolkit of this machine, with libraries from the folder `packages`/nvidia if it is given."""
    if packages:
        folders = sorted((packages.resolve() / "nvidia").glob("*"))
        cuda_toolkit.packages = lambda: folders
    found = cuda_toolkit.probe(cuda_toolkit.nvcc_of_this_machine())
    if isinstance(found, str) or found.missing:
        raise SystemExit(
            found if isinstance(found, str) else f"missing: {', '.join(found.missing)}"
        )
    return found


def make_stubs(found: cuda_toolkit.Toolkit, tree: Path, own: dict[str, str]) -> set[str]:
    """Fills the tree's lib64 with stubs: every function returns 0, unless the source file that `own` names has it.

    Returns the functions of the real libraries.
    """
    real = {
        n: cuda_toolkit._library(n, found.folders, found.release) for n in cuda_toolkit.LIBRARIES
    }
    offered = {name: defined(path) for name, path in real.items()}
    for name, path in real.items():
        text = (HERE / own[name]).read_text() if name in own else ""
        _make(name, soname_of(path), offered[name], tree, text)
    return set().union(*offered.values())


def _make(name: str, soname: str, functions: set[str], tree: Path, text: str) -> None:
    source, out = tree / f"{name}.cc", tree / "lib64" / f"lib{name}.so"
    build = ["g++", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"]
    build += [f"-I{tree / 'include'}", f"-I{HERE}", str(source)]
    for link in (tree / "lib64").glob(f"lib{name}.so*"):
        link.unlink()
    source.write_text(text)
    subprocess.run([*build, "-o", str(out)], check=True)
    stubs = [
        f'asm(".globl {f}\\n.type {f},@function\\n{f}: xor %eax,%eax\\nret");'
        for f in functions - defined(out)  # headers may give what is defined here another name
    ]
    source.write_text(text + "\n".join(stubs))
    subprocess.run([*build, "-o", str(out), f"-Wl,-soname,{soname}"], check=True)
    if soname != out.name:
        (tree / "lib64" / soname).symlink_to(out)


def defined(library: Path) -> set[str]:
    """The functions that a shared library defines."""
    return _symbols(library, "--defined-only")


def used(library: Path) -> set[str]:
    """The functions that a shared library uses and does not define."""
    return _symbols(library, "--undefined-only")


def _symbols(library: Path, which: str) -> set[str]:
    text = subprocess.run(["nm", "-D", which, str(library)], capture_output=True, text=True).stdout
    return {line.split()[-1].split("@")[0] for line in text.splitlines()}


def soname_of(library: Path) -> str:
    """The name by which programs that are linked with a library ask for it."""
    text = subprocess.run(["readelf", "-d", str(library)], capture_output=True, text=True).stdout
    return re.search(r"SONAME.*\[(.*)\]", text)[1]
