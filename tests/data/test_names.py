"""Names of samples and which files belong together."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from jfusion.data import names
from jfusion.errors import UserError


def folder(tmp_path, label, *files):
    (tmp_path / label).mkdir()
    for file in files:
        (tmp_path / label / file).touch()
    return names.list_files(tmp_path / label, lambda p: p.suffix.lower() == ".png", "image")


def test_a_name_ends_at_the_last_dot_and_is_composed():
    assert names.sample_name("a/cam.2021.01.png") == "cam.2021.01"
    decomposed = unicodedata.normalize("NFD", "scène가")
    assert names.sample_name(f"{decomposed}.png") == "scène가"


def test_a_listing_is_in_natural_order_without_hidden_files(tmp_path):
    found = folder(tmp_path, "x", "10.png", "2.PNG", "1.png", "._1.png", ".DS_Store", "Thumbs.db")
    assert list(found) == ["1", "2", "10"]
    with pytest.raises(
        UserError, match=r"holds two images called '1': 1\.PNG and 1\.png; remove one"
    ):
        folder(tmp_path, "twice", "1.png", "1.PNG")
    with pytest.raises(UserError, match="holds no image"):
        folder(tmp_path, "none", ".hidden.png", "text.txt")
    with pytest.raises(UserError, match="does not exist"):
        names.list_files(tmp_path / "missing", lambda p: True, "image")


def test_pairs_by_name(tmp_path):
    a, b = folder(tmp_path, "a", "1.png", "2.PNG"), folder(tmp_path, "b", "2.png", "1.PNG")
    assert [(n, x.name, y.name) for n, x, y in names.pair_by_name(a, b, "set")] == [
        ("1", "1.png", "1.PNG"),
        ("2", "2.PNG", "2.png"),
    ]
    c = folder(tmp_path, "c", "2.png", "3.png")
    with pytest.raises(UserError, match="set: 2 images without a partner of the same name: 1, 3"):
        names.pair_by_name(a, c, "set")
    d = folder(tmp_path, "d", "x.png")
    with pytest.raises(UserError, match="no image has a partner of the same name"):
        names.pair_by_name(a, d, "set")


def test_what_is_left_out_is_counted_and_named(tmp_path, capsys):
    a, c = folder(tmp_path, "a", "1.png", "2.png"), folder(tmp_path, "c", "2.png", "3.png")
    assert [n for n, *_ in names.pair_by_name(a, c, "set", exact=False)] == ["2"]
    assert "2 images without a partner left out: 1, 3" in capsys.readouterr().out


def test_pairs_by_number_join_the_same_scenes(tmp_path):
    a = folder(tmp_path, "a", *(f"{i}.png" for i in range(1, 12)))
    b = folder(tmp_path, "b", *(f"VIS{i}.png" for i in range(1, 12)))
    pairs = names.pair_by_number(a, b, "set")
    assert [y.stem for _, _, y in pairs] == [f"VIS{n}" for n, _, _ in pairs]
    assert len(pairs) == 11
    with pytest.raises(UserError, match="so do their numbers: 12 in one alone"):
        names.pair_by_number(a, {**b, "VIS12": Path("VIS12.png")}, "set")
    with pytest.raises(UserError, match="do not say which images"):
        names.pair_by_number(a, {**b, "x": Path("x.png")}, "set")


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".x", "a/b", "a\\b", "a\0", "a\x1b[31m", "a\n", "\udc80", "x" * 300]
)
def test_a_name_that_is_no_part_of_a_path_is_refused_in_printable_words(name):
    with pytest.raises(UserError, match=r"file: .* cannot be a file name") as refused:
        names.check_part(name, "file")
    assert str(refused.value).isprintable() and len(str(refused.value)) < 200


@pytest.mark.parametrize("name", ["a", "01", "cam.2021.01", "a b", "scène가", "红外1"])
def test_usual_names_pass(name):
    assert names.check_part(name, "file") == name


@pytest.mark.parametrize("name", [b"\x1b[31mred", b"\xff\xfe", b"a\\b"])
def test_a_file_whose_name_no_sample_can_have_is_refused(tmp_path, name):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name + b".png")).touch()
    with pytest.raises(UserError, match="cannot be a file name; rename it") as caught:
        names.list_files(tmp_path, lambda path: path.suffix == ".png", "image")
    assert str(caught.value).isprintable()


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    (tmp_path / "1.png").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=r"1\.png is a link that leads to no file"):
        names.list_files(tmp_path, lambda path: path.suffix == ".png", "image")
