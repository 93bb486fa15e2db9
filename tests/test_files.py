"""The one writer: what it replaces, what it refuses, and what it says before the work."""

from __future__ import annotations

import errno
import os
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from jfusion import cli, files
from jfusion.cli import main
from jfusion.data import image
from jfusion.data.layout import find_pairs
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


def test_names_are_printed_without_escape_sequences(pair, capsys):
    assert fuse(pair, pair / "\x1b[31mred") == 0
    assert "?[31mred/1.png" in "".join(capsys.readouterr().out.split("\n"))


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


@pytest.mark.parametrize("path", ["/dev/stdout", "/proc/self/fd/1", "/dev/fd/1", "link"])
@pytest.mark.parametrize("pipe", [False, True])
def test_an_open_file_keeps_what_is_in_it(tmp_path, path, pipe):
    (tmp_path / "link").symlink_to("/dev/stdout")
    (tmp_path / "log.txt").write_text("old\n")
    code = (
        "import sys; from jfusion import files; print('before'); "
        "files.check_output(sys.argv[1], 'the table'); "
        "files.write_text(sys.argv[1], 'table\\n', 'the table'); print('after')"
    )
    command = [sys.executable, "-c", code, path if path != "link" else str(tmp_path / "link")]
    with (tmp_path / "log.txt").open("a") as log:
        done = subprocess.run(command, stdout=subprocess.PIPE if pipe else log, check=True)
    written = done.stdout.decode() if pipe else (tmp_path / "log.txt").read_text()
    assert written == ("" if pipe else "old\n") + "before\ntable\nafter\n"
    assert (tmp_path / "link").is_symlink()


def test_a_text_that_a_command_reads_is_kept_unless_it_is_its_own(tmp_path):
    path = tmp_path / "n.txt"
    path.write_text("one\n")
    with files.protecting_inputs():
        files.write_text(path, files.read_text(path, "the log", rewritten=True), "the log")
        files.read_text(path, "the list")
        with pytest.raises(UserError, match=r"n\.txt, which this command reads"):
            files.write_text(path, "table", "the table")
    assert path.read_text() == "one\n"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("x" * 256, "is too long"),
        ("a/" * 2100, "is too long"),
        ("a\0b", "holds a NUL"),
        ("a\ud800", "holds half a character"),
    ],
)
def test_a_path_that_no_file_can_have_is_one_line(path, reason):
    for use in (files.check_output, files.write_text, files.read_text):
        with pytest.raises(UserError, match=f"the file: the path .* {reason}; choose another$"):
            use(*((path, "text", "the file") if use is files.write_text else (path, "the file")))
    with pytest.raises(UserError, match=reason):
        find_pairs(path, ".")


def test_a_folder_that_may_not_be_looked_into_is_one_line(tmp_path, monkeypatch):
    def refuse(path, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "stat", refuse)
    for use in (files.check_output, lambda path, what: files.write_text(path, "", what)):
        with pytest.raises(UserError, match="Permission denied"):
            use(tmp_path / "x", "the table")
    with pytest.raises(UserError, match="Permission denied"):
        find_pairs(tmp_path, tmp_path)


@pytest.mark.parametrize("kind", ["file", "pipe", "link"])
def test_a_folder_is_not_made_in_place_of_something_else(tmp_path, kind):
    path = tmp_path / kind
    make = {"file": path.touch, "pipe": lambda: os.mkfifo(path)}
    make.get(kind, lambda: path.symlink_to(tmp_path / "nowhere"))()
    for place in (path, path / "deep"):
        with pytest.raises(UserError, match=f"{kind} is a .*, not a folder"):
            files.check_output(place, "the images", folder=True)
    files.check_output(tmp_path, "the images", folder=True)


def test_what_cannot_be_written_is_said_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file, not a folder"):
        files.check_output(tmp_path / "file/x.h5", "the H5 file")
    files.check_output(tmp_path / "new/deep/x.h5", "the H5 file")
    assert not (tmp_path / "new").exists()
    with pytest.raises(
        UserError, match=r"no room for .* MB are needed, and the disk of .* MB free"
    ):
        files.check_output(tmp_path / "x.h5", "the H5 file", needed=1 << 60)


@pytest.mark.parametrize("command", ["fuse", "test", "align", "slices", "train"])
@pytest.mark.parametrize("out", ["file/out", "file"])
def test_every_command_looks_at_its_output_before_the_work(pair, command, out, capsys):
    blocked = pair / out
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
    # as in a user's shell, where Python keeps output back: PYTHONUNBUFFERED may be set around the tests
    variables = options.pop("env", os.environ)
    environment = {k: v for k, v in variables.items() if k != "PYTHONUNBUFFERED"}
    return subprocess.run([sys.executable, "-c", code, *arguments], env=environment, **options)


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
        said = done.stderr.decode().split("\n")
        # a second of compiling, or of waiting for another test that does, is said too
        assert len([line for line in said if line and "compiles" not in line]) <= 2


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_files_are_written_without_a_terminal(pair, closed):
    sides = ["--a", str(pair / "a"), "--b", str(pair / "b"), "--fused", str(pair / "a")]
    arguments = [*sides, "--metrics", "MSE", "--csv", str(pair / "t.csv")]
    command = shlex.join([sys.executable, "-m", "jfusion", "metrics", *arguments])
    done = subprocess.run(f"{command} {closed}", shell=True, capture_output=True)
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    assert "MSE" in (pair / "t.csv").read_text()


def test_a_fault_of_ours_is_one_line_and_a_log(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cli, "_run", lambda *_: 1 / 0)
    assert main(["systems"]) == 70
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "ZeroDivisionError" in line and str(tmp_path / "jfusion/last-error.txt") in line
    log = (tmp_path / "jfusion/last-error.txt").read_text()
    assert "Traceback" in log and log.startswith(f"process {os.getpid()}: {sys.argv[0]}")


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
