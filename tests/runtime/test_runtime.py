"""Preparing Jittor: odd homes, odd machines, several processes at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jfusion import runtime
from jfusion.errors import UserError
from jfusion.runtime import build, cache, environment, machine


def python(code, **variables):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
    )


@pytest.mark.parametrize(
    "command", [["--help"], ["train", "film", "--help"], ["systems"], ["check", "x.h5"]]
)
def test_light_commands_do_not_import_jittor(command):
    code = (
        f"import sys; from jfusion.cli import main\ntry: main({command})\nexcept SystemExit: pass\n"
    )
    done = python(code + "print('jittor' in sys.modules, 'torch' in sys.modules)")
    assert done.stdout.splitlines()[-1] == "False False"


def test_help_answers_at_once():
    # not a benchmark: ten times what it takes, to catch a heavy import
    started = time.time()
    python("from jfusion.cli import main; main(['--help'])")
    assert time.time() - started < 5


def test_metrics_do_not_import_jittor():
    done = python("import sys, jfusion; jfusion.metrics.METRICS; print('jittor' in sys.modules)")
    assert done.stdout.strip() == "False"


def test_a_home_with_spaces_or_without_permission_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.delenv("JFUSION_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "plain"))
    assert cache.cache_home() == tmp_path / "plain/.cache/jfusion"
    private = tmp_path / "tmp" / f"jfusion-{os.getuid()}"
    monkeypatch.setenv("HOME", str(tmp_path / "with space"))
    assert cache.cache_home() == private
    # root may write anywhere, so a file in the folder's place stands for a read-only home
    (tmp_path / "locked").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "locked"))
    assert cache.cache_home() == private
    private.chmod(0o777)
    with pytest.raises(UserError, match="somebody else"):
        cache.cache_home()


@pytest.mark.parametrize("name", ["a b", "quote'", "semi;colon", "dollar$x"])
def test_a_chosen_home_with_special_characters_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setenv("JFUSION_HOME", str(tmp_path / name))
    with pytest.raises(UserError, match="special character"):
        cache.cache_home()


def test_jittor_runs_with_a_home_with_spaces_and_keeps_out_of_it(tmp_path):
    home = tmp_path / "my home"
    home.mkdir()
    home_of_cache = str(cache.cache_home())  # the compiled core of this test run
    done = python(
        "from jfusion.runtime import jt; print(jt.ones(3).sum().item())",
        HOME=str(home),
        JFUSION_HOME=home_of_cache,
    )
    assert done.stdout.strip() == "3.0", done.stderr
    assert list(home.iterdir()) == []


def test_two_processes_at_once():
    code = "from jfusion.runtime import jt; print((jt.ones((3, 3)) @ jt.ones((3, 3))).sum().item())"
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in "ab"
    ]
    assert [p.communicate()[0].strip() for p in both] == ["27.0", "27.0"]


def test_python_keeps_its_signals_and_survives_a_killed_child():
    code = """
import os, signal, subprocess, sys
from jfusion.runtime import jt
subprocess.Popen([sys.executable, "-c", "import os; os.abort()"]).wait()
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""
    assert python(code).stdout.strip() == "interrupted"


def test_ctrl_c_while_jittor_is_imported_is_pythons():
    code = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "jittor.compile_extern":  # after the library that sets Jittor's handlers
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
try:
    from jfusion.runtime import jt
except KeyboardInterrupt:
    print("interrupted")
