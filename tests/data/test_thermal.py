"""Thermal images: units, palettes, overlays, and radiometric files."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import tifffile
from PIL import Image

from jfusion.cli import main
from jfusion.data import image, thermal
from jfusion.data.thermal import ThermalReader, Unit
from jfusion.errors import UserError


def radiometric(path, shape=(6, 8)):
    """A JPEG with a segment of FLIR's in front of its picture, which holds no record."""
    Image.fromarray(np.full(shape, 77, np.uint8)).save(path, "JPEG")
    data, body = path.read_bytes(), b"FLIR\0" + bytes(20)
    path.write_bytes(data[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + data[2:])
    return path


@pytest.fixture
def camera(monkeypatch):
    """A library flyr whose files hold a ramp from 20 to 60 degrees, at half the size of the picture."""
    ramp = np.linspace(20, 60, 12).reshape(3, 4)
    library = types.SimpleNamespace(unpack=lambda path: types.SimpleNamespace(celsius=ramp))
    monkeypatch.setitem(sys.modules, "flyr", library)
    return ramp


@pytest.mark.parametrize(
    "text, value, celsius",
    [
        ("celsius", 21.5, 21.5),
        ("kelvin", 300, 26.85),
        ("0.01K", 30000, 26.85),
        (".04K", 7500, 26.85),
    ],
)
def test_units(text, value, celsius):
    assert Unit.parse(text).celsius(np.array([value])) == pytest.approx(celsius, abs=1e-4)


@pytest.mark.parametrize("text", ["", "fahrenheit", "0K", "K", "-1K", "nanK", "1e3K"])
def test_other_units_are_refused(text):
    with pytest.raises(UserError, match="--unit must be"):
        Unit.parse(text)


def test_counts_that_look_like_temperatures_are_noted_and_read_as_such_when_asked(tmp_path, capsys):
    for name, values in (("1", (29315, 29815)), ("2", (29315, 30315))):
        Image.fromarray(np.array([values], np.uint16)).save(tmp_path / f"{name}.png")
    files = [tmp_path / "1.png", tmp_path / "2.png"]
    plain = ThermalReader()
    plain.prepare(files, "a")
    assert "20.0 to 30.0 degrees Celsius; --unit 0.01K" in capsys.readouterr().out
    assert plain.celsius(files[0]) is None
    reader = ThermalReader(unit="0.01K")
    assert reader.prepare(files, "a") == pytest.approx((20, 30), abs=1e-3)
    assert reader.rgb(files[0], "a")[0, 1, 0] == 128  # one range for the folder
    np.testing.assert_allclose(reader.celsius(files[1]), [[20, 30]], atol=1e-3)


def test_a_radiometric_file_gives_temperatures(tmp_path, camera):
    path = radiometric(tmp_path / "x.jpg")
    reader = ThermalReader()
    assert reader.prepare([path], "a") == (20, 60)
    np.testing.assert_allclose(reader.celsius(path), camera)
    assert reader.rgb(path, "a").shape == (3, 4, 3)


def test_without_the_library_or_a_known_record_the_picture_is_used_with_a_note(
    tmp_path, monkeypatch, capsys
):
    path = radiometric(tmp_path / "x.jpg")
    monkeypatch.setitem(sys.modules, "flyr", None)
    assert ThermalReader().rgb(path)[0, 0, 0] == 77
    assert "pip install 'jfusion[thermal]'" in capsys.readouterr().out
    broken = types.SimpleNamespace(unpack=lambda path: {}[1])
    monkeypatch.setitem(sys.modules, "flyr", broken)
    assert ThermalReader().rgb(path)[0, 0, 0] == 77
    assert "no temperatures that flyr reads" in capsys.readouterr().out


def test_only_jpegs_with_the_segment_are_radiometric(tmp_path):
    assert thermal.is_radiometric(radiometric(tmp_path / "x.JPG"))
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "y.jpg")
    (tmp_path / "z.jpg").write_bytes(b"\xff\xd8\xff\xe1\0")
    assert not any(thermal.is_radiometric(tmp_path / n) for n in ("y.jpg", "z.jpg", "gone.jpg"))


@pytest.mark.parametrize("palette", list(thermal.ANCHORS))
def test_palettes_rise_from_cold_to_hot(palette):
    levels = np.arange(256, dtype=np.uint8)[None]
    rgb = thermal.colored(levels, palette)
    assert rgb.shape == (1, 256, 3) and len(np.unique(rgb, axis=1)[0]) > 200
    if palette == "white-hot":
        np.testing.assert_array_equal(rgb[..., 0], levels)
    if palette == "black-hot":
        np.testing.assert_array_equal(rgb[..., 0], 255 - levels)


def test_an_overlay_changes_what_is_hot_alone():
    fused, levels = np.full((1, 4), 100, np.uint8), np.array([[0, 127, 128, 255]], np.uint8)
    out = thermal.overlay(fused, levels, levels >= 128, "white-hot", 0.5)
    np.testing.assert_array_equal(out[0, :, 0], [100, 100, 114, 178])


def test_fuse_writes_temperatures_and_an_overlay_on_bs_grid(tmp_path, camera, capsys):
    a = radiometric(tmp_path / "a.jpg")
    b = tmp_path / "b.png"
    image.write(b, np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8))
    options = ["--method", "average", "--palette", "iron", "--hotter-than", "50"]
    assert (
        main(["fuse", str(a), str(b), "-o", str(tmp_path / "out"), "--task", "IVF", *options]) == 0
    )
    out = tmp_path / "out"
    celsius = tifffile.imread(out / "temperature/a.tif")
    assert celsius.shape == (24, 32) and celsius.min() >= 20 and celsius.max() <= 60
    fused, shown = (image.read_rgb(out / p).astype(int) for p in ("a.png", "overlay/a.png"))
    changed = (fused != shown).any(-1)
    assert changed[celsius > 51].mean() > 0.9 and not changed[celsius < 49].any()
    for option, said in (("--blend", "from 0 to 1"), ("--unit", "--unit must be")):
        assert main(["fuse", str(a), str(b), "-o", str(out), option, "7"]) == 2
        assert said in capsys.readouterr().err
