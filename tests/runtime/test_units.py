"""Units of many sources, and kernels that are compiled together."""

from __future__ import annotations

import subprocess

import pytest

from jfusion.errors import UserError
from jfusion.runtime import core, units
from jfusion.runtime.units import Command


def commands(tmp_path, names, size=100):
    for name in names:
        (tmp_path / name).write_text("//" + "x" * size + "\n")
    return [Command.parse(f'"g++" "{tmp_path / n}" -O2 -c -o "{tmp_path / n}.o"') for n in names]


def test_every_source_is_in_one_unit_and_neighbors_stay_in_order(tmp_path):
    names = [f"{part}{n}.cc" for part in ("pyjt_", "file") for n in range(20)]
    given = commands(tmp_path, [*names, "cuda_flags.cc"], 10_000)
    divided = units.divide(given, 4)
    assert sorted(c.name for unit in divided for c in unit) == sorted(c.name for c in given)
    assert ["cuda_flags.cc"] in [[c.name for c in unit] for unit in divided]
    order = [c for unit in divided[:-1] for c in unit]
    assert order == given[:-1] and 4 <= len(divided) <= 9
    assert all(len({c.name[:4] for c in unit}) == 1 for unit in divided)


def test_another_command_is_not_taken_for_one_of_a_source():
    with pytest.raises(ValueError, match="ld"):
        Command.parse('"ld" "a.o" -o "b"')


def test_files_with_the_same_private_names_and_macros_share_a_unit(tmp_path):
    texts = {
        "a.cc": "#define SIZE 3\nstatic auto make_x = 1;\nint a() { return make_x + SIZE; }\n",
        "b.cc": "static auto make_x = 10;\nint SIZE = 20;\nint b() { return make_x + SIZE; }\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    built = [f'"g++" "{tmp_path / n}" -Wall -O2 -c -o "{tmp_path / n}.o"' for n in texts]
    units.compile_in_units(built, tmp_path)
    (tmp_path / "main.cc").write_text("int a(), b(); int main() { return a() + b(); }\n")
    program = tmp_path / "program"
    subprocess.run(
        ["g++", tmp_path / "main.cc", *(tmp_path / f"{n}.o" for n in texts), "-o", program],
        check=True,
    )
    assert subprocess.run([program]).returncode == 34


def test_files_that_cannot_share_a_unit_are_compiled_one_by_one(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.cc").write_text(f"static int x = 1;\nint {name}() {{ return x; }}\n")
    built = [f'"g++" "{tmp_path}/{n}.cc" -c -o "{tmp_path}/{n}.o"' for n in ("a", "b")]
    units.compile_in_units(built, tmp_path)
    names = subprocess.run(
        ["nm", "-C", tmp_path / "b.o"], capture_output=True, text=True, check=True
    ).stdout
    assert "b()" in names and "a()" not in names


def test_the_compilers_first_error_is_told(tmp_path):
    (tmp_path / "bad.cc").write_text("int x = y;\n")
    with pytest.raises(UserError, match="y"):
        units.compile_in_units([f'"g++" "{tmp_path}/bad.cc" -c -o "{tmp_path}/bad.o"'], tmp_path)


def test_other_sources_than_expected_are_refused(tmp_path):
    (tmp_path / "jit_compiler.cc").write_text("something else")
    with pytest.raises(UserError, match=r"is not that of Jittor 1.3.11.0"):
        units.text_in_unit(tmp_path / "jit_compiler.cc", 0)


def test_the_key_of_a_core_says_nothing_of_the_environment(monkeypatch):
    key = core.key_of(core.core_parts("jfusion"))
    monkeypatch.setattr("sys.executable", "/elsewhere/bin/python")
    assert core.key_of(core.core_parts("jfusion")) == key
    monkeypatch.setenv("cc_flags", "-march=x86-64-v3")
    other = core.core_parts("jfusion")
    assert core.key_of(other) != key and other["processor"] == "x86-64-v3"


def test_machines_with_different_processors_have_a_core_each(monkeypatch):
    key = core.key_of(core.core_parts("jfusion"))
    monkeypatch.setattr(core, "cpu_features", lambda: ["avx"])
    assert core.key_of(core.core_parts("jfusion")) != key
