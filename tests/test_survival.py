"""What is left after `kill -9`, on a full disk, and with odd names. Each promise of docs/guarantees.md."""

from __future__ import annotations

import errno
import itertools
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

from jfusion import checkpoint
from jfusion.cli import main
from jfusion.data.h5 import PairFile, check
from jfusion.errors import UserError
from jfusion.files import replacing, write_text
from jfusion.runs import Run
from jfusion.train.options import Options
from jfusion.train.setup import resume, train
from tests.commands.test_preprocess import make_dataset, random_pair
from tests.train.test_loop import TINY, data  # noqa: F401  a fixture

# more of them: KILLS=50 pytest tests/test_survival.py -k killed_again
KILLS, PREPROCESS_KILLS = int(os.environ.get("KILLS", "10")), 6


# ---- kill -9 -----------------------------------------------------------------------------------

RESUME = """
import sys
from jfusion import runs
from jfusion.train.setup import resume
original = runs.Run.log
def log(*arguments):
    original(*arguments)
    sys.__stdout__.write("step\\n")
    sys.__stdout__.flush()
runs.Run.log = log
resume(sys.argv[1], max_steps=100_000)
"""


def resume_and_kill(folder, steps, seconds):
    """Resumes a run and kills it so long after so many steps; whether it lived until then."""
    command = [sys.executable, "-c", RESUME, str(folder)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        lines = (line for line in process.stdout if line == "step\n")
        for _ in itertools.islice(lines, steps):
            pass
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        process.stdout.read()
        timer.join()
    return process.returncode == -signal.SIGKILL


def kill_often(run, seed, times):
    """How often a kill fell into the writing of a checkpoint. After each, every checkpoint is whole."""
    inside_a_write, rng = 0, np.random.default_rng(seed)
    for _ in range(times):
        assert resume_and_kill(run.folder, int(rng.integers(1, 5)), rng.uniform(0, 0.5))
        inside_a_write += bool(list((run.folder / "model").glob(".*.part")))
        assert {p.suffix for p in (run.folder / "model").iterdir()} <= {".pkl", ".part"}
        for path in run.checkpoints():
            checkpoint.load(path)
    return inside_a_write


def test_training_killed_again_and_again_loses_nothing(data, tmp_path):  # noqa: F811
    options = {"data": str(data), "exp": str(tmp_path), "seed": 5}
    runs = [train("film", TINY, Options(**options, max_steps=1)) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        inside = list(pool.map(kill_often, runs, (0, 1), (KILLS // 2,) * 2))
    reached = [run.latest()["step"] for run in runs]
    print(f"{KILLS} kills, {sum(inside)} inside a write, steps {reached} reached")
    assert min(reached) > 3
    end = max(reached) + 2
    whole = train("film", TINY, Options(**options, max_steps=end)).latest()
    for run in runs:
        found = resume(run.folder, max_steps=end).latest()
        assert not list((run.folder / "model").glob(".*.part"))  # what the killed ones left is gone
        assert found["step"] == whole["step"] == end
        for name, value in whole["model"].items():
            np.testing.assert_array_equal(found["model"][name], value, err_msg=name)


def test_preprocessing_killed_leaves_a_whole_file_or_none(tmp_path):
    make_dataset(tmp_path, {f"s{i}": random_pair(i, (300, 400)) for i in range(24)})
    out = tmp_path / "set.h5"
    given = ["--root", str(tmp_path), "--dataset", "Set", "--split", "test", "--out", str(out)]
    command = [sys.executable, "-m", "jfusion", "preprocess", *given]
    whole = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    whole = time.perf_counter() - whole
    complete = 0
    for moment in np.random.default_rng(1).uniform(0.2 * whole, 1.1 * whole, PREPROCESS_KILLS):
        out.unlink(missing_ok=True)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moment)
        process.kill()
        process.wait()
        if out.exists():
            assert check(out)["samples"] == 24
            complete += 1
    subprocess.run(command, check=True, capture_output=True)
    assert check(out)["samples"] == 24 and complete < PREPROCESS_KILLS
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".part")] == []


def test_what_a_living_process_writes_is_not_removed(tmp_path):
    with replacing(tmp_path / "x", "the file", "text") as first:
        first.write_text("first")
        write_text(tmp_path / "x", "second", "the file")
    assert (tmp_path / "x").read_text() == "first"


# ---- full disk ---------------------------------------------------------------------------------


def limited(size):
    """Files of this process cannot grow beyond `size` bytes: writing more is an error, as on a full disk."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def test_training_on_a_full_disk_stops_with_one_line_and_keeps_what_is_there(data, tmp_path):  # noqa: F811
    run = train("film", TINY, Options(data=str(data), exp=str(tmp_path), seed=5, max_steps=3))
    before = {p.name: p.read_bytes() for p in run.checkpoints()}
    size = min(map(len, before.values())) - 1000
    command = [
        sys.executable,
        "-m",
        "jfusion",
        "train",
        "--resume",
        str(run.folder),
        "--max-steps",
        "9",
    ]
    done = subprocess.run(command, preexec_fn=limited(size), capture_output=True, text=True)
    assert done.returncode == 2
    line = done.stderr.strip().splitlines()[-1]
    assert "the checkpoint could not be written" in line and "free some space" in line
    assert {p.name: p.read_bytes() for p in run.checkpoints()} == before
    assert not list((run.folder / "model").glob(".*"))
    assert resume(run.folder, max_steps=4).latest()["step"] == 4


@pytest.mark.parametrize("size", [100, 4096, 60_000])
def test_preprocessing_on_a_full_disk_is_one_line(tmp_path, size):
    make_dataset(tmp_path, {f"s{i}": random_pair(i, (200, 200)) for i in range(3)})
    given = [
        "--root",
        str(tmp_path),
        "--dataset",
        "Set",
        "--split",
        "test",
        "--out",
        str(tmp_path / "x.h5"),
    ]
    command = [sys.executable, "-m", "jfusion", "preprocess", *given]
    done = subprocess.run(command, preexec_fn=limited(size), capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "the H5 file could not be written" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x.h5").exists() and not list(tmp_path.glob(".*.part"))


FULL_WHILE_HDF5_WRITES = """
import errno, os, sys, numpy as np
from jfusion.data.h5 import created
left, write = int(sys.argv[2]), os.write

def write_some(number, data):
    global left
    left -= len(data)
    if left < 0:
        raise OSError(errno.ENOSPC, "No space left on device")
    return write(number, data)

os.write = write_some
try:
    with created(sys.argv[1]) as (file, _):
        for i in range(4):
            file.create_dataset(f"imageA/{i}", data=np.zeros((1, 20, 30), np.float32))
        file.attrs["name"] = "x" * 3000
except OSError as error:
    sys.exit(error.errno or 1)
"""


@pytest.mark.parametrize("size", [0, 500, 2000, 4000, 8000, 11_000])
def test_a_disk_that_is_full_until_the_end_does_not_end_the_process(tmp_path, size):
    command = [sys.executable, "-c", FULL_WHILE_HDF5_WRITES, str(tmp_path / "x.h5"), str(size)]
    assert subprocess.run(command).returncode == errno.ENOSPC


WRITING = {
    "fuse": "fuse {set}/IR {set}/VI --method average -o {out}",
    "test": "test average --data {root}/x.h5 --out {out}",
    "metrics": "metrics --a {set}/IR --b {set}/VI --fused {set}/VI --metrics EN --csv {out}/x.csv",
    "metrics as HTML": "metrics --a {set}/IR --b {set}/VI --fused {set}/VI --metrics EN --html {out}/x.html",
    "slices": "slices {root}/brain.mha {out}",
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with a data set, its H5 file and a volume."""
    root = tmp_path_factory.mktemp("inputs")
    make_dataset(root, {f"s{i}": random_pair(i, (40, 40)) for i in range(3)})
    given = [
        "--root",
        str(root),
        "--dataset",
        "Set",
        "--split",
        "test",
        "--out",
        str(root / "x.h5"),
    ]
    assert main(["preprocess", *given, "--no-check-alignment"]) == 0
    header = "NDims = 3\nDimSize = 9 8 4\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
    values = np.random.default_rng(0).integers(0, 256, 9 * 8 * 4, dtype=np.uint8)
    (root / "brain.mha").write_bytes(header.encode() + values.tobytes())
    return root


@pytest.mark.parametrize("name", WRITING)
def test_a_full_disk_is_one_line_in_every_command(inputs, tmp_path, name):
    out = tmp_path / "out"
    where = {"set": inputs / "Image/IVF/Set", "root": inputs, "out": out}
    command = [sys.executable, "-m", "jfusion", *WRITING[name].format(**where).split()]
    done = subprocess.run(command, preexec_fn=limited(20), capture_output=True, text=True)
    # a wait for another test that compiles is said too
    said = [line for line in done.stderr.splitlines() if "compiles" not in line]
    lines = [line for line in said if line.startswith("jfusion: ")]
    assert done.returncode == 2 and len(lines) == 1 and "could not be written" in lines[0], done
    assert not [p for p in out.rglob("*") if p.is_file()]


@pytest.mark.parametrize("suffix", checkpoint.FORMATS)
def test_converting_on_a_full_disk_is_one_line(tmp_path, suffix):
    checkpoint.save(tmp_path / "x.pkl", {"model": {"w": np.zeros(4000, np.float32)}})
    given = ["convert", str(tmp_path / "x.pkl"), str(tmp_path / f"y{suffix}")]
    command = [sys.executable, "-m", "jfusion", *given]
    done = subprocess.run(command, preexec_fn=limited(9000), capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert "the checkpoint could not be written" in line
    assert [p.name for p in tmp_path.iterdir()] == ["x.pkl"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one MiB, where the machine lets us make one (as root)."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("needs root, to make a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_file_system_keeps_the_earlier_checkpoint(small_disk):
    model = {"w": np.random.default_rng(0).random(100_000).astype(np.float32)}
    checkpoint.save(small_disk / "a.pkl", {"model": model})
    for _ in range(3):
        with pytest.raises(UserError, match="No space left on device"):
            checkpoint.save(small_disk / "a.pkl", {"model": {"w": np.tile(model["w"], 2)}})
    np.testing.assert_array_equal(checkpoint.load(small_disk / "a.pkl")["model"]["w"], model["w"])
    assert [p.name for p in small_disk.iterdir()] == ["a.pkl"]


# ---- pruning -----------------------------------------------------------------------------------


def test_pruning_keeps_the_newest_and_the_best(data, tmp_path):  # noqa: F811
    settings = {"data": str(data), "exp": str(tmp_path), "seed": 5, "max_steps": 12}
    run = train("film", TINY, Options(**settings, keep_last=2))
    best = run.best_epoch("total", [3] * 4)
    assert [p.stem for p in run.checkpoints()] == sorted({f"ckpt_{best}", "ckpt_3", "ckpt_4"})
    run = train("film", TINY, Options(**settings, keep_last=1, keep_best="intensity"))
    best = run.best_epoch("intensity", [3] * 4)
    assert [p.stem for p in run.checkpoints()] == sorted({f"ckpt_{best}", "ckpt_4"})
    with pytest.raises(UserError, match="--keep-best psnr: the losses are total"):
        train("film", TINY, Options(**settings, keep_best="psnr"))
    with pytest.raises(UserError, match="--keep-last must be 1 or more"):
        train("film", TINY, Options(**settings, keep_last=0))


def test_pruning_never_removes_the_only_good_checkpoint(tmp_path, capsys):
    run = Run.new(tmp_path, "film", "Set", {})
    for epoch in (1, 2, 3):
        run.save({"model": {"w": np.ones(3, np.float32)}, "epoch": epoch, "batch": 0})
    newest = run.checkpoints()[-1]
    newest.write_bytes(newest.read_bytes()[:-40])
    run.prune(1)
    assert (
        len(run.checkpoints()) == 3 and "the older checkpoints are kept" in capsys.readouterr().out
    )
    run.save({"model": {"w": np.ones(3, np.float32)}, "epoch": 4, "batch": 0})
    run.prune(1)
    assert [p.stem for p in run.checkpoints()] == ["ckpt_4"]


# ---- H5 files ----------------------------------------------------------------------------------


def h5_file(path, **change):
    """Two samples; `change` replaces or removes arrays by "group/name"."""
    arrays = {
        f"{g}/{n}": np.full((1, 6, 8), 0.5, np.float32) for g in ("imageA", "imageB") for n in "xy"
    }
    arrays |= {f"text/{n}": np.zeros((1, 3, 4), np.float32) for n in "xy"}
    with h5py.File(path, "w") as file:
        for name, value in {**arrays, **change}.items():
            if value is not None:
                file[name] = value
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"imageB/y": np.zeros((1, 6, 9), np.float32)},
            r"'y': images of \(1, 6, 8\) and \(1, 6, 9\)",
        ),
        ({"imageA/x": np.full((1, 6, 8), np.nan, np.float32)}, "'x': imageA holds NaN"),
        ({"text/y": np.full((1, 3, 4), np.inf, np.float32)}, "'y': text holds NaN or infinite"),
        ({"text/y": np.zeros((1, 3, 5), np.float32)}, r"several widths: \[4, 5\]"),
        ({"imageB/y": None}, "'y' is not in both"),
        ({"text/x": np.zeros(3, np.float32)}, "'x': text has the shape"),
        ({"imageA/x": None, "imageA/x/deeper": np.zeros(3)}, "imageA/x is not an array of numbers"),
    ],
)
def test_check_finds_what_is_wrong_with_a_file(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        check(h5_file(tmp_path / "x.h5", **change))


def test_truncated_h5_files_are_found(tmp_path):
    raw = h5_file(tmp_path / "whole.h5").read_bytes()
    for part in range(20):
        (tmp_path / "cut.h5").write_bytes(raw[: len(raw) * part // 20])
        with pytest.raises(UserError, match=r"cut\.h5"):
            check(tmp_path / "cut.h5")


WORKERS = """
import sys
from multiprocessing import get_context
from jfusion.data.h5 import PairFile
file = PairFile(sys.argv[1])
def read(name):
    pair = file.read(name)
    return pair.a.tobytes(), pair.b.tobytes(), pair.text.tobytes()
here = [read(n) for n in file.names]  # the handle is open before the fork
with get_context("fork").Pool(4) as pool:
    for _ in range(5):
        assert pool.map(read, file.names, chunksize=1) == here
print("equal")
"""


def test_worker_processes_read_the_same_pairs(data):  # noqa: F811
    done = subprocess.run(
        [sys.executable, "-c", WORKERS, str(data)], capture_output=True, text=True
    )
    assert done.stdout == "equal\n", done.stderr


# ---- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["..", ".hidden", "a\\b", "x" * 252])
def test_names_that_could_leave_the_folder_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="cannot be a file name; rename it"):
        PairFile(
            h5_file(
                tmp_path / "x.h5",
                **{f"{g}/{name}": np.zeros((1, 2, 2)) for g in ("imageA", "imageB", "text")},
            )
        )


def test_odd_but_possible_names_are_kept(tmp_path):
    names = ["with space", "größe", "日本語", "x" * 251, "a'b\"c", "100%"]
    pair = random_pair(0, (20, 30))
    make_dataset(tmp_path, dict.fromkeys(names, pair))
    given = [
        "--root",
        str(tmp_path),
        "--dataset",
        "Set",
        "--split",
        "test",
        "--out",
        str(tmp_path / "x.h5"),
    ]
    assert main(["preprocess", *given]) == 0
    assert PairFile(tmp_path / "x.h5").names == sorted(names, key=str.encode)


def test_names_that_collide_are_reported(tmp_path, capsys):
    pair = random_pair(0, (20, 30))
    make_dataset(tmp_path, {"a": pair})
    listed = next(tmp_path.glob("Image/*/Set/test.txt"))
    listed.write_text("a.png\na.jpg\n")
    assert main(["preprocess", "--root", str(tmp_path), "--dataset", "Set", "--split", "test"]) == 2
    assert "'a' comes twice" in capsys.readouterr().err
    listed.write_text("../a.png\n")
    assert main(["preprocess", "--root", str(tmp_path), "--dataset", "Set", "--split", "test"]) == 2
    assert "cannot be a file name" in capsys.readouterr().err


def test_a_run_made_elsewhere_resumes_here(data, tmp_path):  # noqa: F811
    """Checkpoints hold arrays and plain values, nothing of the machine or device they come from."""
    run = train(
        "film", TINY, Options(data=str(data), exp=str(tmp_path / "one"), seed=5, max_steps=4)
    )
    moved = Path(run.folder).rename(tmp_path / "other place")
    content = checkpoint.load(Run.open(moved).checkpoints()[-1])
    assert {type(v) for v in content["model"].values()} == {np.ndarray}
    assert resume(moved, data=str(data), max_steps=5).latest()["step"] == 5


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_to_the_whole_group_does_not_hang(name):
    """Ctrl-C at a terminal reaches Jittor's helpers as well; the exit must not wait for them."""
    script = f"""
import os, signal, time, uuid
from jfusion.runtime import jt
from jfusion.train.signals import interruptible

with interruptible() as received:
    source = "for (int i = 0; i < 4; i++) out_p[i] = i;"
    jt.sync([jt.code([4], "float32", [], cpu_src=f"// {{uuid.uuid4()}}\\n{{source}}") for _ in range(3)])
    time.sleep(0.3)
    os.killpg(0, signal.{name})
    time.sleep(0.3)
print("received", received)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        start_new_session=True,
    )
    assert done.returncode == 0 and f"received [{int(getattr(signal, name))}]" in done.stdout
