"""Takes nvcc's place: translates CUDA sources to plain C++, whose kernels the CPU runs, and compiles them.

nvcc.py REAL_NVCC TREE ARGUMENTS...
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
LAUNCH = re.compile(r"([A-Za-z_][\w:]*(?:<[^<>;(){}]*>)?)\s*<<<(.*?)>>>\s*\(", re.S)
SKIPPED = re.compile(
    r"-arch=|-code=|-gencode|--cudart|--use_fast_math|-ccbin|--?extended-lambda|-x$|cu$"
)


def translate(text: str) -> str:
    """Returns CUDA C++ with launches as calls: f<<<grid, threads>>>(x) -> on_cpu::run(grid, threads, [&] {f(x);})."""
    while found := LAUNCH.search(text):
        depth, end = 1, found.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        call = f"on_cpu::run({found[2]}, [&] {{ {found[1]}({text[found.end() : end - 1]}); }})"
        text = text[: found.start()] + call + text[end:]
    return text


def main(real: str, tree: Path, arguments: list[str]) -> int:
    """Compiles, or answers a question as the real nvcc does; returns the exit status."""
    if "--dryrun" in arguments:
        print(f"#$ TOP={tree}", file=sys.stderr)
        return 0
    sources = [a for a in arguments if a.endswith((".cc", ".cu", ".cpp"))]
    if not sources and not any(a.endswith(".o") for a in arguments):
        os.execv(real, [real, *arguments])
    command = [
        "g++",
        "-w",
        "-include",
        str(HERE / "kernels.h"),
        f"-I{HERE}",
        f"-I{tree}/translated",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for argument in arguments:
            if argument in sources:
                made = Path(folder) / (Path(argument).name + ".cc")
                # jfusion's blocks get fewer threads: switching between their stacks takes most of the time
                text = Path(argument).read_text().replace("THREADS = 256", "THREADS = 16")
                made.write_text(translate(text))
                if "__syncthreads" in text or "cub::" in text:
                    command.append("-DON_CPU_TOGETHER")
                command += [f"-I{Path(argument).parent}", str(made)]
            elif argument != "-Xcompiler" and not SKIPPED.match(argument):
                command.append(argument)
        command += [f"-I{tree}/include", f"-L{tree}/lib64", "-lcudart"]
        return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))
