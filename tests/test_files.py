"""The one writer: what it replaces, what it refuses, and what it says before the work."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from jfusion import cli, files
from jfusion.cli import main
from jfusion.data import image
from jfusion.errors import UserError

PIXELS = np.arange(48 * 50, dtype=np.uint8).reshape(48, 50)


@pytest.fixture
def pair(tmp_path):
    for side in "ab":
        image.write(tmp_path / side / "1.png", PIXELS)
    return tmp_path


def fuse(folder: Path, out: Path) -> int:
    sides = ["--a", str(folder / "a"), "--b", str(folder / "b")]
    return main(["fuse", "--system", "average", *sides, "--out", str(out)])


@pytest.mark.parametrize("spelling", ["a", "a/../a", "b", "link", "hard"])
def test_an_output_never_replaces_an_input(pair, spelling, capsys):
    (pair / "link").symlink_to(pair / "a")
    (pair / "hard").mkdir()
    (pair / "hard/1.png").hardlink_to(pair / "a/1.png")
    before = (pair / "a/1.png").read_bytes()
    assert fuse(pair, pair / spelling) == 2
    assert "which this command reads; choose another output" in capsys.readouterr().err
    assert (pair / "a/1.png").read_bytes() == before


def test_the_next_command_may_write_what_the_last_one_read(pair):
    assert fuse(pair, pair / "out") == 0
    assert fuse(pair, pair / "out") == 0
    sides = ["--a", str(pair / "out"), "--b", str(pair / "b")]
    assert main(["fuse", "--system", "average", *sides, "--out", str(pair / "out2")]) == 0
    assert fuse(pair, pair / "out") == 0


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("image", b"a diary"),
        ("H5 file", b"a diary"),
        ("features", b"\x89PNG"),
        ("checkpoint", b"a diary"),
        ("text", b"\x00\x01"),
    ],
)
def test_a_file_of_another_kind_is_not_replaced(tmp_path, kind, content):
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"the result would replace .*x, which is no {kind}"):
        with files.replacing(path, "the result", kind):
            raise AssertionError("not reached")
    assert path.read_bytes() == content
    path.write_bytes(b"")
    with files.replacing(path, "the result", kind) as temporary:
        temporary.write_bytes(b"new")
    assert path.read_bytes() == b"new"


def test_a_link_is_followed_and_a_folder_is_refused(tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    files.write_text(tmp_path / "link", "new", "the table")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "new"
    with pytest.raises(UserError, match="which is a folder; name a file"):
        files.write_text(tmp_path, "new", "the table")


def test_pipes_and_devices_are_written_through(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    files.write_text(tmp_path / "pipe", "through", "the table")
    reader.join(10)
    assert read == ["through"] and (tmp_path / "pipe").is_fifo()
    with pytest.raises(UserError, match="No space left"):
        files.write_text("/dev/full", "x" * 10, "the table")


def test_what_cannot_be_written_is_said_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file, not a folder"):
        files.check_output(tmp_path / "file/x.h5", "the H5 file")
    files.check_output(tmp_path / "new/deep/x.h5", "the H5 file")
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match=r"needs about .* MB, and the disk of .* MB free"):
        files.check_output(tmp_path / "x.h5", "the H5 file", needed=1 << 60)


@pytest.mark.parametrize("command", ["fuse", "test", "align", "slices", "train"])
def test_every_command_looks_at_its_output_before_the_work(pair, command, capsys):
    blocked = pair / "file/out"
    (pair / "file").write_text("mine")
    sides = ["--a", str(pair / "a"), "--b", str(pair / "b")]
    arguments = {
        "fuse": ["--system", "average", *sides, "--out", str(blocked)],
        "test": ["--data", str(pair / "x.h5"), "average", "--out", str(blocked)],
        "align": ["--a", sides[1], "--b", sides[3], "--out", str(blocked)],
        "slices": [str(pair / "x.mha"), str(blocked)],
        "train": ["film", "--data", str(pair / "x.h5"), "--exp", str(blocked)],
    }[command]
    assert main([command, *arguments]) == 2
    assert "file is a file, not a folder" in capsys.readouterr().err
    assert (pair / "file").read_text() == "mine"


# ---- the end of a command ----------------------------------------------------------------------


def run(*arguments: str, **options):
    code = "import sys; from jfusion.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run([sys.executable, "-c", code, *arguments], **options)


def test_a_terminal_that_lacks_a_character_gets_another_one(pair):
    name = "scène가.png"
    for side in "ab":
        (pair / side / "1.png").rename(pair / side / name)
    sides = ["--a", str(pair / "a"), "--b", str(pair / "b"), "--fused", str(pair / "a")]
    table = pair / "t.csv"
    done = run(
        "metrics",
        *(*sides, "--csv", str(table), "--metrics", "MSE,PSNR"),
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert table.is_file() and b"Traceback" not in done.stderr


def test_files_are_written_although_nobody_reads_the_output(pair):
    sides = ["--a", str(pair / "a"), "--b", str(pair / "b"), "--fused", str(pair / "a")]
    for number, target in enumerate(("/dev/full", "closed")):
        table = pair / f"{number}.csv"
        with open("/dev/full" if target == "/dev/full" else os.devnull, "w") as out:  # noqa: PTH123
            done = run("metrics", *sides, "--csv", str(table), stdout=out, stderr=subprocess.PIPE)
        assert table.is_file() and b"Traceback" not in done.stderr
        assert done.returncode == (2 if target == "/dev/full" else 0)
        assert len(done.stderr.decode().strip().splitlines()) <= 2


def test_a_fault_of_ours_is_one_line_and_a_log(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cli, "_run", lambda *_: 1 / 0)
    assert main(["systems"]) == 70
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "ZeroDivisionError" in line and str(tmp_path / "jfusion/last-error.txt") in line
    assert "Traceback" in (tmp_path / "jfusion/last-error.txt").read_text()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("\x1b[31mred"), 2, "?[31mred"),
        (MemoryError(), 2, "more memory"),
        (OSError(28, "No space left on device", "x"), 2, "free some space"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_every_end_has_its_code_and_its_line(monkeypatch, capsys, error, code, said):
    def fail(*_):
        raise error

    monkeypatch.setattr(cli, "_run", fail)
    assert main(["systems"]) == code
    assert said in capsys.readouterr().err
