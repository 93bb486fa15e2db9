"""Where the images of a data set are."""

from __future__ import annotations

import pytest
from PIL import Image

from jfusion.data.layout import find_samples
from jfusion.errors import UserError
from tests.commands.test_preprocess import make_dataset, make_folders, random_pair


def test_folders_with_other_names_are_paired_by_number_and_said_so(tmp_path, capsys):
    base = make_folders(tmp_path, "IVF")
    (base / "vi/1.png").rename(base / "vi/VIS1.png")
    (base / "vi/2.png").rename(base / "vi/VIS2.png")
    found = find_samples(tmp_path, "IVF", "X", "test")
    assert [(s.a.name, s.b.name) for s in found] == [
        ("1.png", "VIS1.png"),
        ("2.png", "VIS2.png"),
    ]
    assert "paired by their numbers" in capsys.readouterr().out
    (base / "vi/VIS1.png").rename(base / "vi/VIS3.png")
    with pytest.raises(UserError, match="so do their numbers: 1, 3 in one alone"):
        find_samples(tmp_path, "IVF", "X", "test")
    with pytest.raises(UserError, match="no folder over"):
        find_samples(tmp_path, "MEF", "X", "test")


def test_the_folders_of_diff_fccf_are_paired_by_number(tmp_path, capsys):
    base = tmp_path / "train" / "GFP"
    for i, (folder, numbers) in enumerate((("f", (2, 10, 100)), ("g", (2, 10, 100)))):
        (base / folder).mkdir(parents=True)
        for k, number in enumerate(numbers):
            Image.fromarray(random_pair(k)[i]).save(base / folder / f"{folder}{number}.png")
    found = find_samples(tmp_path, "MIF", "GFP", "train")
    assert [(s.a.name, s.b.name) for s in found] == [
        ("f2.png", "g2.png"),
        ("f10.png", "g10.png"),
        ("f100.png", "g100.png"),
    ]
    (base / "f").rename(base / "t")
    assert len(find_samples(tmp_path, "MIF", "GFP", "train")) == 3


def test_split_all_and_lists_without_suffixes(tmp_path):
    base = make_dataset(tmp_path, {"b": random_pair(1), "a": random_pair(2)})
    assert [s.name for s in find_samples(tmp_path, "IVF", "Set", "all")] == ["a", "b"]
    (base / "short.txt").write_text("b\n\n")
    assert [s.a.name for s in find_samples(tmp_path, "IVF", "Set", "short")] == ["b.png"]
