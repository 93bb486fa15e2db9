"""Volumes in the patient's space: an asymmetric phantom, stored in many ways, stays where it is."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st

from jfusion.data import space, volume
from jfusion.data.depth import Range, RangePolicy, to_uint8
from jfusion.data.volume import TO_RAS, Volume
from jfusion.errors import UserError
from tests.data.test_volume import write_dicom

# Millimeters right, anterior, superior of three blobs, no two of which are mirror images.
RIGHT, FRONT, TOP = (12.0, -4.0, 2.0), (-3.0, 14.0, -4.0), (-6.0, -5.0, 11.0)


def phantom(affine, shape, brightness=(100, 160, 220)):
    """A volume with three blobs of different brightness at fixed places in the patient."""
    index = np.moveaxis(np.indices(shape), 0, -1)
    at = index @ affine[:3, :3].T + affine[:3, 3]
    values = np.zeros(shape)
    for place, level in zip((RIGHT, FRONT, TOP), brightness, strict=True):
        values += level * np.exp(-((at - place) ** 2).sum(-1) / (2 * 4.0**2))
    return Volume(values, affine)


def affine_of(axes, spacing, shape):
    """An affine centered on the origin; axes such as "LPS" say where the three voxel axes go."""
    matrix = np.zeros((4, 4))
    for i, letter in enumerate(axes):
        row = next(r for r, both in enumerate(("RL", "AP", "SI")) if letter in both)
        matrix[row, i] = spacing[i] * (1 if letter in "RAS" else -1)
    matrix[:3, 3] = -matrix[:3, :3] @ ((np.array(shape) - 1) / 2)
    matrix[3, 3] = 1
    return matrix


def place_of(x):
    """Millimeters of the brightest voxel."""
    index = np.unravel_index(x.values.argmax(), x.values.shape)
    return x.affine[:3, :3] @ index + x.affine[:3, 3]


def saved(folder, kind, x):
    """The phantom as a file of one kind."""
    path = folder / f"x{kind}"
    if kind == ".nii.gz":
        nibabel.save(nibabel.Nifti1Image(x.values.astype(np.float32), x.affine), path)
        return path
    to_lps = TO_RAS @ x.affine
    spacing = np.linalg.norm(to_lps[:3, :3], axis=0)
    if kind == ".mha":
        content = SimpleITK.GetImageFromArray(x.values.transpose(2, 1, 0).astype(np.float32))
        content.SetSpacing(spacing)
        content.SetDirection((to_lps[:3, :3] / spacing).ravel())
        content.SetOrigin(to_lps[:3, 3])
        SimpleITK.WriteImage(content, str(path))
        return path
    path.mkdir()
    row, column = (to_lps[:3, i] / spacing[i] for i in (0, 1))
    for k in range(x.values.shape[2]):
        position = to_lps[:3] @ (0, 0, k, 1)
        pixels = np.round(x.values[..., k].T).astype(np.int16)
        write_dicom(path / f"{k}.dcm", pixels, position, 1, 0, (*row, *column), spacing[1::-1])
    return path


@pytest.mark.parametrize("kind", [".nii.gz", ".mha", ""])
@pytest.mark.parametrize("axes", ["LPS", "RAS", "PSR", "IRA"])
def test_every_format_and_orientation_says_where_the_blobs_are(tmp_path, kind, axes):
    shape = (22, 24, 14) if axes in ("LPS", "RAS") else (24, 18, 20)
    x = volume.read_in_space(
        saved(tmp_path, kind, phantom(affine_of(axes, (2, 1.5, 2.5), shape), shape))
    )
    np.testing.assert_allclose(place_of(x), TOP, atol=2.5)


@pytest.mark.parametrize("axes", ["LPS", "RAS", "PSR", "IRA", "SAL"])
def test_b_is_resampled_to_where_a_has_it(axes):
    shape = (36, 36, 32)
    a = phantom(affine_of("LAS", (1.3, 1.1, 1.2), shape), shape)
    b = phantom(affine_of(axes, (1, 1, 1), (40, 40, 40)), (40, 40, 40))
    oblique = np.eye(4)
    oblique[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    b = phantom(oblique @ b.affine, b.values.shape)
    moved, inside = space.resample(b, a)
    assert inside.mean() > 0.5
    assert abs(moved - a.values)[inside].max() < 8  # of 220; a mirror image differs by 220


def test_a_slice_shows_the_patients_right_on_the_left_and_the_front_above():
    shape = (20, 24, 16)
    for axes in ("LPS", "RAS", "PIR"):
        x = phantom(affine_of(axes, (2, 2, 2), shape), shape)
        view = space.axial(x)
        z, y, _ = np.array(view.shape) // 2
        where = {}
        for name, place in (("right", RIGHT), ("front", FRONT), ("top", TOP)):
            one = phantom(x.affine, shape, [100 * (place == p) for p in (RIGHT, FRONT, TOP)])
            where[name] = np.unravel_index(space.axial(one).argmax(), view.shape)
        assert where["right"][2] < where["front"][2] and where["front"][1] < where["right"][1]
        assert where["top"][0] > z > where["front"][0] and where["front"][1] < y
        np.testing.assert_array_equal(space.from_axial(view, x), x.values)


def test_the_fused_volume_is_in_as_voxels_and_the_file_keeps_its_affine(tmp_path):
    shape = (20, 24, 16)
    a = phantom(affine_of("PIR", (2, 2, 2), shape), shape, (200, 0, 0))
    b = phantom(affine_of("LPS", (3, 3, 3), (12, 12, 10)), (12, 12, 10), (0, 200, 0))
    windows = tuple(space.window_of(x.values, RangePolicy()) for x in (a, b))
    fused = space.fuse_volumes(a, b, lambda x, y: np.maximum(x, y)[..., 0], windows)
    paths = tmp_path / "f.nii.gz", tmp_path / "f.png"
    space.write_fused(*paths, fused)
    back = volume.read_in_space(paths[0])
    np.testing.assert_allclose(back.affine, a.affine, atol=1e-5)
    assert back.values.shape == shape and nibabel.load(paths[0]).get_data_dtype() == np.uint8
    for place in (RIGHT, FRONT):
        index = np.linalg.inv(a.affine) @ (*place, 1)
        assert back.values[tuple(np.round(index[:3]).astype(int))] > 180
    from jfusion.data import image

    assert image.read_rgb(paths[1]).max() > 200


def test_color_is_written_as_rgb_and_read_again(tmp_path):
    shape = (6, 5, 4)
    x = Volume(np.zeros((*shape, 3), np.uint8), affine_of("LPS", (1, 2, 3), shape))
    x.values[1, 2, 3] = 10, 20, 30
    space.write_nifti(tmp_path / "c.nii.gz", x)
    back = volume.read_in_space(tmp_path / "c.nii.gz")
    np.testing.assert_array_equal(back.values, x.values)
    assert back.values.dtype == np.uint8


def test_a_slice_without_color_fits_into_a_colored_volume():
    a = Volume(np.zeros((4, 5, 3)), np.eye(4))
    colors = iter([np.zeros((5, 4), np.uint8), *np.ones((2, 5, 4, 3), np.uint8)])
    fused = space.fuse_volumes(a, a, lambda x, y: next(colors), (Range(0, 1), Range(0, 1)))
    assert fused.values.shape == (4, 5, 3, 3) and not fused.values[:, :, 0].any()


def test_where_b_has_no_voxel_a_stands_in():
    shape = (12, 12, 8)
    a = phantom(affine_of("RAS", (3, 3, 3), shape), shape)
    half = Volume(np.full((12, 12, 4), 7.0), affine_of("RAS", (3, 3, 3), (12, 12, 4)))
    fused = space.fuse_volumes(a, half, lambda x, y: y[..., 0], (Range(0, 220), Range(7, 8)))
    expected = to_uint8(a.values, Range(0, 220))
    np.testing.assert_array_equal(fused.values[..., [0, 1, 6, 7]], expected[..., [0, 1, 6, 7]])
    assert not fused.values[..., 2:6].any()


@pytest.mark.parametrize(
    "b, said",
    [
        (
            Volume(np.zeros((4, 4, 4)), np.diag([1, 1, 1, 1.0]) + 1e3 * np.eye(4, k=3)),
            "do not overlap",
        ),
        (
            Volume(np.zeros((4, 4, 4)), None, "its slices are not evenly spaced"),
            "not evenly spaced",
        ),
        (Volume(np.zeros((4, 4, 4)), None), "no affine"),
    ],
)
def test_volumes_that_cannot_be_compared_are_refused(b, said):
    with pytest.raises(UserError, match=said):
        space.resample(b, Volume(np.zeros((5, 5, 5)), np.eye(4)))


def test_volumes_that_say_nothing_are_taken_voxel_by_voxel():
    x, y = (Volume(np.full((3, 4, 5), v), None) for v in (1.0, 2.0))
    moved, inside = space.resample(x, y)
    assert inside.all() and (moved == 1).all()


@given(st.integers(-(10**6), 10**6), st.integers(1, 10**9).map(lambda n: n / 1000))
def test_a_window_by_percentiles_uses_all_levels(low, span):
    values = (np.linspace(0, 1, 1000) * span + low).reshape(10, 10, 10)
    levels = to_uint8(values, space.window_of(values, RangePolicy()))
    assert (
        levels.min() == 0
        and levels.max() == 255
        and (np.diff(levels.ravel().astype(int)) >= 0).all()
    )


def test_a_missing_slice_of_a_series_is_named(tmp_path):
    for k in (0, 1, 3):
        write_dicom(
            tmp_path / f"{k}.dcm", np.zeros((4, 4), np.int16), (0, 0, 2.0 * k), spacing=(1, 1)
        )
    assert "some may be missing" in volume.read_in_space(tmp_path).uneven
    assert volume.read_volume(tmp_path).shape == (3, 4, 4)


def test_volumes_are_known_by_name_and_content(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/a.png").write_bytes(b"")
    write_dicom(tmp_path / "pictures/b.dcm", np.zeros((4, 4), np.int16), (0, 0, 0))
    (tmp_path / "series").mkdir()
    write_dicom(tmp_path / "series/IM1", np.zeros((4, 4), np.int16), (0, 0, 0))
    assert volume.is_volume(tmp_path / "series") and not volume.is_volume(tmp_path / "pictures")
    assert volume.is_volume(tmp_path / "series/IM1") and not volume.is_volume(tmp_path / "gone.nii")
    assert volume.volume_name("x/Brain.NII.gz") == "Brain" and volume.volume_name("a/b.mha") == "b"
