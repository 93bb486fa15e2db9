"""H5 files: those of the authors, those that do not record everything, and those that are damaged."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from jfusion.commands.preprocess import preprocess
from jfusion.data import h5
from jfusion.errors import UserError
from tests.commands.test_preprocess import make_dataset, options, random_pair
from tests.conftest import GOLDEN


def test_authors_file_passes_the_check():
    found = h5.check(GOLDEN / "film/sample_test.h5")
    assert (
        found["samples"] == 4 and found["sizes"] == {(24, 32): 4} and found["text"] == {(3, 768): 4}
    )
    assert "made by another tool" in h5.summary("x.h5", found)


def test_bad_h5_files_are_explained(tmp_path):
    make_dataset(tmp_path, {"one": random_pair(1)})
    path = preprocess(options(tmp_path)).path
    whole = path.read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a complete H5 file"):
        h5.PairFile(tmp_path / "cut.h5")
    (tmp_path / "picture.h5").write_bytes(b"\x89PNG and so on")
    with pytest.raises(UserError, match=r"picture.h5 is no H5 file"):
        h5.PairFile(tmp_path / "picture.h5")
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    with pytest.raises(UserError, match="no group 'imageA'"):
        h5.PairFile(tmp_path / "empty.h5")
    with h5py.File(path, "r+") as file:
        file["imageA/one"][0, 0, 0] = np.nan
    with pytest.raises(UserError, match="imageA holds NaN"):
        h5.check(path)


def test_attributes_that_a_file_does_not_record_come_from_its_data(tmp_path):
    make_dataset(tmp_path, {"one": random_pair(1)}, width=8)
    path = preprocess(options(tmp_path)).path
    recorded = h5.PairFile(path)
    assert (recorded.dataset, recorded.attributes["text_dim"]) == ("Set", 8)
    assert recorded.attributes["task"] == "IVF" and recorded.read("one").dataset == "Set"
    for groups in (["imageA", "imageB", "text"], ["imageA", "imageB"]):
        other = tmp_path / f"Other{len(groups)}_train.h5"
        with h5py.File(path) as source, h5py.File(other, "w") as target:
            for group in groups:
                source.copy(group, target)
        bare = h5.PairFile(other)
        assert bare.dataset == f"Other{len(groups)}" == bare.attributes["dataset"]
        assert bare.attributes.get("text_dim") == (8 if "text" in groups else None)
