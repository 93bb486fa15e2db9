"""The lists of the papers' pairs, and what the hashes of files reveal."""

from __future__ import annotations

from pathlib import Path

import pytest

from jfusion.data import splits
from jfusion.data.layout import Sample
from jfusion.data.layouts import open_data_set
from jfusion.data.splits import Entry, Hashes, SplitList, comparison, duplicates


def make(folder, **contents):
    """Samples by name from the bytes of A and B."""
    samples = []
    for name, (a, b) in contents.items():
        paths = folder / "ir" / f"{name}.png", folder / "vi" / f"{name}.png"
        for path, data in zip(paths, (a, b), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        samples.append(Sample(name, *paths, Path()))
    return samples


@pytest.fixture
def known(tmp_path, monkeypatch):
    """Two pairs, one for training and one for the test, and jfusion's list of them."""
    samples = make(tmp_path / "Set", one=(b"1a", b"1b"), two=(b"2a", b"2b"))
    pairs = {
        sample.name: Entry(split, splits.file_hash(sample.a), splits.file_hash(sample.b))
        for sample, split in zip(samples, ("train", "test"), strict=True)
    }
    found = SplitList("IVF", "Set", pairs)
    monkeypatch.setattr(splits, "split_lists", lambda: (found,))
    monkeypatch.setitem(splits.ORIGINS, "Set", "somewhere")
    return samples, found


def test_the_lists_of_the_package_are_whole():
    counts = {
        found.dataset: (len(found.names("train")), len(found.names("test")))
        for found in splits.split_lists()
    }
    assert counts == {
        **{"RoadScene": (171, 50), "TNO": (0, 25), "VIFB": (0, 21), "MEFB": (0, 100)},
        **{"Lytro": (0, 20), "Harvard_CT": (0, 21), "Harvard_PET": (0, 42)},
        "Harvard_SPECT": (0, 73),
    }
    assert set(counts) == set(splits.ORIGINS)
    for found in splits.split_lists():
        for entry in found.pairs.values():
            assert len(bytes.fromhex(entry.sha256_a)) == len(bytes.fromhex(entry.sha256_b)) == 32


def test_the_pairs_of_the_paper_are_recognized_byte_for_byte(known):
    samples, found = known
    line = comparison(found, "test", samples[1:], Hashes())
    assert line == "test: the 1 pairs of the paper, byte for byte (Set: somewhere)"


def test_what_differs_is_named(known):
    samples, found = known
    samples[1].b.write_bytes(b"encoded again")
    line = comparison(found, "test", samples, Hashes())
    assert "1 differ (two); 1 are not in it (one)" in line
    assert "1 are missing (two)" in comparison(found, "test", samples[:1], Hashes())


def test_a_download_is_split_and_called_like_the_list_that_has_its_files(known, tmp_path):
    (tmp_path / "Set").rename(tmp_path / "renamed")
    data = open_data_set("R", folder=str(tmp_path / "renamed"))
    assert data.name == "Set" and "the list's files are the same" in data.why
    assert {k: [s.name for s in v] for k, v in data.splits.items()} == {
        "train": ["one"],
        "test": ["two"],
    }
    assert open_data_set("R", folder=str(tmp_path / "renamed"), name="mine").name == "mine"


def test_copies_across_splits_and_of_the_partner_are_found(tmp_path):
    train = make(tmp_path / "train", t1=(b"a", b"b"), t2=(b"c", b"c"))
    test = make(tmp_path / "test", e1=(b"x", b"b"), e2=(b"y", b"z"))
    both = {"train": train, "test": test}
    assert duplicates(both, "train", Hashes()) == [
        "t1: t1.png is also in test (e1)",
        "t2: both images are the same file",
    ]
    assert duplicates(both, "test", Hashes()) == ["e1: e1.png is also in train (t1)"]
    train[0].b.unlink()
    assert duplicates(both, "test", Hashes()) == []
