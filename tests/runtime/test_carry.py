"""A compiled core in one file: what fits is taken, everything else is refused in one line and changes nothing."""

from __future__ import annotations

import json
import shutil
import zipfile

import pytest

from jfusion.errors import UserError
from jfusion.runtime import build, carry, core, environment

LIBRARY = b"\x7fELF" + bytes(60)
KERNELS = {"jit/a_op.so": LIBRARY, "jit/a_op.so.key": b" -O1 123"}
LIBRARIES = {"jit_utils_core.x.so": LIBRARY, "jittor_core.x.so": LIBRARY, "data.md5": b"1"}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty cache in which nothing is compiled."""
    folder = tmp_path / "home"
    monkeypatch.setenv("JFUSION_HOME", str(folder))
    monkeypatch.setenv("nvcc_path", "")
    monkeypatch.setattr(core, "start_header", lambda folder, jittor: None)
    return folder


def parts():
    return core.core_parts("jfusion")


def archive(path, members, parts, **changes):
    """Writes an archive as `carry.pack` does; changes: what the contents say instead."""
    names = {name: carry._hash(data) for name, data in members.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(carry.CONTENTS, json.dumps({"parts": parts, "files": names, **changes}))
        for name, data in members.items():
            file.writestr(name, data)
    return path


def test_what_was_packed_is_found_by_the_next_start(home, tmp_path):
    file = archive(tmp_path / "c.zip", {**LIBRARIES, **KERNELS}, parts())
    assert carry.unpack(file) == 1
    ready = build.read_stamp(build.stamp_path(home, environment.environment()))
    folder = home / f"core-{core.key_of(parts())}"
    assert ready["cache_path"] == str(folder)
    assert (folder / "jit/a_op.so").read_bytes() == LIBRARY
    assert carry.unpack(file) == 0


def test_the_folder_of_everything_compiled_may_be_moved(home, tmp_path, monkeypatch):
    carry.unpack(archive(tmp_path / "c.zip", {**LIBRARIES, **KERNELS}, parts()))
    moved = home.rename(tmp_path / "moved")
    monkeypatch.setenv("JFUSION_HOME", str(moved))
    ready = build.read_stamp(build.stamp_path(moved, environment.environment()))
    assert ready["cache_path"] == str(moved / f"core-{core.key_of(parts())}")


@pytest.mark.parametrize("whole", [True, False])
def test_kernels_outlive_a_lost_stamp_but_not_a_damaged_core(home, tmp_path, whole):
    carry.unpack(archive(tmp_path / "c.zip", {**LIBRARIES, **KERNELS}, parts()))
    folder = home / f"core-{core.key_of(parts())}"
    if not whole:
        (folder / "jittor_core.x.so").write_bytes(LIBRARY[:20])
    build.start_folder(folder)
    assert (folder / "jit/a_op.so").exists() == whole


def test_kernels_that_are_there_stay(home, tmp_path):
    file = archive(tmp_path / "c.zip", {**LIBRARIES, **KERNELS}, parts())
    carry.unpack(file)
    kernel = home / f"core-{core.key_of(parts())}/jit/a_op.so"
    kernel.write_bytes(b"mine")
    more = {"jit/b_op.so": LIBRARY, "jit/b_op.so.key": b"2"}
    assert carry.unpack(archive(tmp_path / "d.zip", {**LIBRARIES, **KERNELS, **more}, parts())) == 1
    assert kernel.read_bytes() == b"mine"


def test_packing_leaves_out_kernels_that_are_being_compiled(home, tmp_path, monkeypatch):
    folder = tmp_path / "core"
    for name, data in {**LIBRARIES, **KERNELS, "jit/half_op.so": b"\x7fE"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    monkeypatch.setattr(build, "prepare", lambda quiet: {"cache_path": str(folder)})
    assert carry.pack(tmp_path / "c.zip") == 1
    shutil.rmtree(folder)
    assert carry.unpack(tmp_path / "c.zip") == 1


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("Jittor", "1.3.12.0", "its Jittor is 1.3.12.0, here it is 1.3.11.0"),
        ("compiler", "g++ 99", r"its compiler is g\+\+ 99, here"),
        ("processor", "avx9000", "its processor is avx9000"),
        ("flags", "-march=x86-64-v3", "remedy: export cc_flags='-march=x86-64-v3'"),
    ],
)
def test_another_core_is_refused_with_the_difference(home, tmp_path, part, value, words):
    file = archive(tmp_path / "c.zip", LIBRARIES, {**parts(), part: value})
    with pytest.raises(UserError, match=words) as error:
        carry.unpack(file)
    assert "\n" not in str(error.value)
    assert not list(home.glob("core-*")) and not list(home.glob(".unpack-*"))


def test_a_level_that_this_processor_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(carry, "cpu_features", lambda: ["avx2", "fma"])
    theirs = {**parts(), "processor": "x86-64-v4"}
    with pytest.raises(UserError, match="processors of x86-64-v4; this one lacks abm"):
        carry.check_fits(theirs, theirs, "c.zip")


def test_a_machine_without_a_compiler_takes_and_finds_any_compilers(home, tmp_path, monkeypatch):
    file = archive(tmp_path / "c.zip", {**LIBRARIES, **KERNELS}, {**parts(), "compiler": "g++ 99"})
    for module in (core, environment, carry.build):
        monkeypatch.setattr(module, "compiler", lambda: None)
    assert carry.unpack(file) == 1
    variables = environment.environment()
    assert build.stamp_path(home, variables).exists()
    assert "no-g++" in variables["cc_path"]


@pytest.mark.parametrize(
    "name", ["../evil.so", "/tmp/evil.so", "jit/../../evil.so", "jit/run.sh", "a/b/c.so", "x.so\n"]
)
def test_names_that_are_no_librarys_are_refused(home, tmp_path, name):
    with pytest.raises(UserError, match="is no library in it"):
        carry.unpack(archive(tmp_path / "c.zip", {name: LIBRARY}, parts()))
    assert not list(tmp_path.rglob("evil.so")) and not list(home.glob("core-*"))


def test_a_folder_is_refused(home, tmp_path):
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        carry.unpack(tmp_path)


@pytest.mark.parametrize("how", ["cut", "empty", "text", "missing", "other bytes", "no contents"])
def test_a_damaged_file_is_refused(home, tmp_path, how):
    file = archive(tmp_path / "c.zip", LIBRARIES, parts())
    data = file.read_bytes()
    if how == "other bytes":
        archive(file, LIBRARIES, parts(), files=dict.fromkeys(LIBRARIES, "0"))
    elif how == "no contents":
        archive(file, LIBRARIES, parts(), files=[1])
    elif how == "missing":
        file.unlink()
    else:
        file.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "text": b"hello"}[how])
    with pytest.raises(UserError) as error:
        carry.unpack(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)
    assert not list(home.glob("core-*"))


def test_a_file_that_unfolds_to_too_much_is_refused_before_it_is_read(home, tmp_path, monkeypatch):
    file = archive(tmp_path / "c.zip", {"jit/a.so": bytes(10_000_000)}, parts())
    monkeypatch.setattr(carry, "MOST_BYTES", 9_000_000)
    monkeypatch.setattr(carry, "_extract", None)
    with pytest.raises(UserError, match="more bytes than"):
        carry.unpack(file)
