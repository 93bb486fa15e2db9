"""How the tool that runs CUDA's kernels on the CPU rewrites their sources."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "tools/cuda_emulator/nvcc.py"
spec = importlib.util.spec_from_file_location("emulator_nvcc", FILE)
nvcc = importlib.util.module_from_spec(spec)
spec.loader.exec_module(nvcc)


@pytest.mark.parametrize(
    "cuda, plain",
    [
        ("f<<<a,b>>>(x);", "on_cpu::run(a,b, [&] { f(x); });"),
        ("ns::f<T,3> <<<g(1), 32, 0, s>>>(x, h(y), (int)z);",
         "on_cpu::run(g(1), 32, 0, s, [&] { ns::f<T,3>(x, h(y), (int)z); });"),
        ("f<<<a,b>>>(); a << 2; g<<<c,d>>>\n(x);",
         "on_cpu::run(a,b, [&] { f(); }); a << 2; on_cpu::run(c,d, [&] { g(x); });"),
        ("x << y >> z;", "x << y >> z;"),
    ],
)  # fmt: skip
def test_launches_become_calls(cuda, plain):
    assert nvcc.translate(cuda) == plain


def test_questions_are_answered_as_nvcc_does(tmp_path, capsys):
    assert nvcc.main("nvcc", tmp_path, ["--dryrun", "-x", "cu", "/dev/null"]) == 0
    assert capsys.readouterr().err == f"#$ TOP={tmp_path}\n"
