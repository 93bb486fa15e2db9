"""Zip files from strangers: images of two folders come out, and nothing else is written."""

from __future__ import annotations

import io
import zipfile

import pytest

from jfusion.app import archive
from jfusion.errors import UserError


def zipped(path, members, **options):
    with zipfile.ZipFile(path, "w", **options) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def written(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_two_folders_of_images_come_out(tmp_path):
    members = {
        "set/vi/1.png": b"b",
        "set/ir/1.png": b"a",
        "set/readme.txt": b"x",
        "__MACOSX/set/ir/._1.png": b"x",
        "set/ir/.hidden.png": b"x",
    }
    a, b = archive.unpack(zipped(tmp_path / "z.zip", members), tmp_path / "out")
    assert (a.name, b.name) == ("ir", "vi") and (a / "1.png").read_bytes() == b"a"
    assert written(tmp_path / "out") == ["ir/1.png", "vi/1.png"]


@pytest.mark.parametrize(
    "names",
    [
        ("/etc/1.png", "/root/1.png"),
        ("C:\\a\\1.png", "C:\\b\\1.png"),
        ("x/a/1.png", "y/a/1.png"),
        ("1.png", "a/1.png"),
    ],
)
def test_nothing_is_written_outside(tmp_path, names):
    target = tmp_path / "deep/er/out"
    path = zipped(tmp_path / "z.zip", dict.fromkeys(names, b"x"))
    a, b = archive.unpack(path, target)
    assert a != b and {a.parent, b.parent} == {target}
    assert set(tmp_path.rglob("*.png")) == {a / "1.png", b / "1.png"}


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"a/1.png": b""}, "two folders"),
        ({}, "it holds: none"),
        ({f"{x}/1.png": b"" for x in "abc"}, "two folders"),
        ({"a/1.png": b"", "b/..png": b""}, "two folders"),
        ({"../../a/1.png": b"", "../../b/1.png": b""}, "it holds: none"),
        ({"a\\..\\..\\x/1.png": b"", "b/1.png": b""}, "it holds: b"),
    ],
)
def test_other_than_two_folders_is_refused(tmp_path, members, said):
    with pytest.raises(UserError, match=said):
        archive.unpack(zipped(tmp_path / "z.zip", members), tmp_path / "out")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"<html>", b"PK\x05\x06" + bytes(18) + b"x"])
def test_what_is_no_zip_file_is_refused(tmp_path, data):
    (tmp_path / "z.zip").write_bytes(data)
    with pytest.raises(UserError):
        archive.unpack(tmp_path / "z.zip", tmp_path / "out")


def test_a_bomb_is_refused_before_it_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MOST_BYTES", 1_000_000)
    members = {"a/1.png": bytes(900_000), "b/1.png": bytes(900_000)}
    path = zipped(tmp_path / "z.zip", members, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10_000
    with pytest.raises(UserError, match="more than"):
        archive.unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_entry_that_lies_about_its_size_is_refused(tmp_path):
    path = tmp_path / "z.zip"
    zipped(path, {"a/1.png": bytes(5000), "b/1.png": b"x"}, compression=zipfile.ZIP_DEFLATED)
    raw = bytearray(path.read_bytes())
    size = (5000).to_bytes(4, "little")
    at = raw.find(size)
    while at >= 0:
        raw[at : at + 4] = (10).to_bytes(4, "little")
        at = raw.find(size)
    path.write_bytes(raw)
    with pytest.raises(UserError):
        archive.unpack(path, tmp_path / "out")
    assert all(p.stat().st_size <= 10 for p in tmp_path.rglob("*.png"))


def test_too_many_files_and_encrypted_ones_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MOST_FILES", 3)
    members = {f"{x}/{i}.png": b"" for x in "ab" for i in range(2)}
    with pytest.raises(UserError, match="more than 3"):
        archive.unpack(zipped(tmp_path / "z.zip", members), tmp_path / "out")
    stream = io.BytesIO()
    zipped(stream, {"a/1.png": b"x", "b/1.png": b"x"})
    raw = bytearray(stream.getvalue())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = raw.find(mark)
        while at >= 0:
            raw[at + place] |= 1
            at = raw.find(mark, at + 4)
    (tmp_path / "locked.zip").write_bytes(raw)
    with pytest.raises(UserError, match=r"locked\.zip"):
        archive.unpack(tmp_path / "locked.zip", tmp_path / "locked")


def test_results_are_packed_without_temporary_files(tmp_path):
    (tmp_path / "fused").mkdir()
    for name in ("1.png", "report.html", ".x.part"):
        (tmp_path / "fused" / name).write_bytes(b"x")
    path = archive.pack(tmp_path / "fused", tmp_path / "f.zip")
    assert zipfile.ZipFile(path).namelist() == ["1.png", "report.html"]
