"""An output that is an input, through every command that writes: a spelling of the path x a command."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from jfusion import checkpoint, inference
from jfusion.cli import main
from jfusion.commands import describe as describing
from jfusion.data import image
from jfusion.runs import Run
from tests.commands.test_preprocess import make_dataset, random_pair
from tests.text.chat_server import chat_server
from tests.text.test_features import encoder_folder

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 56), dtype=np.uint8)


class Job(NamedTuple):
    """A command line, a file that it reads, and a file that it writes."""

    line: list[str | Path]
    victim: Path
    target: Path


def sides(work: Path, ending: str = "png") -> list[str | Path]:
    for side in "ab":
        for i in range(3):
            image.write(work / side / f"{i}.{ending}", np.roll(PIXELS, i))
    return ["--a", work / "a", "--b", work / "b"]


def fuse(work: Path) -> Job:
    line = ["fuse", "--system", "average", *sides(work), "--out", work / "out"]
    return Job([*line, "--no-check-alignment"], work / "a/2.png", work / "out/0.png")


def fuse_frames(work: Path) -> Job:
    line = [
        "fuse",
        "--system",
        "average",
        *sides(work),
        "--out",
        work / "out",
        "--clip",
        "--overwrite",
    ]
    return Job([*line, "--no-check-alignment"], work / "b/2.png", work / "out/0.png")


def fuse_video(work: Path) -> Job:
    pytest.importorskip("av")
    from tests.fusing.test_clips import as_video

    sides(work)
    a, b = (as_video(work / side, work / f"{side}.mp4") for side in "ab")
    out = ["--out", work / "o.mp4", "--overwrite", "--no-check-alignment"]
    return Job(["fuse", "--system", "average", a, b, *out], a, work / "o.mp4")


def volume(path: Path) -> Path:
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(np.tile(PIXELS[..., None], 3), np.eye(4)), path)
    return path


def fuse_volumes(work: Path) -> Job:
    a, b = (volume(work / f"{side}.nii.gz") for side in "ab")
    out = ["--out", work / "o.nii.gz", "--overwrite"]
    return Job(["fuse", "--system", "average", a, b, *out], b, work / "o.nii.gz")


def slices(work: Path) -> Job:
    a = volume(work / "a.nii")
    return Job(["slices", a, work / "out"], a, work / "out/0.png")


def metrics_of_a_list(work: Path) -> Job:
    (work / "list.txt").write_text("0\n1\n")
    line = ["metrics", *sides(work), "--fused", work / "a", "--list", work / "list.txt"]
    line += ["--metrics", "MSE", "--csv", work / "t.csv"]
    return Job(line, work / "list.txt", work / "t.csv")


def metrics_of_images(work: Path) -> Job:
    line = ["metrics", *sides(work), "--fused", work / "f", "--metrics", "MSE", "--jobs", "2"]
    (work / "f").mkdir()
    text = f"P2\n56 48\n255\n{' '.join(map(str, PIXELS.ravel()))}\n"
    for i in range(3):
        (work / f"f/{i}.pgm").write_text(text)
    return Job([*line, "--csv", work / "t.csv"], work / "f/2.pgm", work / "t.csv")


def calibrate(work: Path) -> Job:
    (work / "p.txt").write_text("0 0 1 1\n9 0 10 1\n0 9 1 10\n9 9 10 10\n5 2 6 3\n")
    line = ["align", "--points", work / "p.txt", "--out", work / "calib.json"]
    return Job(line, work / "p.txt", work / "calib.json")


def align(work: Path) -> Job:
    class Still:
        def displacement_field(self, a, b):
            return np.zeros((*a.shape[:2], 2), np.float32)

    inference.load_system = lambda *_, **__: Still()
    line = ["align", *sides(work), "--out", work / "out"]
    return Job(line, work / "b/2.png", work / "out/0.png")


def convert(work: Path) -> Job:
    checkpoint.save(work / "x.pkl", {"model": {"w": np.ones(3, np.float32)}})
    return Job(["convert", work / "x.pkl", work / "y.pkl"], work / "x.pkl", work / "y.pkl")


def preprocess(work: Path) -> Job:
    make_dataset(work, {"one": random_pair(1, (48, 50))})
    line = ["preprocess", "--root", work, "--dataset", "Set", "--split", "test"]
    images = sorted(work.rglob("one.png"))
    return Job([*line, "--out", work / "x.h5"], images[0], work / "x.h5")


def evaluate(work: Path) -> Job:
    main([*map(str, preprocess(work).line)])
    line = ["test", "average", "--data", work / "x.h5", "--out", work / "out"]
    return Job(line, work / "x.h5", work / "out/Set/Gray/one.png")


def plot(work: Path) -> Job:
    run = Run.new(work, "film", "Set", {"system": "film"})
    (run.folder / "metrics.csv").write_text("step,total\n1,0.5\n2,0.25\n")
    line = ["plot", run.folder, "--out", work / "o.html"]
    return Job(line, run.folder / "metrics.csv", work / "o.html")


def texts(work: Path) -> Path:
    folder = work / "VLF/Text/IVF/Mine"
    folder.mkdir(parents=True)
    for name in ("one", "two"):
        (folder / f"{name}.txt").write_text("a red car.")
    return folder


def embed(work: Path) -> Job:
    line = ["embed", "--root", work / "VLF", "--task", "IVF", "--dataset", "Mine"]
    line += ["--encoder", encoder_folder(work / "tiny"), "--replace"]
    victim = texts(work) / "two.txt"
    return Job(line, victim, work / "VLF/TextFeature/IVF/Mine/encoder.json")


def describe(work: Path) -> Job:
    sides(work)
    (work / "prompt.txt").write_text("say what is there, in 100 words or more, please.")
    line = ["describe", "--a", work / "a", "--b", work / "b", "--root", work / "VLF"]
    line += [
        "--task",
        "IVF",
        "--name",
        "out",
        "--model",
        "tiny",
        "--prompt",
        work / "prompt.txt",
    ]
    return Job(line, work / "prompt.txt", work / "VLF/Text/IVF/out/describe.jsonl")


COMMANDS: list[Callable[[Path], Job]] = [
    fuse,
    fuse_frames,
    fuse_video,
    fuse_volumes,
    slices,
    metrics_of_a_list,
    metrics_of_images,
    calibrate,
    align,
    convert,
    preprocess,
    evaluate,
    plot,
    embed,
    describe,
]


def hard_link(job: Job) -> None:
    job.target.hardlink_to(job.victim)


def soft_link(job: Job) -> None:
    job.target.symlink_to(job.victim)


@pytest.mark.parametrize("spelling", [hard_link, soft_link])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_writes_over_what_it_reads(command, spelling, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(inference, "load_system", inference.load_system)
    monkeypatch.setattr(describing, "token_counter", lambda name: (len, 120))
    job = command(tmp_path)
    job.target.parent.mkdir(parents=True, exist_ok=True)
    spelling(job)
    before = job.victim.read_bytes()
    capsys.readouterr()
    with chat_server() as server:
        line = [*job.line, *(["--base-url", server.url] if command is describe else [])]
        assert main([*map(str, line)]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "which this command reads; choose another output" in said or "which is no" in said
    assert job.victim.read_bytes() == before and job.target.samefile(job.victim)
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("spelling", ["same", "dotted", "relative"])
@pytest.mark.parametrize(
    "command", [fuse_video, fuse_volumes, metrics_of_a_list, calibrate, convert]
)
def test_no_command_writes_over_an_input_by_its_own_name(
    command, spelling, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    job = command(tmp_path)
    before = job.victim.read_bytes()
    name = {
        "same": job.victim,
        "dotted": job.victim.parent / "a/.." / job.victim.name,
        "relative": os.path.relpath(job.victim),
    }[spelling]
    (tmp_path / "a").mkdir(exist_ok=True)
    line = [str(name if word == job.target else word) for word in job.line]
    capsys.readouterr()
    assert main(line) == 2
    assert "which this command reads; choose another output" in capsys.readouterr().err
    assert job.victim.read_bytes() == before
