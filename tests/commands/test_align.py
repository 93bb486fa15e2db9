"""`jfusion align`: the field moves the second image, and the displacement is reported."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import jfusion
from jfusion import checkpoint
from jfusion.cli import main
from jfusion.commands.align import align_pair
from jfusion.config import to_dict
from jfusion.data import image
from jfusion.runtime import jt
from tests.data.test_alignment import scene

SETTINGS = {"width": 32, "group": "pet"}


def gray_rgb(x):
    """A gray image in [0, 1] as (H, W, 3) uint8."""
    return np.repeat((np.clip(x, 0, 1) * 255).astype(np.uint8)[..., None], 3, 2)


@pytest.fixture(scope="module")
def system():
    jt.set_global_seed(0)
    system = jfusion.create("fccf", **SETTINGS)
    system.eval()
    return system


def constant(system, monkeypatch, columns, rows):
    """The system with a field that is the same everywhere."""

    def field(a, b):
        return np.tile(np.float32([columns, rows]), (*a.shape[:2], 1))

    monkeypatch.setattr(system, "displacement_field", field)


def test_the_field_moves_the_image_as_it_says(system, monkeypatch):
    a, b = (gray_rgb(x) for x in scene())
    constant(system, monkeypatch, 1, 0)
    result = align_pair(system, a, b)
    np.testing.assert_array_equal(result.moved[:, :-1], b[:, 1:])
    assert not result.moved[:, -1].any()  # nothing is known beyond the image
    assert result.numbers["mean"] == result.numbers["largest"] == 1
    constant(system, monkeypatch, 0.5, 0)
    half = align_pair(system, a, b).moved[:, :-1].astype(float)
    assert abs(half - (b[:, :-1].astype(float) + b[:, 1:]) / 2).max() <= 0.5


def test_a_pair_that_the_field_fits_shares_more_after_it(system, monkeypatch):
    a, b = (gray_rgb(x) for x in scene())
    constant(system, monkeypatch, 1, 1)
    numbers = align_pair(system, a, np.roll(b, (1, 1), (0, 1))).numbers
    assert numbers["NMI after"] > numbers["NMI before"] + 0.01


def test_a_whole_shift_is_undone_first(system, monkeypatch):
    a, b = (gray_rgb(x) for x in scene())
    constant(system, monkeypatch, 0, 0)
    result = align_pair(system, a, np.roll(b, (5, -3), (0, 1)), coarse=True)
    assert (result.numbers["rows before"], result.numbers["columns before"]) == (5, -3)
    np.testing.assert_array_equal(result.moved[5:-5, 5:-5], b[5:-5, 5:-5])


def test_the_networks_field_is_a_shift_below_a_pixel_of_any_size(system):
    a, b = (gray_rgb(x) for x in scene(0, (37, 50)))
    field = system.displacement_field(a, b)
    assert field.shape == (37, 50, 2) and field.min() > 0 and field.max() < 1


def test_the_command_writes_images_figures_and_numbers(system, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = {"model": system.state(), "system": "fccf", "config": to_dict(system.config)}
    checkpoint.save(tmp_path / "w.pkl", content)
    for name in ("one", "two"):
        a, b = (gray_rgb(x) for x in scene(len(name), (64, 72)))
        image.write(tmp_path / "a" / f"{name}.png", a)
        image.write(tmp_path / "b" / f"{name}.png", b)
    assert main(["align", "--a", "a", "--b", "b", "--weights", "w.pkl", "--out", "out"]) == 0
    said = capsys.readouterr().out
    assert "one: displacement 0." in said and "mutual information" in said
    with Path("out/displacement.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["name"] for r in rows] == ["one", "two"] and 0 < float(rows[0]["mean"]) < 1.5
    assert image.read_rgb("out/two.png").shape == (64, 72, 3)
    assert image.read_rgb("out/two_field.png").shape[0] > 240
    assert main(["align", "--a", "a", "--b", "b", "--system", "average"]) == 2
    assert "average predicts no displacement" in capsys.readouterr().err
    film = {**content, "system": "film"}
    checkpoint.save(tmp_path / "film.pkl", film)
    assert main(["align", "--a", "a", "--b", "b", "--weights", "film.pkl"]) == 2
    assert "is of film, not of fccf" in capsys.readouterr().err


def test_fusing_says_that_a_pair_looks_misaligned(system, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = {**to_dict(system.config), "train_timesteps": 3}
    checkpoint.save("w.pkl", {"model": system.state(), "system": "fccf", "config": config})
    a, b = (gray_rgb(x) for x in scene(0, (64, 72)))
    image.write("a.png", a)
    image.write("b.png", np.roll(b, 4, 1))
    command = ["fuse", "--a", "a.png", "--b", "b.png", "--weights", "w.pkl", "--out", "f"]
    assert main(command) == 0
    assert "a looks misaligned: b is shifted by +4 columns and +0 rows" in "".join(
        capsys.readouterr()
    )
    assert main([*command, "--no-check-alignment"]) == 0
    assert "misaligned" not in "".join(capsys.readouterr())
