"""Training batches: the same for the same seed, whole, and honest about errors."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from jfusion.commands.preprocess import preprocess
from jfusion.data.h5 import Pair, PairFile
from jfusion.data.loader import DataLoader, DatasetSchedule
from jfusion.errors import UserError
from tests.commands.test_preprocess import make_dataset, options, random_pair


@pytest.fixture
def file(tmp_path):
    make_dataset(tmp_path, {f"s{i}": random_pair(i) for i in range(7)})
    return PairFile(preprocess(options(tmp_path)).path)


def test_an_epoch_is_a_permutation_without_the_rest(file):
    first, second = ([n for b in DataLoader(file, 2, 1).epoch(e) for n in b.names] for e in (0, 1))
    assert len(set(first)) == 6 and len(set(second)) == 6 and first != second
    assert first == [n for b in DataLoader(file, 2, 1).epoch(0) for n in b.names]


def test_a_resumed_epoch_goes_on_with_the_same_crops(file):
    whole = list(DataLoader(file, 2, 3, (5, 4)).epoch(0))
    rest = list(DataLoader(file, 2, 3, (5, 4)).epoch(0, 1))
    for a, b in zip(whole[1:], rest, strict=True):
        assert a.names == b.names
        np.testing.assert_array_equal(a.a, b.a)
        np.testing.assert_array_equal(a.text, b.text)


def test_both_images_get_the_same_crop(tmp_path):
    gray = np.arange(120, dtype=np.uint8).reshape(12, 10)
    make_dataset(tmp_path, {"one": (gray, gray)})
    file = PairFile(preprocess(options(tmp_path)).path)
    for epoch in range(5):
        (batch,) = DataLoader(file, 1, crop=(5, 4)).epoch(epoch)
        np.testing.assert_array_equal(batch.a, batch.b)
        assert batch.a.shape == (1, 1, 5, 4)


def test_stopping_early_leaves_no_thread(file):
    before = threading.active_count()
    source = DataLoader(file, 1).epoch(0)
    next(source)
    source.close()
    assert threading.active_count() == before


def test_the_last_incomplete_batch_is_left_out_or_not(file):
    assert len(DataLoader(file, 2)) == 3 and len(DataLoader(file, 2, drop_last=False)) == 4
    sizes = [len(batch.names) for batch in DataLoader(file, 2, drop_last=False).epoch(0)]
    assert sizes == [2, 2, 2, 1]
    with pytest.raises(UserError, match="holds 7 pairs, fewer than one batch of 8"):
        len(DataLoader(file, 8))


def test_pairs_are_preprocessed_and_know_their_data_set(file):
    loader = DataLoader(file, 2, preprocess=lambda pair: (pair.a, np.repeat(pair.b, 3, 0)))
    batch = next(loader.epoch(0))
    assert batch.a.shape[1] == 1 and batch.b.shape[1] == 3 and batch.dataset == "Set"


def test_shapes_that_differ_are_named_with_a_remedy(tmp_path):
    make_dataset(tmp_path, {"one": random_pair(1), "two": random_pair(2, (14, 10))})
    file = PairFile(preprocess(options(tmp_path)).path)
    with pytest.raises(UserError, match=r"different shapes .*1x14x10.*--crop HEIGHT WIDTH"):
        list(DataLoader(file, 2).epoch(0))
    with pytest.raises(UserError, match="smaller than the crop of 13x10; train with a smaller"):
        list(DataLoader(file, 1, crop=(13, 10)).epoch(0))


def test_an_epoch_draws_its_data_set_by_the_seed():
    names = ["GFP", "Harvard_PET", "SPECT-MRI", "ADNI_2"]
    every, listed = DatasetSchedule(names, 3), DatasetSchedule(names, 3, "adni, pet,Harvard_PET")
    assert every.indices == [0, 1, 2, 3] and listed.indices == [3, 1, 1]
    drawn = [listed.index(epoch) for epoch in range(300)]
    assert drawn == [DatasetSchedule(names, 3, "adni,pet,pet").index(e) for e in range(300)]
    assert 150 < drawn.count(1) < 250 and set(drawn) == {1, 3}
    assert drawn != [DatasetSchedule(names, 4, "adni,pet,pet").index(e) for e in range(300)]
    # as runs of version 1 drew it
    first = np.random.default_rng([3, 7, 1]).integers(4)
    assert every.index(7) == first
    assert [DatasetSchedule(["one"], seed).index(seed) for seed in range(9)] == [0] * 9


def test_entries_of_a_schedule_are_whole_words_of_one_name():
    names = ["Harvard_CT", "SPECT-MRI", "PET256", "Harvard_PET"]
    assert DatasetSchedule(names, entries="ct,spect,harvard_pet,256").indices == [0, 1, 3, 2]
    for entries, said in (
        ("adni", "no training set for 'adni' among Harvard_CT, SPECT-MRI"),
        ("Harvard_CTT", "did you mean 'Harvard_CT'"),
        ("pet", "'pet' of --schedule fits PET256 and Harvard_PET; write the whole name"),
    ):
        with pytest.raises(UserError, match=said):
            DatasetSchedule(names, entries=entries)


def test_colors_get_the_crop_and_the_rotation_of_their_image(tmp_path):
    shape = (12, 12)
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    pair = Pair(
        "x", np.zeros((1, *shape), np.float32), rgb[None, ..., 0] / 255, None, None, rgb, "b"
    )
    loader = DataLoader([pair], 1, crop=(5, 7), augment=True)
    for seed in range(6):
        sample = loader._sample(pair, np.random.default_rng(seed))
        assert sample.rgb_a is None and sample.rule == "b"
        np.testing.assert_array_equal(sample.rgb_b[..., 0] / 255, sample.b[0])
