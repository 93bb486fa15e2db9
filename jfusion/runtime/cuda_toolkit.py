"""Finds a CUDA toolkit with its libraries: the system's, or that of the `nvidia-*` packages of PyPI.

Jittor wants one folder with bin/nvcc, include and lib64, libraries by their unversioned names. The
packages have neither that layout nor those names, so a folder of links is made in the cache.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from jfusion.files import point_link, write_script

OLDEST, NEWEST = (10, 0), (13, 5)  # up to 12.2 Jittor compiles as it is, see cuda_patches.py
LIBRARIES = ("cudart", "cublas", "cublasLt", "cudnn", "cufft", "curand", "cusparse")
STATIC = ("libcudadevrt.a", "libcudart_static.a")  # nvcc links the first into all it makes
USUAL = ("/usr/local/cuda/bin/nvcc", "/opt/cuda/bin/nvcc")
SYSTEM = Path("/usr")  # where Debian puts cuDNN

# nvidia's packages lack NPP, and of NPP Jittor's sources use these limits alone
_NPP = """#pragma once
#define NPP_MIN_32U (0)
#define NPP_MAX_32U (4294967295U)
#define NPP_MIN_32S (-2147483647 - 1)
#define NPP_MAX_32S (2147483647)
#define NPP_MIN_64U (0)
#define NPP_MAX_64U (18446744073709551615ULL)
#define NPP_MIN_64S (-9223372036854775807LL - 1)
#define NPP_MAX_64S (9223372036854775807LL)
"""


class Toolkit(NamedTuple):
    """A compiler and where its headers and libraries are.

    release: of CUDA, (13, 0); cudnn: its major number, 0 if there is none; folders: of headers and
    libraries, in the order of the search; missing: LIBRARIES that were not found.
    """

    nvcc: Path
    release: tuple[int, int]
    cudnn: int
    folders: tuple[Path, ...]
    missing: tuple[str, ...]

    @property
    def self_contained(self) -> bool:
        """Whether Jittor finds everything by itself, because no part comes from a package of PyPI."""
        foreign = packages()
        folders = tuple(f for f in self.folders if f not in foreign)
        return not any(_library(name, folders, self.release) is None for name in LIBRARIES)

    @property
    def name(self) -> str:
        """A description, such as "CUDA 13.0 with cuDNN 9 at /usr/local/cuda/bin/nvcc"."""
        cudnn = f" with cuDNN {self.cudnn}" if self.cudnn else ""
        return f"CUDA {self.release[0]}.{self.release[1]}{cudnn} at {self.nvcc}"


def packages() -> list[Path]:
    """The folders of NVIDIA's packages on Python's path: <site>/nvidia/cu13, .../cudnn, ..."""
    places = [sorted(Path(entry, "nvidia").glob("*/")) for entry in sys.path if entry]
    return list(dict.fromkeys(p for folders in places for p in folders if p.is_dir()))


def nvcc_of_this_machine() -> Path | None:
    """The compiler that `$nvcc_path` names, or that of the packages, on the path, or in the usual places."""
    chosen = os.environ.get("nvcc_path")
    if chosen:
        return Path(chosen)
    packaged = [p / "bin" / "nvcc" for p in packages()]
    on_path = shutil.which("nvcc")
    candidates = [*packaged, *([Path(on_path)] if on_path else []), *map(Path, USUAL)]
    return next((p for p in candidates if p.is_file()), None)


@lru_cache(maxsize=8)
def probe(nvcc: Path) -> Toolkit | str:
    """The toolkit of this compiler; or one line that says what is wrong with it."""
    try:
        text = subprocess.run(
            [str(nvcc), "--version"], capture_output=True, text=True, timeout=30
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"{nvcc} does not run: {error}"
    match = re.search(r"release (\d+)\.(\d+)", text)
    if not match:
        return f"{nvcc} does not print its version"
    release = int(match[1]), int(match[2])
    # nvcc may be a script or a link: its own folder is where it takes its headers from
    folders = (_home_of(nvcc), *packages(), SYSTEM)
    cudnn = _cudnn_of(folders)
    missing = tuple(name for name in LIBRARIES if _library(name, folders, release) is None)
    return Toolkit(nvcc, release, cudnn, folders, missing)


def _home_of(nvcc: Path) -> Path:
    """The folder of the toolkit, read from a dry run of the compiler."""
    done = subprocess.run(
        [str(nvcc), "--dryrun", "-x", "cu", "/dev/null"], capture_output=True, text=True
    )
    top = re.search(r"^#\$ TOP=(.*)$", done.stderr, re.M)
    return Path(top[1]).resolve() if top else nvcc.resolve().parent.parent


def _cudnn_of(folders: tuple[Path, ...]) -> int:
    for folder in folders:
        header = folder / "include" / "cudnn_version.h"
        if header.is_file():
            major = re.search(r"#define CUDNN_MAJOR (\d+)", header.read_text())
            return int(major[1]) if major else 0
    return 0


def _library(name: str, folders: tuple[Path, ...], release: tuple[int, int]) -> Path | None:
    """The path of lib<name>.so, or of the one with a version number; None where there is none."""
    for folder in folders:
        if not _fits(folder, release):
            continue
        for place in ("lib64", "lib", "targets/x86_64-linux/lib", "lib/x86_64-linux-gnu"):
            files = sorted((folder / place).glob(f"lib{name}.so*"), key=lambda p: len(p.name))
            if files:
                return files[0]
    return None


def _fits(folder: Path, release: tuple[int, int]) -> bool:
    """Whether a folder is of this release: packages of CUDA 12 and of CUDA 13 can be installed together."""
    if folder.parent.name != "nvidia":
        return True
    if release[0] >= 13:
        return folder.name in (f"cu{release[0]}", "cudnn")
    return re.fullmatch(r"cu\d+", folder.name) is None


def link_tree(toolkit: Toolkit, home: Path, mark: str) -> Path:
    """Makes the folder of links for a toolkit, anew each time, and returns the path of its bin/nvcc."""
    folder = home / f"cuda-{toolkit.release[0]}.{toolkit.release[1]}-{mark}"
    for part in ("bin", "include", "lib64"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    real = shlex.quote(str(toolkit.nvcc))
    text = f'#!/bin/sh\nexec {real} -I{folder}/include -L{folder}/lib64 "$@"\n'
    nvcc = write_script(folder / "bin" / "nvcc", text)
    fitting = [f for f in toolkit.folders if _fits(f, toolkit.release)]
    for source in reversed(
        fitting
    ):  # a folder that comes first in the search is linked last, and wins
        for header in (source / "include").glob("cudnn*" if source == SYSTEM else "*"):
            point_link(folder / "include" / header.name, header)
    for name in LIBRARIES:
        library = _library(name, toolkit.folders, toolkit.release)
        if library is None:
            continue
        for sibling in library.parent.glob(f"lib{name}[._]*so*"):
            point_link(folder / "lib64" / sibling.name, sibling)
        point_link(folder / "lib64" / f"lib{name}.so", library)
    for name in STATIC:
        paths = (f / place / name for f in fitting for place in ("lib64", "lib"))
        static = next((p for p in paths if p.is_file()), None)
        if static is not None:
            point_link(folder / "lib64" / name, static)
    if not (folder / "include" / "npp.h").exists():
        (folder / "include" / "npp.h").write_text(_NPP)
    return nvcc
