"""Compiles Jittor's core, its CUDA operations and kernels without a GPU, and checks that they would link.

    python tools/cuda_link_check.py WORK [--packages SITE]

WORK is a folder for everything compiled (a few GB); SITE holds `nvidia/` with the packages of
requirements-cuda13.txt, if they are not in this environment. In the GPU's place stand libraries that do
nothing: every function of the real ones, by name, returns 0 (memory is the host's). So this proves that
the sources compile, and that every CUDA symbol that the results use exists in the real libraries; nothing
that a kernel computes.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

from jfusion import runtime
from jfusion.cuda import adapt, toolkit

RUNTIME = r"""
#include <cuda_runtime_api.h>
#include <cstdlib>
#include <cstring>
extern "C" {
#define OK { return cudaSuccess; }
#define SET(name, type, value) cudaError_t name(type* p) { *p = value; return cudaSuccess; }
SET(cudaGetDeviceCount, int, 1) SET(cudaGetDevice, int, 0)
SET(cudaRuntimeGetVersion, int, CUDART_VERSION) SET(cudaDriverGetVersion, int, CUDART_VERSION)
SET(cudaStreamCreate, cudaStream_t, (cudaStream_t)8) SET(cudaEventCreate, cudaEvent_t, (cudaEvent_t)8)
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) { *e = (cudaEvent_t)8; return cudaSuccess; }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* e, unsigned) { *e = (cudaStream_t)8; return cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
    memset(p, 0, sizeof *p); strcpy(p->name, "none");
    p->major = 9; p->multiProcessorCount = 1; p->totalGlobalMem = 1u << 31; p->warpSize = 32;
    p->maxThreadsPerBlock = 1024; p->sharedMemPerBlock = 49152; p->regsPerBlock = 65536;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* v, cudaDeviceAttr a, int) {
    *v = a == cudaDevAttrComputeCapabilityMajor ? 9 : a == cudaDevAttrComputeCapabilityMinor ||
         a == cudaDevAttrComputeMode ? 0 : 1024;
    return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* p, const void*) {
    memset(p, 0, sizeof *p); p->ptxVersion = p->binaryVersion = 90; p->maxThreadsPerBlock = 1024;
    return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* n, const void*, int, size_t) { *n = 1; OK }
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* n, const void*, int, size_t, unsigned) { *n = 1; OK }
#define ALLOCATE { *p = calloc(1, n + 256); return cudaSuccess; }
cudaError_t cudaMalloc(void** p, size_t n) ALLOCATE
cudaError_t cudaMallocManaged(void** p, size_t n, unsigned) ALLOCATE
cudaError_t cudaMallocHost(void** p, size_t n) ALLOCATE
cudaError_t cudaHostAlloc(void** p, size_t n, unsigned) ALLOCATE
cudaError_t cudaFree(void* p) { free(p); OK }
cudaError_t cudaFreeHost(void* p) { free(p); OK }
cudaError_t cudaMemcpy(void* a, const void* b, size_t n, cudaMemcpyKind) { memmove(a, b, n); OK }
cudaError_t cudaMemcpyAsync(void* a, const void* b, size_t n, cudaMemcpyKind, cudaStream_t) { memmove(a, b, n); OK }
cudaError_t cudaMemset(void* a, int v, size_t n) { memset(a, v, n); OK }
cudaError_t cudaMemsetAsync(void* a, int v, size_t n, cudaStream_t) { memset(a, v, n); OK }
cudaError_t cudaMemGetInfo(size_t* a, size_t* b) { *a = *b = 1u << 31; OK }
const char* cudaGetErrorString(cudaError_t) { return "none"; }
const char* cudaGetErrorName(cudaError_t) { return "none"; }
void** __cudaRegisterFatBinary(void*) { static void* handle; return &handle; }
}
"""

# each in a process of its own: what runs on garbage may end it
WORKLOADS = {
    "element-wise, reductions, indices": """
