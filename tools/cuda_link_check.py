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
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

from cuda_emulator.libraries import OWN, find, make_stubs, used

from jfusion.runtime import build, cuda_patches, cuda_toolkit, environment

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
    "half precision": """
x = jt.rand(4, 5).float16(); (x * 2 + jt.matmul(x, x.transpose())[:, :1]).sync()
x, w = jt.rand(1, 3, 8, 8), jt.rand(4, 3, 3, 3)
y = jt.nn.conv2d(x.bfloat16(), w.bfloat16(), padding=1).float32()
[v.sync() for v in jt.grad((y * y).sum(), [x, w])]
""",
    "jfusion's kernels": """
runtime.jt, runtime.nn = jt, jt.nn
from jfusion.ops import activation, channel_attention, depthwise, group_norm, norm, softmax
from jfusion.systems.film import attention
x, w = jt.rand(1, 8, 6, 5), jt.rand(8)
made = [f(x) for f in (activation.silu, activation.squared_relu, activation.relu6, activation.gelu_gate)]
made += [norm.channel_layer_norm(x, w, w), group_norm.group_norm(x, 2, w, w, silu=True), softmax.softmax(x)]
made += [depthwise.depthwise(x, jt.rand(8, 1, 7, 7)), attention.averaged_attention(x[0], x[0], x[0], 5)]
made += [channel_attention.cosine_attention(jt.rand(1, 48, 6, 5), jt.rand(2, 1, 1))]
[v.sync() for v in jt.grad(sum((y * y).sum() for y in made), [x, w])]
""",
    "Adam": """
p = jt.rand(5, 6); o = jt.optim.AdamW([p], 1e-3); o.step((p * p).sum()); p.sync()
""",
}

CHILD = """
import json, os, sys
from pathlib import Path
from jfusion import runtime
home, site, variables, code = sys.argv[1:]
environment.jittor_site = lambda home, nvcc: Path(site)
jt = load.import_jittor(Path(home), json.loads(variables))
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
    found = find(options.packages)
    print(found.name)
    nvcc = cuda_toolkit.link_tree(found, home, "check")
    offered = make_stubs(found, nvcc.parent.parent, OWN)
    installed = Path(metadata.distribution("jittor").locate_file("")).resolve()
    site = (
        cuda_patches.patched(installed / "jittor", home, found)
        if cuda_patches.needed(found)
        else installed
    )
    for change in cuda_patches.needed(found):
        print(f"  {change.file}: {change.reason}")
    variables = {**environment.environment(), "nvcc_path": str(nvcc), "kernel_flags": ""}
    variables |= {"use_cutt": "0", "use_cutlass": "0", "use_nccl": "0"}
    build.link_onednn(home)
    failed = compile_all(home, site, variables)
    if failed is None:
        return 1
    return unresolved(home, offered) or int(failed)


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


def unresolved(home: Path, offered: set[str]) -> int:
    """Whether something compiled uses a CUDA function that the real libraries lack."""
    libraries = list(home.glob(".cache/jittor/**/cu1*/**/*.so"))
    names = ("cuda", "__cuda", "cublas", "cudnn", "cufft", "curand", "cusparse")
    cuda = {f for library in libraries for f in used(library) if f.startswith(names)}
    lacking = sorted(cuda - offered)
    print(
        f"{len(libraries)} libraries use {len(cuda)} CUDA functions; the real ones lack {len(lacking)} {lacking}"
    )
    return int(bool(lacking))


if __name__ == "__main__":
    sys.exit(main())
