"""`jfusion fuse` with two volumes."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from jfusion.cli import main
from jfusion.data import image, volume
from jfusion.data.volume import Volume
from tests.data.test_space import FRONT, RIGHT, affine_of, phantom, saved
from tests.data.test_volume import CASES


@pytest.fixture
def pair(tmp_path):
    """An MR volume as NIfTI and a coarser PET one as a DICOM series, each with blobs of its own."""
    mr = phantom(affine_of("LAS", (2, 2, 2), (24, 26, 16)), (24, 26, 16), (200, 0, 90))
    pet = phantom(affine_of("LPS", (3, 3, 3), (16, 18, 10)), (16, 18, 10), (0, 200, 90))
    return saved(tmp_path, ".nii.gz", mr), saved(tmp_path, "", pet), mr


def test_two_volumes_give_one_in_as_space_and_a_mosaic(pair, tmp_path, capsys):
    mr, pet, space = pair
    command = ["fuse", str(mr), str(pet), "-o", str(tmp_path / "out"), "--method", "laplacian"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "task MIF (volumes are medical)" in said and "16x18x10 voxels of 3x3x3 mm" in said
    assert "1 fused: " in said and "mosaic: " in said
    fused = nibabel.load(tmp_path / "out/x.nii.gz")
    np.testing.assert_allclose(fused.affine, space.affine, atol=1e-5)
    values = np.asarray(fused.dataobj)
    assert values.dtype == np.uint8 and values.shape == space.values.shape
    for place in (RIGHT, FRONT):
        index = np.linalg.inv(space.affine) @ (*place, 1)
        assert values[tuple(np.round(index[:3]).astype(int))] > 100
    assert image.read_rgb(tmp_path / "out/x.png").any()
    assert main(command) == 0 and "is there already" in capsys.readouterr().out


def test_a_mosaic_does_not_replace_an_image_that_is_there(pair, tmp_path, capsys):
    mr, pet, _ = pair
    image.write(tmp_path / "fused.png", np.full((4, 4), 99, np.uint8))
    command = ["fuse", str(mr), str(pet), "-o", str(tmp_path / "fused.nii"), "--method", "average"]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "fused.png is there already" in said and "choose another -o" in said
    assert (image.read_rgb(tmp_path / "fused.png") == 99).all()
    assert not (tmp_path / "fused.nii").exists()
    assert main([*command, "--overwrite"]) == 0 and image.read_rgb(tmp_path / "fused.png").shape > (
        4,
        4,
    )


def test_pseudo_colors_give_a_volume_in_color(pair, tmp_path):
    mr, pet, space = pair
    out = tmp_path / "f.nii"
    assert main(["fuse", str(mr), str(pet), "-o", str(out), "--pseudo-color", "b"]) == 0
    assert volume.read_in_space(out).values.shape == (*space.values.shape, 3)


def test_both_volumes_may_be_series_of_one_folder(tmp_path, capsys):
    folder = str(CASES / "twoseries")
    command = ["fuse", folder, folder, "-o", str(tmp_path / "f.nii.gz"), "--method", "average"]
    assert main([*command, "--series-a", "7.7", "--series-b", "1.2"]) == 0
    fused = np.asarray(nibabel.load(tmp_path / "f.nii.gz").dataobj)
    one, other = (
        volume.read_in_space(CASES / "twoseries", series=name).values for name in ("7.7", "1.2")
    )
    assert fused.shape == one.shape == other.shape
    image.write(tmp_path / "x.png", np.zeros((9, 9), np.uint8))
    picture = str(tmp_path / "x.png")
    assert main(["fuse", picture, picture, "--series-b", "1"]) == 2
    assert "--series-b is for volumes" in capsys.readouterr().err


def test_mistakes_are_one_line(pair, tmp_path, capsys):
    mr, pet, _ = pair
    image.write(tmp_path / "x.png", np.zeros((9, 9), np.uint8))
    far = Volume(np.ones((4, 4, 4)), np.eye(4) + 900 * np.eye(4, k=3))
    (tmp_path / "far").mkdir()
    for b, options, said in (
        (tmp_path / "x.png", [], "is a volume and"),
        (pet, ["--bits", "16"], "--bits is for images"),
        (pet, ["-o", str(tmp_path / "f.jpg")], "is written as .nii or .nii.gz"),
        (pet, ["-o", str(mr), "--overwrite"], "which this command reads"),
        (saved(tmp_path / "far", ".nii.gz", far), [], "do not overlap"),
        (CASES / "twoseries", [], "holds 2 series; choose one with --series (fuse: --series-a"),
    ):
        assert main(["fuse", str(mr), str(b), "-o", str(tmp_path / "o"), *options]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert not (tmp_path / "o/x.nii.gz").exists()