x = jt.rand(4, 5, 6); y = (jt.exp(x) * jt.sin(x) + x.sum(1, keepdims=True)).sum(2); y.sync()
g = jt.grad(y.sum(), x); g.sync(); x.max(2).sync(); x[1:, ::2].sync(); jt.concat([x, x]).sync()
x.reindex([4, 5, 6], ['i0', 'i2%5', 'i1']).sync()
""",
    "matrix products (cuBLAS)": """
a, b = jt.rand(8, 9), jt.rand(9, 7); c = jt.matmul(a, b); jt.grad(c.sum(), [a, b])[0].sync()
a, b = jt.rand(3, 8, 9), jt.rand(3, 9, 7); c = jt.matmul(a, b); [v.sync() for v in jt.grad(c.sum(), [a, b])]
""",
    "convolution (cuDNN), forward": """
jt.nn.conv2d(jt.rand(1, 3, 8, 8), jt.rand(4, 3, 3, 3), padding=1).sync()
""",
    "convolution (cuDNN), gradients": """
x, w = jt.rand(1, 3, 8, 8), jt.rand(4, 3, 3, 3); y = jt.nn.conv2d(x, w, padding=1)
[v.sync() for v in jt.grad((y * y).sum(), [x, w])]
""",
    "depthwise convolution": """
from jittor.depthwise_conv import DepthwiseConv
x, w = jt.rand(1, 4, 8, 8), jt.rand(4, 1, 3, 3); y = DepthwiseConv(padding=1)(x, w)
[v.sync() for v in jt.grad(y.sum(), [x, w])]
""",
    "softmax": "x = jt.rand(4, 1000); y = jt.nn.softmax(x, 1); jt.grad((y * y).sum(), x).sync()",
    "random numbers (cuRAND)": "jt.randn(5, 6).sync(); jt.rand(7).sync()",
    "sorting, scans (CUB)": "x = jt.rand(4, 9); x.argsort(1)[0].sync(); x.argmax(1)[0].sync(); x.cumsum(1).sync()",
    "Fourier transforms (cuFFT)": "jt.nn._fft2(jt.rand(2, 8, 8, 2)).sync()",
    "half precision": "x = jt.rand(4, 5).float16(); (x * 2 + jt.matmul(x, x.transpose())[:, :1]).sync()",
    "Adam": """
p = jt.rand(5, 6); o = jt.optim.AdamW([p], 1e-3); o.step((p * p).sum()); p.sync()
""",
}

CHILD = """
import json, os, sys
from pathlib import Path
from jfusion import runtime
home, site, variables, code = sys.argv[1:]
runtime._site = lambda home, nvcc: Path(site)
jt = runtime._import_jittor(Path(home), json.loads(variables))
jt.flags.use_cuda = 1
exec(code)
jt.sync_all()
print("reached the end", flush=True)
os._exit(0)  # Jittor's own end kills its helpers, and then itself
"""


def main() -> int:
    """Prints a table; 1 if something did not compile or would not link."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--packages", type=Path, help="a folder that holds nvidia/")
    options = parser.parse_args()
    home = options.work.resolve()
    home.mkdir(parents=True, exist_ok=True)
    if options.packages:
        folders = sorted((options.packages.resolve() / "nvidia").glob("*"))
        toolkit.packages = lambda: folders
    found = toolkit.look_at(toolkit.nvcc_of_this_machine())
    print(found.name, "missing: " + ", ".join(found.missing) if found.missing else "")
    nvcc = toolkit.tree(found, home, "check")
    real = {
        name: toolkit._library(name, found.folders, found.release) for name in toolkit.LIBRARIES
    }
    symbols = {name: defined(path) for name, path in real.items()}
    for name, path in real.items():
        stand_in(name, path, symbols[name], nvcc.parent.parent)
    installed = Path(metadata.distribution("jittor").locate_file("")).resolve()
    site = adapt.adapted(installed / "jittor", home, found) if adapt.needed(found) else installed
    for change in adapt.needed(found):
        print(f"  {change.file}: {change.reason}")
    variables = {**runtime.environment(), "nvcc_path": str(nvcc), "kernel_flags": ""}
    variables |= {"use_cutt": "0", "use_cutlass": "0", "use_nccl": "0"}
    runtime._link_onednn(home)
    failed = compile_all(home, site, variables)
    if failed is None:
        return 1
    return unresolved(home, set().union(*symbols.values())) or int(failed)


