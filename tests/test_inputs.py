"""Inputs that people really have, through every command that reads images: a kind of input x a command.

The files are small patterns in tests/cases; each stands for a kind. No command here starts Jittor.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jfusion.cli import main
from jfusion.data import image
from jfusion.data.h5 import PairFile

CASES = Path(__file__).parent / "cases"


def fuse(a: Path, b: Path, work: Path, *more: str) -> int:
    command = [
        "fuse",
        "--system",
        "maximum",
        "--a",
        str(a),
        "--b",
        str(b),
        "--out",
        str(work / "out"),
    ]
    return main([*command, "--no-check-alignment", *more])


def evaluate(a: Path, b: Path, work: Path, *more: str) -> int:
    return main(["metrics", "--a", str(a), "--b", str(b), "--fused", str(a), *more])


def preprocess(a: Path, b: Path, work: Path, *more: str) -> int:
    base = work / "VLF/Image/IVF/Set"
    for source, name in ((a, "IR"), (b, "VI")):
        shutil.copytree(source, base / name)
    for text in a.parent.glob("*.txt"):
        shutil.copy(text, base)
    split = "train" if (a.parent / "train.txt").is_file() else "all"
    command = ["preprocess", "--root", str(work / "VLF"), "--dataset", "Set", "--split", split]
    out = [
        "--text",
        "zeros",
        "--size",
        "native",
        "--out",
        str(work / "x.h5"),
        "--no-check-alignment",
    ]
    return main([*command, *out, *more])


COMMANDS = {"fuse": fuse, "metrics": evaluate, "preprocess": preprocess}
every_command = pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)


def folders(tmp_path: Path, *files: Path) -> tuple[Path, Path]:
    """Two folders with the same files."""
    for side in "ab":
        (tmp_path / side).mkdir()
        for i, file in enumerate(files):
            shutil.copy(file, tmp_path / side / f"{i}{file.suffix}")
    return tmp_path / "a", tmp_path / "b"


READ = [
    *(
        f"depth/{n}"
        for n in ("flir14.png", "narrow.png", "celsius.tif", "unit.tif", "full16.png", "rgb16.png")
    ),
    *(f"tiff/{n}" for n in ("f64.tif", "rgb16planar.tif", "i16.tif")),
    *(
        f"modes/{n}"
        for n in ("pgm.pgm", "graygif.gif", "anim.gif", "pal_trns.png", "bad_flir.jpg", "mpo.jpg")
    ),
]


@every_command
@pytest.mark.parametrize("name", READ)
def test_every_kind_of_image_is_read(command, name, tmp_path, capfd):
    assert command(*folders(tmp_path, CASES / name), tmp_path) == 0
    printed = capfd.readouterr()
    assert "Warning" not in printed.err + printed.out


@pytest.mark.parametrize(
    "name", [n for n in READ if n.startswith(("depth", "tiff")) or "gray" in n]
)
def test_the_ramp_of_every_file_becomes_all_levels(name, tmp_path):
    fuse(*folders(tmp_path, CASES / name), tmp_path)
    fused = image.read_rgb(tmp_path / "out/0.png")[..., 0]
    levels = np.unique(fused)
    assert len(levels) > 240 and levels[0] == 0 and levels[-1] == 255


def test_white_is_zero_is_inverted(tmp_path):
    fuse(*folders(tmp_path, CASES / "tiff/miniswhite16.tif"), tmp_path)
    fused = image.read_rgb(tmp_path / "out/0.png")[..., 0].astype(int)
    plain = image.read_rgb(CASES / "depth/full16.png")[..., 0].astype(int)
    assert np.corrcoef(fused.ravel(), plain.ravel())[0, 1] < -0.9


def test_two_frames_of_one_camera_keep_one_scale(tmp_path, capsys):
    a, b = folders(tmp_path, CASES / "depth/frame1.png", CASES / "depth/frame2.png")
    fuse(a, b, tmp_path)
    tops = [int(image.read_rgb(tmp_path / f"out/{i}.png").max()) for i in (0, 1)]
    assert tops == [254, 255]
    assert capsys.readouterr().out.count("values 0:256 become black to white") == 2  # once a folder


def test_an_h5_file_records_its_range(tmp_path):
    preprocess(*folders(tmp_path, CASES / "depth/celsius.tif"), tmp_path)
    attributes = PairFile(tmp_path / "x.h5").attributes
    assert attributes["range_a"] == attributes["range_b"] == "-20:40"


@every_command
def test_a_chosen_range_is_used(command, tmp_path):
    a, b = folders(tmp_path, CASES / "depth/celsius.tif")
    assert command(a, b, tmp_path, "--range", "0:100") == 0
    if command is fuse:
        assert image.read_rgb(tmp_path / "out/0.png").max() == 102  # 40 of 100


@every_command
def test_a_wrong_range_or_limit_is_one_line(command, tmp_path, capsys):
    a, b = folders(tmp_path, CASES / "depth/unit.tif")
    assert command(a, b, tmp_path, "--range", "9:1") == 2
    assert "LOW below HIGH" in capsys.readouterr().err


@every_command
def test_too_many_pixels_are_refused_before_they_are_decoded(command, tmp_path, capsys):
    a, b = folders(tmp_path, CASES / "depth/full16.png")
    assert command(a, b, tmp_path, "--max-pixels", "0.001") == 2
    assert "more than --max-pixels 0.001" in capsys.readouterr().err


@every_command
@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "gif", "tif", "webp", "ppm", "jp2"])
def test_a_truncated_image_is_one_line_with_its_name_and_a_remedy(command, ending, tmp_path, capfd):
    file = tmp_path / f"whole.{ending}"
    Image.effect_noise((40, 30), 50).save(file)
    a, b = folders(tmp_path, file)
    whole = (a / f"0.{ending}").read_bytes()
    (a / f"0.{ending}").write_bytes(whole[: len(whole) // 2])
    assert command(a, b, tmp_path) == 2
    (line,) = [x for x in capfd.readouterr().err.splitlines() if f"0.{ending}" in x]
    assert "it is truncated or damaged" in line and "; copy or download it again" in line


@every_command
def test_a_jpeg_whose_lower_part_would_be_gray_is_refused(command, tmp_path, capsys):
    file = tmp_path / "whole.jpg"
    Image.effect_noise((40, 30), 50).save(file)
    a, b = folders(tmp_path, file)
    whole = (b / "0.jpg").read_bytes()
    (b / "0.jpg").write_bytes(whole[: len(whole) * 3 // 4] + b"\xff\xd9")
    assert command(a, b, tmp_path) == 2
    assert "damaged (Corrupt JPEG data: premature end of data segment)" in capsys.readouterr().err


@every_command
@pytest.mark.parametrize("name", ["caseA", "hidden", "dots", "nfd"])
def test_names_are_one_thing_everywhere(command, name, tmp_path):
    a, b = CASES / "sets" / name / "IR", CASES / "sets" / name / "VI"
    assert command(a, b, tmp_path) == 0
    if command is preprocess:
        expected = {
            "dots": ["cam.2021.01", "cam.2021.02"],
            "caseA": ["001", "002"],
            "hidden": ["001"],
        }
        if name in expected:
            assert PairFile(tmp_path / "x.h5").names == expected[name]


@every_command
def test_two_files_of_one_name_are_refused(command, tmp_path, capsys):
    assert command(CASES / "sets/twice/IR", CASES / "sets/twice/VI", tmp_path) == 2
    assert "holds two images called '001'" in capsys.readouterr().err


@every_command
@pytest.mark.parametrize("name", ["tnoname", "size"])
def test_pairs_that_do_not_fit_are_named(command, name, tmp_path, capsys):
    if (command, name) == (fuse, "size"):  # which has one aspect, and is resampled
        return
    assert command(CASES / "sets" / name / "IR", CASES / "sets" / name / "VI", tmp_path) == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith(("jfusion: ", "skipped ")) and "Traceback" not in said


def test_lists_with_a_byte_order_mark_are_read(tmp_path):
    assert preprocess(CASES / "sets/bom/IR", CASES / "sets/bom/VI", tmp_path) == 0
    assert PairFile(tmp_path / "x.h5").names == ["001", "002"]
    folder = CASES / "metrics"
    arguments = ("--list", str(folder / "bom.txt"))
    assert evaluate(folder / "a", folder / "a", tmp_path, *arguments) == 0


def test_fused_images_in_floating_point_are_worth_the_same(tmp_path, capsys):
    folder, tables = CASES / "metrics", []
    for fused in ("fhid", "funit"):
        sources = ["--a", str(folder / "a"), "--b", str(folder / "b")]
        assert main(["metrics", *sources, "--fused", f"x={folder / fused}"]) == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("num_vs_name", [(str(i), f"VIS{i}") for i in range(1, 12)]),
        ("hidden", [("1", "1"), ("2", "2")]),
        ("dots", [("a.1", "a.1"), ("a.2", "a.2")]),
        ("case", [("1", "1"), ("2", "2")]),
    ],
)
def test_the_folders_of_other_layouts_are_paired_by_what_they_show(name, pairs, tmp_path):
    from jfusion.data.layout import find_samples

    (tmp_path / "train").mkdir()
    shutil.copytree(CASES / "folders" / name, tmp_path / "train/X")
    found = find_samples(tmp_path, "IVF", "X", "train")
    assert [(s.a.stem, s.b.stem) for s in found] == pairs
