"""The files in csrc/: they compile on their own and without warnings, and `source` joins them."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from jfusion.ops import kernels
from jfusion.ops.kernels import source

HEADERS = sorted(file.name for file in kernels._CSRC.glob("*.h"))


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize("name", HEADERS)
def test_a_header_compiles_alone_without_warnings(name):
    command = ["g++", "-std=c++14", "-fopenmp", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    command += ["-I", str(kernels._CSRC), "-x", "c++", "-"]
    done = subprocess.run(command, input=f'#include "{name}"\n', capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(file.name for file in kernels._CSRC.iterdir()))
def test_source_is_whole_and_holds_each_file_once(name):
    text = source(name)
    assert '#include "' not in text
    assert "#pragma once" not in text
    assert "//" not in text
    assert "@" not in text  # Jittor would read it as a macro of its own
    assert text.count("#include <cstdint>") == 1  # of common.h or common.cuh
    assert text.count("{") == text.count("}")


def test_source_of_two_files_holds_what_both_include_once():
    assert source("expand.h", "norm.h").count("dnnl_sgemm(char") == 1
    assert source("norm.h") in source("norm.h", "expand.h")


def test_comments_and_empty_lines_are_no_part_of_the_text(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "_CSRC", tmp_path)
    (tmp_path / "base.h").write_text("#pragma once\n// what it is\nint a;\n")
    (tmp_path / "one.h").write_text('// one\n#include "base.h"\n\nint b;  // why\n')
    (tmp_path / "two.h").write_text('#pragma once\n#include "base.h"\nint b;\n')
    assert source("one.h") == source("two.h") == "int a;\nint b;\n"


def test_kernels_are_files_and_no_strings_in_python():
    package = kernels._CSRC.parents[1]
    users = {p.name for p in package.rglob("*.py") if "jt.code(" in p.read_text(encoding="utf-8")}
    assert users == {"kernels.py", "activation.py"}  # the latter: one kernel for each expression