def compile_all(home: Path, site: Path, variables: dict[str, str]) -> bool | None:
    """Whether any of the workloads did not compile; None when the core did not."""
    failed = False
    for name, code in {"core and operations": "", **WORKLOADS}.items():
        started = time.time()
        command = [sys.executable, "-c", CHILD, str(home), str(site), json.dumps(variables), code]
        done = subprocess.run(command, capture_output=True, text=True)
        text = done.stdout + done.stderr
        ended = "ran to its end" if done.returncode == 0 else f"ended with {done.returncode}"
        # what stops later (cuDNN has no algorithm to offer) was compiled, and needs a GPU
        marks = ("during compilation", "Compile error", "is not loaded", "error: ")
        broken = any(mark in text for mark in marks)
        broken |= done.returncode != 0 and not code  # without these nothing else can be
        failed |= broken
        print(
            f"{'FAILED  ' if broken else 'compiled'}  {name:36} {time.time() - started:5.0f} s  ({ended})",
            flush=True,
        )
        if broken:
            print("    " + "\n    ".join(text.strip().splitlines()[-12:]))
        if failed and not code:
            return None
    return failed


def defined(library: Path) -> set[str]:
    """The functions that a shared library offers."""
    text = subprocess.run(
        ["nm", "-D", "--defined-only", str(library)], capture_output=True, text=True
    )
    return {line.split()[-1].split("@")[0] for line in text.stdout.splitlines()}


def stand_in(name: str, library: Path, symbols: set[str], tree: Path) -> None:
    """Puts a library of the same name with functions that return 0 in the tree's lib64."""
    source, out = tree / f"{name}.cc", tree / "lib64" / f"lib{name}.so"
    build = ["g++", "-shared", "-fPIC", f"-I{tree / 'include'}", str(source), "-o"]
    for link in (tree / "lib64").glob(f"lib{name}.so*"):
        link.unlink()
    own = RUNTIME if name == "cudart" else ""
    source.write_text(own)
    subprocess.run([*build, str(out)], check=True)
    lines = [
        f'asm(".globl {s}\\n.type {s},@function\\n{s}: xor %eax,%eax\\nret");'
        for s in symbols - defined(out)  # headers may give what is defined here another name
    ]
    source.write_text(own + "\n".join(lines))
    soname = soname_of(library)
    subprocess.run([*build, str(out), f"-Wl,-soname,{soname}"], check=True)
    if soname != out.name:
        (tree / "lib64" / soname).symlink_to(out)


def soname_of(library: Path) -> str:
    """The name that what is linked with a library asks for."""
    text = subprocess.run(["readelf", "-d", str(library)], capture_output=True, text=True).stdout
    return re.search(r"SONAME.*\[(.*)\]", text)[1]


def unresolved(home: Path, symbols: set[str]) -> int:
    """Whether something compiled uses a CUDA function that the real libraries lack."""
    used: set[str] = set()
    libraries = [
        p for p in home.glob(".cache/jittor/**/*.so") if "cu13" in str(p) or "cu1" in str(p)
    ]
    for library in libraries:
        text = subprocess.run(
            ["nm", "-D", "--undefined-only", str(library)], capture_output=True, text=True
        )
        used |= {line.split()[-1].split("@")[0] for line in text.stdout.splitlines()}
    cuda = {
        s
        for s in used
        if s.startswith(("cuda", "__cuda", "cublas", "cudnn", "cufft", "curand", "cusparse"))
    }
    lacking = sorted(cuda - symbols)
    print(
        f"{len(libraries)} libraries use {len(cuda)} CUDA functions; the real ones lack {len(lacking)} {lacking}"
    )
    return int(bool(lacking))


if __name__ == "__main__":
    sys.exit(main())