"""
    assert python(code).stdout.strip() == "interrupted"


def test_numpy_2_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(machine.np, "__version__", "2.1.0")
    with pytest.raises(UserError, match="pip install 'numpy<2'"):
        machine.check_numpy()


@pytest.mark.parametrize(
    ("function", "remedy"),
    [
        ("compiler", "apt-get install g"),
        ("python_config", "python3-dev"),
        ("onednn", "pip install onednn"),
    ],
)
def test_what_is_missing_is_named(monkeypatch, tmp_path, function, remedy, capsys):
    monkeypatch.setenv("JFUSION_HOME", str(tmp_path))  # a core that is there needs no compiler
    monkeypatch.setattr(machine, function, lambda: None)
    with pytest.raises(UserError, match=remedy):
        build.prepare()
    from jfusion.commands.doctor import diagnose

    assert diagnose() == 1
    assert "MISSING" in capsys.readouterr().err


def test_doctor_is_content_here(capsys):
    from jfusion.commands.doctor import diagnose

    assert diagnose() == 0
    printed = capsys.readouterr().out
    for word in ("compiler", "oneDNN", "CUDA", "cache", "jittor runs  yes"):
        assert word in printed


def test_doctor_tells_in_one_line_what_jittor_fails_at(monkeypatch, capsys):
    from jfusion.commands.doctor import diagnose

    def fail(*_, **__):
        raise RuntimeError(
            "fused operator failed\n[Reason]: Check failed: no algorithm\n\nand more"
        )

    monkeypatch.setattr(runtime.nn, "conv2d", fail)
    assert diagnose(quiet=True) == 1
    said = capsys.readouterr().err
    assert said == "MISSING jittor: a convolution failed: Check failed: no algorithm\n"


def test_the_same_seed_gives_the_same_numbers():
    from jfusion.runtime import jt

    runtime.seed(7)
    first = jt.rand(4).numpy()
    runtime.seed(7)
    assert (jt.rand(4).numpy() == first).all()


def test_what_was_to_be_drawn_before_a_seed_is_not_drawn_after_it():
    runtime.seed(3)
    expected = runtime.jt.rand(4).numpy()
    before = runtime.jt.rand(4)
    runtime.seed(3)
    assert (runtime.jt.rand(4).numpy() == expected).all()
    assert before.shape == [4]


def test_warm_compiles_ahead(capsys):
    from jfusion.commands.doctor import warm

    assert warm("film") == 0
    assert "kernels compiled" in capsys.readouterr().out
    assert warm("film") == 0
    assert capsys.readouterr().out.startswith("0 kernels compiled")


def test_clean_removes_what_other_environments_left(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "cache_home", lambda: tmp_path)
    current = build.stamp_path(tmp_path, environment.environment())
    stamps = {current: sys.executable, tmp_path / "ready-old.json": sys.executable}
    stamps |= {
        tmp_path / "ready-gone.json": "/gone/python",
        tmp_path / "ready-other.json": "/bin/sh",
    }
    for stamp, executable in stamps.items():
        core = tmp_path / f".cache/jittor/jt1/g/p/o/c/{stamp.stem}/jfusion"
        (core / "jit").mkdir(parents=True)
        (core / "jit/kernel.s").write_text("x" * 1000)
        (core / "jit/kernel.so").write_bytes(b"\x7fELF" + bytes(60))
        header = tmp_path / f"{stamp.stem}.h"
        (tmp_path / f"{header.name}.gch").write_text("")
        stamp.write_text(
            json.dumps(
                {
                    "executable": executable,
                    "header": str(header),
                    "cache_path": str(core),
                    "files": {},
                }
            )
        )
    (tmp_path / "jittor-1234/jittor").mkdir(parents=True)  # sources adapted to a CUDA
    assert build.clean() > 4000
    assert not (tmp_path / "jittor-1234").exists()
    kept = {current.stem, "ready-other"}
    assert {p.stem for p in tmp_path.glob("*.json")} == kept
    assert {p.parent.name for p in tmp_path.glob(".cache/jittor/jt1/g/p/o/c/*/jfusion")} == kept
    assert len(list(tmp_path.rglob("kernel.so"))) == 2 and not list(tmp_path.rglob("kernel.s"))


def test_a_copy_of_the_cache_does_not_reach_into_the_first_one(tmp_path, monkeypatch):
    first, copy = tmp_path / "first", tmp_path / "copy"
    core = first / "core"
    core.mkdir(parents=True)
    (core / "jit").mkdir()
    (core / "jit/kernel.s").write_text("x")
    for home in (first, copy):
        home.mkdir(exist_ok=True)
        stamp = build.stamp_path(home, environment.environment())
        ready = {"executable": sys.executable, "header": "", "cache_path": str(core)}
        stamp.write_text(json.dumps({**ready, "files": {str(core / "gone.so"): "1 x"}}))
    monkeypatch.chdir(core)
    monkeypatch.setattr(build, "cache_home", lambda: copy)
    build.clean()
    assert (core / "jit/kernel.s").exists() and list(first.glob("*.json"))
    assert not list(copy.glob("*.json"))


@pytest.mark.parametrize("how", ["cut", "empty", "replaced", "missing"])
def test_a_damaged_core_is_found_at_the_start(tmp_path, capsys, how):
    library = tmp_path / "cache/jittor_core.so"
    library.parent.mkdir()
    library.write_bytes(b"\x7fELF" + bytes(1000))
    stamp = tmp_path / "ready-x.json"
    ready = {
        "cache_path": str(library.parent),
        "header": "",
        "files": {str(library): build._state_of(library)},
    }
    stamp.write_text(json.dumps(ready))
    assert build.read_stamp(stamp) == ready
    contents = {"cut": b"\x7fELF", "empty": b"", "replaced": b"\x7fELF" + bytes(999) + b"x"}
    library.unlink() if how == "missing" else library.write_bytes(contents[how])
    assert build.read_stamp(stamp) is None
    assert not library.parent.exists()
    assert "is damaged or missing" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "[]", '{"cache_path": 1}', '{"header": ""}'])
def test_a_damaged_stamp_is_no_stamp(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    assert build.read_stamp(tmp_path / "x.json") is None


def test_kernels_that_were_cut_are_removed(tmp_path, capsys):
    source = next(Path(build.cache_home()).rglob("jit/*.so"))
    (tmp_path / "jit").mkdir()
    raw = source.read_bytes()
    for name, part in (("whole", raw), ("cut", raw[: len(raw) // 2]), ("empty", b"")):
        (tmp_path / f"jit/{name}.so").write_bytes(part)
    assert build.remove_damaged_kernels(tmp_path) == 2
    assert [p.name for p in (tmp_path / "jit").iterdir()] == ["whole.so"]
    assert "2 compiled kernels" in capsys.readouterr().err


def test_a_kernel_that_another_process_is_linking_stays(tmp_path):
    raw = next(Path(build.cache_home()).rglob("jit/*.so")).read_bytes()
    (tmp_path / "jit").mkdir()
    kernel = tmp_path / "jit/kernel.so"
    kernel.write_bytes(raw[: len(raw) // 2])
    linker = threading.Timer(0.5, kernel.write_bytes, [raw])
    linker.start()
    assert build.remove_damaged_kernels(tmp_path) == 0
    linker.join()
    assert kernel.read_bytes() == raw


def test_object_files_that_come_and_go_do_not_end_the_build(tmp_path, monkeypatch):
    objects = tmp_path / ".cache/jittor/jt1/gcc/py/os/cpu/key/jfusion/obj_files"
    objects.mkdir(parents=True)
    child = subprocess.Popen(["sleep", "1"])

    def compiler():
        while child.poll() is None:
            for i in range(50):
                (objects / f"{i}.o").touch()
                (objects / f"{i}.o").unlink()

    thread = threading.Thread(target=compiler)
    thread.start()
    pause = time.sleep
    monkeypatch.setattr(build.time, "sleep", lambda seconds: pause(0.001))
    build._show_progress(child, tmp_path, 0.0)
    thread.join()


def test_the_bar_counts_the_files_of_a_core_once(tmp_path):
    log = tmp_path / "build.log"
    counts = [build._progress(tmp_path, 0.0)]
    for line in (
        "2.0 s, 1 file: a.o",
        "12.1 s, 40 files: b.o",
        "warning: 7 files: x",
        "3 s, 900 files: c",
    ):
        with log.open("a") as file:
            file.write(f"{line}\n")
        counts.append(build._progress(tmp_path, 0.0))
    assert counts == [0, 1, 41, 41, build.CORE_FILES]


def test_a_cache_that_others_can_write_to_is_refused(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o777)
    monkeypatch.setenv("JFUSION_HOME", str(home))
    with pytest.raises(UserError, match="can be written by others"):
        cache.cache_home()
    home.chmod(0o755)
    assert cache.cache_home() == home
    monkeypatch.setattr(cache.os, "getuid", lambda: 12345)
    with pytest.raises(UserError, match="belongs to another user"):
        cache.cache_home()


def test_after_the_import_jittor_would_be_prepared_in_the_same_way(monkeypatch):
    monkeypatch.setenv("nvcc_path", "/usr/local/cuda/bin/nvcc")
    with environment.changed_environment({"nvcc_path": "/cache/cuda-13.0-12345678/bin/nvcc"}):
        pass
    assert os.environ["nvcc_path"] == "/usr/local/cuda/bin/nvcc"
    code = """
from jfusion.runtime import cache, build, environment
before = build.stamp_path(cache.cache_home(), environment.environment())
from jfusion.runtime import jt
assert build.stamp_path(cache.cache_home(), environment.environment()) == before
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
