"""Batches: the same for the same seed, whole, and honest about errors."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from jfusion.commands.preprocess import preprocess
from jfusion.data.h5 import PairFile
from jfusion.data.loader import Batches
from tests.commands.test_preprocess import make_dataset, options, random_pair


@pytest.fixture
def file(tmp_path):
    make_dataset(tmp_path, {f"s{i}": random_pair(i) for i in range(7)})
    return PairFile(preprocess(options(tmp_path)).path)


def test_an_epoch_is_a_permutation_without_the_rest(file):
    first, second = ([n for b in Batches(file, 2, 1).epoch(e) for n in b.names] for e in (0, 1))
    assert len(set(first)) == 6 and len(set(second)) == 6 and first != second
    assert first == [n for b in Batches(file, 2, 1).epoch(0) for n in b.names]


def test_a_resumed_epoch_goes_on_with_the_same_crops(file):
    whole = list(Batches(file, 2, 3, (5, 4)).epoch(0))
    rest = list(Batches(file, 2, 3, (5, 4)).epoch(0, 1))
    for a, b in zip(whole[1:], rest, strict=True):
        assert a.names == b.names
        np.testing.assert_array_equal(a.a, b.a)
        np.testing.assert_array_equal(a.text, b.text)


def test_both_images_get_the_same_crop(tmp_path):
    gray = np.arange(120, dtype=np.uint8).reshape(12, 10)
    make_dataset(tmp_path, {"one": (gray, gray)})
    file = PairFile(preprocess(options(tmp_path)).path)
    for epoch in range(5):
        (batch,) = Batches(file, 1, crop=(5, 4)).epoch(epoch)
        np.testing.assert_array_equal(batch.a, batch.b)
        assert batch.a.shape == (1, 1, 5, 4)


def test_stopping_early_leaves_no_thread(file):
    before = threading.active_count()
    source = Batches(file, 1).epoch(0)
    next(source)
    source.close()
    assert threading.active_count() == before
