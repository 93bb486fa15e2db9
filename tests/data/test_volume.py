"""Medical volumes: read by the optional libraries, written as slices."""

from __future__ import annotations

import zlib
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from jfusion.cli import main
from jfusion.data import image, volume
from jfusion.errors import UserError


@pytest.fixture
def values():
    return np.random.default_rng(0).integers(-900, 2000, (3, 5, 4)).astype(np.int16)


def test_metaimage_slices_are_those_of_the_authors_script(golden, tmp_path):
    z = golden("fccf/color.npz")
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(z["mha_in"]), str(tmp_path / "x.mha"))
    np.testing.assert_array_equal(
        volume.to_8bit(volume.read_volume(tmp_path / "x.mha")), z["mha_out"]
    )
    assert main(["slices", str(tmp_path / "x.mha"), str(tmp_path / "out")]) == 0
    for i, expected in enumerate(z["mha_out"]):
        np.testing.assert_array_equal(
            image.read_rgb(tmp_path / f"out/{i}.png")[..., 0], expected, err_msg=str(i)
        )


def test_nifti_slices_are_axial_with_anterior_up(values, tmp_path):
    axial = values.astype(float)  # (z up, rows to the back, x right)
    stored = axial.transpose(2, 1, 0)[::-1, ::-1]  # x left, y anterior, z up, as many scanners
    nibabel.save(nibabel.Nifti1Image(stored, np.diag([-1, 1, 1, 1.0])), tmp_path / "x.nii.gz")
    np.testing.assert_allclose(volume.read_volume(tmp_path / "x.nii.gz"), axial, atol=1e-3)


def write_dicom(
    path,
    pixels,
    position,
    slope=2.0,
    intercept=-1000.0,
    orientation=(1, 0, 0, 0, 1, 0),
    spacing=None,
):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid()
    d = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    d.SOPClassUID, d.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    d.Rows, d.Columns = pixels.shape
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 1
    d.ImagePositionPatient = [float(v) for v in position]
    d.ImageOrientationPatient = [float(v) for v in orientation]
    if spacing is not None:
        d.PixelSpacing = [float(v) for v in spacing]  # between rows, between columns
    d.RescaleSlope, d.RescaleIntercept = slope, intercept
    d.PixelData = pixels.tobytes()
    pydicom.dcmwrite(path, d)


def test_dicom_slices_stand_in_the_patients_order_in_hounsfield_units(values, tmp_path):
    for name, i in (("a", 2), ("b", 0), ("c", 1)):
        write_dicom(tmp_path / f"{name}.dcm", values[i], (0, 0, 3.5 * i))
    expected = values * 2.0 - 1000
    np.testing.assert_array_equal(volume.read_volume(tmp_path), expected)
    np.testing.assert_array_equal(volume.read_volume(tmp_path / "b.dcm"), expected[:1])
    sagittal = tmp_path / "sagittal"
    sagittal.mkdir()
    for name, i in (("a", 2), ("b", 0), ("c", 1)):
        where, orientation = (3.5 * i, 0, 0), (0, 1, 0, 0, 0, -1)
        write_dicom(sagittal / f"{name}.dcm", values[i], where, orientation=orientation)
    np.testing.assert_array_equal(volume.read_volume(sagittal), expected[::-1])


