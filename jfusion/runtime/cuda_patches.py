"""Patches of Jittor 1.3.11 for CUDA after 12.2 and for cuDNN 9, applied to a private copy in the cache.

The installed package is never touched. CUDA up to 12.2 with cuDNN 7 or 8 needs nothing.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from jfusion.errors import UserError
from jfusion.runtime.cuda_toolkit import Toolkit
from jfusion.runtime.units import changed


class Patch(NamedTuple):
    """A change of one file of Jittor's package: every `old` becomes `new`, exactly `count` times.

    For a toolkit whose CUDA and cuDNN are at least `cuda` and `cudnn`.
    """

    file: str
    old: str
    new: str
    reason: str
    cuda: tuple[int, int] = (0, 0)
    cudnn: int = 0
    count: int = 1

    def applies(self, toolkit: Toolkit) -> bool:
        """Whether this toolkit needs the patch."""
        return toolkit.release >= self.cuda and toolkit.cudnn >= self.cudnn


_ATTRIBUTE = """
static inline int attribute_of(cudaDeviceAttr which, int device) {
  int value = 0;
  cudaDeviceGetAttribute(&value, which, device);
  return value;
}
"""
BFLOAT16 = (12, 3)  # the oldest CUDA that Jittor's convolutions of bfloat16 are patched for
_MODE = "attribute_of(cudaDevAttrComputeMode, {})"

PATCHES = (
    Patch(
        "compiler.py",
        "-Wno-unknown-pragmas -std=c++14 -fPIC",
        "-Wno-unknown-pragmas -std=c++17 -fPIC",
        "CUDA 13's CCCL (CUB, Thrust) needs C++17",
        cuda=(13, 0),
        count=2,
    ),
    Patch(
        "compiler.py",
        "if nvcc_version >= [11,4]:",
        "if nvcc_version >= [13]:\n            pass\n        elif nvcc_version >= [11,4]:",
        "nvcc's C++17 must not be turned into C++14",
        cuda=(13, 0),
    ),
    Patch(
        "compiler.py",
        "    max_arch = 90\n",
        "    max_arch = 121\n",
        "kernels are compiled for the GPU's own architecture: RTX 50 (120) cannot run those of 90",
        cuda=(12, 8),
    ),
    Patch(
        "extern/cuda/inc/helper_cuda.h",
        "deviceProp.computeMode == cudaComputeModeProhibited",
        f"{_MODE.format('devID')} == cudaComputeModeProhibited",
        "CUDA 13 removed the field computeMode",
        cuda=(13, 0),
    ),
    Patch(
        "extern/cuda/inc/helper_cuda.h",
        "deviceProp.computeMode != cudaComputeModeProhibited",
        f"{_MODE.format('current_device')} != cudaComputeModeProhibited",
        "CUDA 13 removed the field computeMode",
        cuda=(13, 0),
        count=2,
    ),
    Patch(
        "extern/cuda/inc/helper_cuda.h",
        "deviceProp.clockRate",
        "attribute_of(cudaDevAttrClockRate, current_device)",
        "CUDA 13 removed the field clockRate",
        cuda=(13, 0),
    ),
    Patch(
        "extern/cuda/inc/helper_cuda.h",
        "// General GPU Device CUDA Initialization\n",
        f"{_ATTRIBUTE}// General GPU Device CUDA Initialization\n",
        "the function that reads what the removed fields held",
        cuda=(13, 0),
    ),
    Patch(
        "compile_extern.py",
        "            if nvcc_version >= (11,0,0):\n                libs = [",
        "            if False:\n                libs = [",
        "cuDNN 9 has no libcudnn_{ops,cnn}_{infer,train}.so: they were merged",
        cudnn=9,
    ),
    Patch(
        "compile_extern.py",
        "            culib_src_files.append(os.path.join(r, fname))\n    if len(culib_src_files) == 0:\n"
        "        return\n\n    # compile and get operators\n    culib = compile_custom_ops(culib_src_files, "
        'return_module=True,\n        extra_flags=f" -I\\"{jt_cuda_include}\\" -I\\"{jt_culib_include}\\" '
        "{link_flags}",
        '            if "rnn" not in fname: culib_src_files.append(os.path.join(r, fname))\n'
        "    if len(culib_src_files) == 0:\n"
        "        return\n\n    # compile and get operators\n    culib = compile_custom_ops(culib_src_files, "
        'return_module=True,\n        extra_flags=f" -I\\"{jt_cuda_include}\\" -I\\"{jt_culib_include}\\" '
        "{link_flags}",
        "cuDNN 9 removed the RNN interface of version 6; LSTM and GRU on CUDA are lost (no system here has one)",
        cudnn=9,
    ),
    Patch(
        "extern/cuda/cufft/ops/cufft_fft_op.cc",
        "#include <cufft.h>\n",
        "#include <array>\n#include <cufft.h>\n",
        "it uses std::array, which no header of CUDA 12's C++14 brings in",
        cuda=(12, 3),
    ),
    *(
        Patch(
            f"extern/cuda/cudnn/ops/cudnn_{operation}_op.cc",
            "CUDNN_CROSS_CORRELATION, getDataType<Ty>()",
            "CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT",
            "cuDNN adds the products of bfloat16 in float32 alone",
            cuda=BFLOAT16,
        )
        for operation in ("conv", "conv_backward_x", "conv_backward_w")
    ),
    Patch(
        "other/code_softmax.py",
        "cub::Max()",
        "cuda::maximum<>{{}}",
        "CCCL 3 removed cub::Max",
        cuda=(13, 0),
    ),
    Patch(
        "depthwise_conv.py",
        "cub::LaneId()",
        "(threadIdx.x & 31)",
        "CCCL 3 removed cub::LaneId",
        cuda=(13, 0),
    ),
)


def needed(toolkit: Toolkit) -> list[Patch]:
    """The patches for a toolkit; none where Jittor works with it as it is."""
    return [a for a in PATCHES if a.applies(toolkit)]


def patch_id(toolkit: Toolkit) -> str:
    """A short name of the patches for a toolkit; "" when there are none."""
    text = "\n".join(map(str, needed(toolkit)))
    return hashlib.sha256(text.encode()).hexdigest()[:8] if text else ""


def patched(jittor: Path, home: Path, toolkit: Toolkit) -> Path:
    """A folder with a patched copy of Jittor's package, made once for its sources and patches.

    jittor: the installed package. Raises UserError when a source is not the one that is expected.
    """
    name = f"{patch_id(toolkit)}-{hashlib.sha256(str(jittor).encode()).hexdigest()[:8]}"
    folder = home / f"jittor-{name}"
    if (folder / "jittor").is_dir():
        return folder
    fresh = home / f".jittor-{name}.{os.getpid()}"
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(jittor, fresh / "jittor", ignore=shutil.ignore_patterns("__pycache__"))
    for change in needed(toolkit):
        path = fresh / "jittor" / change.file
        try:
            text = changed(
                path.read_text(),
                change.old,
                change.new,
                jittor / change.file,
                change.count,
                ", which jfusion patches for CUDA",
                " (or set nvcc_path= for the CPU)",
            )
        except UserError:
            shutil.rmtree(fresh)
            raise
        path.write_text(text)
    try:
        fresh.rename(folder)
    except OSError:  # another process was first
        shutil.rmtree(fresh)
    return folder
