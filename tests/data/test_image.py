"""Reading and resizing images."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jfusion.data import color, image
from jfusion.errors import UserError
from tests.commands.test_preprocess import random_pair

CASES = Path(__file__).parents[1] / "cases"


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 30), st.integers(1, 30))
def test_resize_stays_within_the_values_and_keeps_a_ramp(h, w, height, width):
    x = np.random.default_rng(0).random((h, w)).astype(np.float32)
    y = image.resize(x, height, width)
    assert y.shape == (height, width) and y.min() >= x.min() - 1e-6 and y.max() <= x.max() + 1e-6
    np.testing.assert_array_equal(image.resize(x, h, w), x)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "I;16", "1", "CMYK"])
def test_every_kind_of_image_is_read(tmp_path, mode):
    rgb = random_pair(4)[1]
    suffix = "tiff" if mode == "CMYK" else "png"
    if mode == "I;16":
        Image.fromarray(color.gray(rgb).astype(np.uint16) * 256).save(tmp_path / f"x.{suffix}")
    else:
        Image.fromarray(rgb).convert(mode).save(tmp_path / f"x.{suffix}")
    found = image.read_rgb(tmp_path / f"x.{suffix}")
    assert found.shape == rgb.shape and found.dtype == np.uint8
    if mode in ("L", "LA", "I;16"):
        assert np.abs(color.gray(found) - color.gray(rgb)).max() <= 1


def test_reader_equals_the_authors(golden, tmp_path):
    values = golden("metrics/metrics.npz")
    Image.fromarray(values["reader.rgb"]).save(tmp_path / "x.png")
    np.testing.assert_array_equal(
        color.gray(image.read_rgb(tmp_path / "x.png")), values["reader.gray"]
    )


def test_two_images_of_a_pair_have_one_size_and_pseudo_colors_only_where_gray(tmp_path):
    gray, rgb = random_pair(1)
    paths = [tmp_path / f"{name}.png" for name in ("gray", "rgb", "small")]
    for path, pixels in zip(paths, (gray, rgb, gray[:5]), strict=True):
        image.write(path, pixels)
    a, b = image.Reader().pair(*paths[:2], pseudo_color="a", background="black")
    np.testing.assert_array_equal(a, color.jet(gray, "black"))
    np.testing.assert_array_equal(b, rgb)
    with pytest.raises(UserError, match=r"rgb\.png is in color; pseudo-colors are for gray images"):
        image.Reader().pair(*paths[:2], pseudo_color="b")
    with pytest.raises(UserError, match=r"12x10 and .* is 5x10; both must have one size"):
        image.Reader().pair(paths[0], paths[2])
    with pytest.raises(UserError, match="pseudo_color must be one of none, a, b"):
        image.Reader().pair(*paths[:2], pseudo_color="c")


DEEP = np.random.default_rng(3).integers(0, 4096, (5, 7, 4)).astype(np.uint16)


def write_png(path, pixels, kind):
    """A 16-bit PNG of pixels (H, W, C) whose rows have the filters None, Sub and Up in turn."""
    rows, previous, step = b"", np.uint8(0), 2 * pixels.shape[2]
    for i, row in enumerate(np.ascontiguousarray(pixels, ">u2").reshape(len(pixels), -1)):
        values = np.frombuffer(row.tobytes(), np.uint8)
        left = np.concatenate([np.zeros(step, np.uint8), values[:-step]])
        rows += bytes([i % 3]) + (values - (0, left, previous)[i % 3]).astype(np.uint8).tobytes()
        previous = values
    header = struct.pack(">IIBBBBB", pixels.shape[1], len(pixels), 16, kind, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(x)) + n + x + struct.pack(">I", zlib.crc32(n + x))
            for n, x in chunks
        )
    )


def write_netpbm(path, pixels, magic, most):
    header = f"{magic} # 1 2\n# 3 4 255\n{pixels.shape[1]}\t{len(pixels)}\n#5\n{most}\n".encode()
    plain = " ".join(map(str, pixels.reshape(-1))).encode() + b" # end\n"
    path.write_bytes(header + (plain if magic in ("P2", "P3") else pixels.astype(">u2").tobytes()))


@pytest.mark.parametrize(
    ("name", "channels", "save"),
    [
        ("rgb.png", 3, lambda path, x: write_png(path, x, 2)),
        ("gray_alpha.png", 1, lambda path, x: write_png(path, np.dstack([x, x // 3]), 4)),
        ("rgba.png", 3, lambda path, x: write_png(path, np.dstack([x, DEEP[..., 3]]), 6)),
        *(
            (
                f"{magic}_{most}.ppm",
                channels,
                lambda p, x, m=magic, n=most: write_netpbm(p, x, m, n),
            )
            for magic, channels in (("P2", 1), ("P3", 3), ("P5", 1), ("P6", 3))
            for most in (4095, 16383, 65535)
        ),
        ("gray.tif", 1, lambda p, x: tifffile.imwrite(p, x[..., 0], photometric="minisblack")),
        ("rgb.tif", 3, lambda path, x: tifffile.imwrite(path, x, photometric="rgb")),
    ],
)
def test_deep_images_keep_their_values(tmp_path, name, channels, save):
    pixels = DEEP[..., :channels]
    save(tmp_path / name, pixels)
    assert image.is_deep(tmp_path / name)
    found = image.Reader("0:4095").rgb(tmp_path / name)
    expected = np.round(pixels * (255 / 4095)).astype(np.uint8)
    np.testing.assert_array_equal(found, np.broadcast_to(expected, (5, 7, 3)))
    with pytest.raises(UserError, match=r"megapixels, more than --max-pixels"):
        image.Reader(max_pixels=1e-6).rgb(tmp_path / name)


@pytest.mark.parametrize(
    ("kind", "expected"), [("minisblack", [0, 127, 128, 255]), ("miniswhite", [255, 128, 127, 0])]
)
def test_signed_bytes_are_deep(tmp_path, kind, expected):
    pixels = np.array([[-128, -1, 0, 127]], np.int8)
    tifffile.imwrite(tmp_path / "x.tif", pixels, photometric=kind)
    assert image.is_deep(tmp_path / "x.tif")
    assert image.Reader("full").rgb(tmp_path / "x.tif")[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("channels", "kind"), [(4, "separated"), (6, "minisblack"), (3, "minisblack"), (6, "rgb")]
)
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_other_kinds_of_deep_tiffs_are_refused(tmp_path, channels, kind, planar):
    shape = (5, 7, channels) if planar == "contig" else (channels, 5, 7)
    tifffile.imwrite(
        tmp_path / "x.tif", np.ones(shape, np.uint16), photometric=kind, planarconfig=planar
    )
    with pytest.raises(UserError, match=r"x\.tif is a TIFF of .*; save it as RGB or gray$"):
        image.read_rgb(tmp_path / "x.tif")


@pytest.mark.parametrize("magic", ["P2", "P3", "P5", "P6"])
@pytest.mark.parametrize("rows", [0, 5])
def test_a_cut_netpbm_is_one_line(tmp_path, magic, rows):
    write_netpbm(tmp_path / "x.ppm", DEEP[:rows, :, :1], magic, 4095)
    (tmp_path / "x.ppm").write_bytes((tmp_path / "x.ppm").read_bytes()[:-20])
    with pytest.raises(UserError, match=r"^image .*x\.ppm [^\n]*$"):
        image.read_rgb(tmp_path / "x.ppm")


# ---- formats of more bits that Pillow reads in its own way


RAMP = (
    np.arange(40 * 50, dtype=np.uint16).reshape(40, 50) * 2
)  # what the files of tests/cases/jp2 hold


@pytest.mark.parametrize(
    ("name", "pixels"),
    [("g12", RAMP), ("s16", np.minimum(RAMP.astype(int) * 16 - 20000, 32767).astype(np.int16))],
)
def test_a_gray_jpeg_2000_keeps_its_values(name, pixels):
    read = image.Reader()._decoded(CASES / f"jp2/{name}.jp2")
    assert read.dtype == pixels.dtype
    np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize("use", [image.read_rgb, image.header, image.is_deep, image.size_of])
def test_a_jpeg_2000_in_color_of_16_bits_is_refused(use):
    with pytest.raises(UserError, match=r"in color of 16 bits, of which 8 can be read; save it as"):
        use(CASES / "jp2/rgb16.jp2")


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_a_compressed_tiff_keeps_its_values(compression, kind, tmp_path):
    pixels = (RAMP / kind(RAMP.max()) if kind is np.float32 else RAMP * 16).astype(kind)
    Image.fromarray(pixels).save(tmp_path / "x.tif", compression=compression)
    read = image.Reader()._decoded(tmp_path / "x.tif")
    assert read.dtype == kind
    np.testing.assert_array_equal(read, pixels)


def test_a_compression_that_would_lose_bits_is_refused(tmp_path):
    raw = bytearray(_tiff_bytes(np.stack([RAMP] * 3, -1), tmp_path))
    place = raw.index(b"\x03\x01\x03\x00\x01\x00\x00\x00\x01\x00")  # Compression: none
    raw[place + 8] = 5  # LZW
    (tmp_path / "x.tif").write_bytes(raw)
    with pytest.raises(
        UserError, match=r"in a compression that cannot be read .*; save it without"
    ):
        image.read_rgb(tmp_path / "x.tif")


def _tiff_bytes(pixels, folder):
    tifffile.imwrite(folder / "plain.tif", pixels, photometric="rgb")
    return (folder / "plain.tif").read_bytes()


def test_what_tifffile_finds_odd_is_not_printed(tmp_path, caplog):
    pixels = np.stack([RAMP] * 3, -1)
    raw = bytearray(_tiff_bytes(pixels, tmp_path))
    place = raw.index(b"\x17\x01")  # StripByteCounts
    raw[place : place + 2] = b"\x99\x01"
    (tmp_path / "x.tif").write_bytes(raw)
    np.testing.assert_array_equal(image.Reader()._decoded(tmp_path / "x.tif"), pixels)
    assert not caplog.records


@pytest.mark.parametrize("options", [{}, {"tile": (16, 16)}, {"compression": "zlib"}])
@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_a_truncated_deep_tiff_is_called_truncated(tmp_path, options, kind):
    path = tmp_path / "x.tif"
    pixels = np.random.default_rng(0).integers(0, 60_000, (32, 48)).astype(kind)
    tifffile.imwrite(path, pixels, **options)
    whole = path.read_bytes()
    for part in (0.3, 0.6, 0.9):
        path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(UserError, match=r"truncated or damaged .*; copy or download it again"):
            image.read_rgb(path)


def test_a_truncated_tiff_of_another_compression_is_called_truncated(tmp_path, capfd):
    path = tmp_path / "x.tif"
    pixels = np.random.default_rng(0).integers(0, 60_000, (32, 48)).astype(np.uint16)
    Image.fromarray(pixels).save(path, compression="tiff_lzw")
    whole = path.read_bytes()
    start = whole.index(b"II*\0") + 8
    path.write_bytes(whole[:start] + bytes(400) + whole[start + 400 :])
    with pytest.raises(UserError, match=r"truncated or damaged .*; copy or download it again"):
        image.read_rgb(path)
    assert capfd.readouterr() == ("", "")  # libtiff would print the same once more