def test_a_window_cuts_the_values():
    made = volume.to_8bit(np.array([[[-5.0, 0, 5, 20]]]), (0, 10))
    np.testing.assert_array_equal(made, [[[0, 0, 127, 255]]])
    assert not volume.to_8bit(np.full((1, 2, 2), 7.0)).any()


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("x.mha", b"nonsense", "it is no MetaImage"),
        ("x.nii", b"nonsense", "cannot be read"),
        ("x.dcm", b"nonsense", "cannot be read"),
        ("x.raw", b"", "none of .mha"),
        ("gone.mha", None, "does not exist"),
        ("empty", None, "holds no DICOM file"),
    ],
)
def test_what_is_no_volume_is_one_line(tmp_path, capsys, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    if name == "empty":
        (tmp_path / name).mkdir()
    assert main(["slices", str(tmp_path / name), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not list((tmp_path / "out").glob("*"))


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    (tmp_path / "x.nii").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "nibabel", None)
    with pytest.raises(UserError, match=r"NIfTI needs nibabel; .* 'jfusion\[medical\]'"):
        volume.read_volume(tmp_path / "x.nii")


CASES = Path(__file__).parents[1] / "cases/dicom"


def test_monochrome1_is_inverted():
    x, plain = (volume.read_volume(CASES / n)[0] for n in ("mono1.dcm", "noext/IM0000"))
    assert np.corrcoef(x.ravel(), plain.ravel())[0, 1] < -0.9


def test_a_color_file_is_one_color_image(tmp_path):
    assert volume.read_volume(CASES / "rgb.dcm").shape == (1, 32, 40, 3)
    (written,) = volume.write_slices(CASES / "rgb.dcm", tmp_path)
    assert image.read_rgb(written).shape == (32, 40, 3)


def test_of_several_series_one_is_chosen():
    with pytest.raises(UserError, match=r"holds 2 series; .*7\.7 \(4 files\); 1\.2\.3 \(4 files\)"):
        volume.read_volume(CASES / "twoseries")
    assert volume.read_volume(CASES / "twoseries", series="7.7").shape[0] == 4
    with pytest.raises(UserError, match="--series 'x' names 0 series"):
        volume.read_volume(CASES / "twoseries", series="x")


def test_without_position_and_number_names_decide_as_people_count(capsys):
    x = volume.read_volume(CASES / "nonum")
    each = [volume.read_volume(CASES / f"nonum/{i}.dcm")[0] for i in (1, 2, 10, 11)]
    np.testing.assert_array_equal(x, each)
    assert "in the order of names" in capsys.readouterr().out


def test_dicom_files_are_known_by_their_first_bytes():
    assert volume.read_volume(CASES / "noext").shape == (4, 32, 40)


def test_an_empty_tag_is_named():
    with pytest.raises(UserError, match=r"emptyslope\.dcm: the tag RescaleSlope holds no number"):
        volume.read_volume(CASES / "emptyslope.dcm")


def test_values_that_are_not_finite_have_an_option():
    with pytest.raises(UserError, match="--nan lowest"):
        volume.read_volume(CASES / "nan.nii.gz")
    x = volume.read_volume(CASES / "nan.nii.gz", nan="lowest")
    assert np.isfinite(x).all() and (x == x.min()).any()


def test_a_last_axis_of_one_is_dropped():
    assert volume.read_volume(CASES / "four1.nii.gz").ndim == 3


def test_an_mha_with_its_values_elsewhere_is_refused(tmp_path):
    (tmp_path / "x.mha").write_text(
        "ObjectType = Image\nNDims = 3\nElementDataFile = /etc/passwd\n"
    )
    with pytest.raises(UserError, match="has its values in another file"):
        volume.read_volume(tmp_path / "x.mha")


def test_windows_are_checked():
    for options, said in (
        ({"window": (100, -100)}, "LOW below HIGH"),
        ({"percentile": 50.0}, "from 0 to below 50"),
        ({"percentile": 1.0, "window": (0, 1)}, "not together"),
    ):
        with pytest.raises(UserError, match=said):
            volume.write_slices(CASES / "noext", "out", **options)
    x = np.arange(1000.0).reshape(10, 10, 10)
    assert volume.to_8bit(x, percentile=10)[1, 0, 0] == 0 and volume.to_8bit(x)[1, 0, 0] > 0


# ---- headers that promise what the file does not hold


def metaimage(
    data: bytes = b"", size: str = "4 4 4", place: str = "LOCAL", more: str = ""
) -> bytes:
    head = f"ObjectType = Image\nNDims = 3\n{more}DimSize = {size}\nElementType = MET_USHORT\n"
    return f"{head}ElementDataFile = {place}\n".encode() + data


PACKED = zlib.compress(bytes(128))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.mha", metaimage(bytes(100)), "holds 100 of 128 bytes of values"),
        (
            "x.mha",
            metaimage(b"junk", more="CompressedData = True\n"),
            "do not unpack to the 128 bytes",
        ),
        (
            "x.mha",
            metaimage(zlib.compress(bytes(90)), more="CompressedData = True\n"),
            "do not unpack to the 128 bytes",
        ),
        (
            "x.mha",
            metaimage(PACKED, more="CompressedData = True\nCompressedDataSize = 5\n"),
            "do not unpack",
        ),
        ("x.mha", metaimage(PACKED[:-1], more="CompressedData = True\n"), "do not unpack"),
        ("x.mha", metaimage(size="40000 40000 40"), "64000 million values, more than 537"),
        ("x.mha", metaimage(b"1 2 3", more="BinaryData = False\n"), "as text"),
        ("x.mha", metaimage(place="/etc/passwd"), "in another file, '/etc/passwd'"),
        ("x.mhd", metaimage(place="LIST"), "in another file, 'LIST'"),
        ("x.mhd", metaimage(place="%03d.raw 1 4 1"), "in another file"),
        ("x.mhd", metaimage(place="../x.raw"), "in another file"),
        ("x.mhd", metaimage(place="short.raw"), "holds 9 of 128 bytes"),
    ],
)
def test_a_metaimage_is_compared_with_its_header(tmp_path, capfd, name, content, said):
    (tmp_path / "short.raw").write_bytes(bytes(9))
    (tmp_path / name).write_bytes(content)
    assert main(["slices", str(tmp_path / name), str(tmp_path / "out")]) == 2
    printed = capfd.readouterr()
    assert said in printed.err and printed.err.count("\n") == 1 and not printed.out


@pytest.mark.parametrize("packed", [False, True])
def test_a_metaimage_is_read_with_its_values_next_to_it(values, tmp_path, packed):
    made = SimpleITK.GetImageFromArray(values)
    SimpleITK.WriteImage(made, str(tmp_path / "x.mhd"), packed)
    np.testing.assert_array_equal(volume.read_volume(tmp_path / "x.mhd"), values)


@pytest.mark.parametrize(
    ("tag", "value", "said"),
    [
        ("ImagePositionPatient", ["0", "0", "1e999"], "does not hold 3 numbers"),
        ("RescaleIntercept", None, "holds no number"),
        ("PixelData", b"", "is empty"),
    ],
)
def test_a_tag_of_no_use_is_named(tmp_path, tag, value, said):
    for name in ("1", "2"):
        header = pydicom.dcmread(CASES / "noext/IM0000")
        setattr(header, tag, value)
        (tmp_path / "series").mkdir(exist_ok=True)
        header.save_as(tmp_path / f"series/{name}.dcm")
    with pytest.raises(UserError, match=rf"\.dcm: the tag {tag} {said}"):
        volume.read_volume(tmp_path / "series")


def test_empty_positions_are_none(tmp_path, capsys):
    for name in ("2", "10"):
        header = pydicom.dcmread(CASES / "noext/IM0000")
        header.ImagePositionPatient = header.ImageOrientationPatient = None
        header.InstanceNumber = int(name)
        header.save_as(tmp_path / f"{name}.dcm")
    assert volume.read_volume(tmp_path).shape == (2, 32, 40) and not capsys.readouterr().out
