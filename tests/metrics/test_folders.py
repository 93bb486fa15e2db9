"""Which files belong together: labels, rules for names, sets, and what a method lacks."""

from __future__ import annotations

import pytest

from jfusion.data.image import Reader
from jfusion.errors import UserError
from jfusion.metrics import folders
from jfusion.metrics.folders import DataSet


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return str(folder)


def test_a_label_is_given_or_the_shortest_end_of_the_path_that_no_other_has():
    assert folders.methods(["x/ours", "y/theirs"]) == {"ours": "x/ours", "theirs": "y/theirs"}
    assert list(folders.methods(["x/out", "y/out", "M=z"])) == ["x/out", "y/out", "M"]
    assert folders.methods(["r/ours/{set}/{name}_f"]) == {"ours": "r/ours/{set}/{name}_f"}
    with pytest.raises(UserError, match="two methods are called 'M'"):
        folders.methods(["M=x", "M=y"])


def test_a_rule_says_which_part_of_a_file_is_the_name_of_the_pair(tmp_path):
    place = touch(
        tmp_path / "f", "001_ours.png", "002_ours.png", "002_ours.jpg", "003.png", "_ours.png"
    )
    assert list(folders.images(f"{place}/{{name}}_ours.png", "--fused")) == ["001", "002"]
    with pytest.raises(UserError, match="holds two images called '002_ours'"):
        folders.images(f"{place}/{{name}}_ours", "--fused")
    with pytest.raises(UserError, match=r"must hold \{name\} once"):
        folders.images(f"{place}/{{name}}{{name}}", "--fused")
    with pytest.raises(UserError, match=r"--fused x\{name\}: folder .* holds no image"):
        folders.images(f"{place}/x{{name}}", "--fused")


@pytest.mark.parametrize(
    ("files", "names", "rule"),
    [
        (["fused_1", "fused_2", "fused_11"], ["1", "2", "11"], "fused_{name}"),
        (["01_ours_x", "02_ours_x"], ["01", "02"], "{name}_ours_x"),
        (["car_fused"], ["car", "ca"], "{name}_fused"),
        (["other"], ["car"], ""),
    ],
)
def test_the_rule_of_most_files_is_found(files, names, rule):
    assert folders.rule_for(files, names, "where") == rule


def test_two_rules_of_equal_worth_are_not_guessed_at():
    with pytest.raises(UserError, match="say which"):
        folders.rule_for(["a_x", "y_a"], ["a"], "where")


def match(root, places, several=False, common=True, **more):
    data = DataSet("S", str(root / "a"), str(root / "b"), **more)
    return folders.match(data, places, Reader(), several, common)


def test_names_with_a_suffix_are_found_with_a_note(tmp_path):
    touch(tmp_path / "a", "1.png", "2.png")
    touch(tmp_path / "b", "1.png", "2.png")
    place = touch(tmp_path / "m", "1_fused.png", "2_fused.png")
    found = match(tmp_path, {"m": place})
    assert [t.name for t in found.triples] == ["1", "2"] and not found.skipped
    assert found.notes == [f"m: the files of {place} are named {{name}}_fused"]


def test_each_method_has_a_folder_for_each_of_several_sets_or_says_where(tmp_path):
    touch(tmp_path / "a", "1.png")
    touch(tmp_path / "b", "1.png")
    touch(tmp_path / "m/S", "1.png")
    touch(tmp_path / "n/S/out", "1.png")
    places = {
        "m": str(tmp_path / "m"),
        "n": str(tmp_path / "n/{set}/out"),
        "o": str(tmp_path / "o"),
    }
    found = match(tmp_path, places, several=True)
    assert list(found.triples[0].fused) == ["m", "n"]
    assert "S: o has no folder" in found.notes[0]
    with pytest.raises(UserError, match="no method has images of S"):
        match(tmp_path, {"o": str(tmp_path / "o")}, several=True)
