"""The features of a pair's paragraph, with an encoder that counts what it is asked."""

from __future__ import annotations

import numpy as np
import pytest

from jfusion.errors import UserError
from jfusion.fusing import text
from jfusion.fusing.text import NEUTRAL, Texts

RECORD = {"encoder": "minilm", "encoder_hash": "h"}


class CountingEncoder:
    """Features are the number of a text's words; no Jittor."""

    dim, hash = 8, "h"

    def __init__(self, name):
        self.name, self.encoded = name, []

    def tokens(self, text):
        return list(range(len(text.split())))

    def limit(self, max_length):
        return 20

    def encode(self, batch, length):
        self.encoded.append(batch[0])
        return np.full((1, length, self.dim), len(batch[0]), np.float32)


@pytest.fixture(autouse=True)
def encoder(monkeypatch):
    monkeypatch.setattr(text, "Encoder", CountingEncoder)


def texts(given, record=RECORD, names=("x", "y"), width=8):
    found = Texts(given, "IVF", record, names)
    found.fit(width)
    return found


def test_a_sentence_is_encoded_once_for_all_pairs():
    found = texts("a street at night")
    assert found.of("x").shape == (4, 8)
    np.testing.assert_array_equal(found.of("x"), found.of("y"))
    assert len(found._encoder.encoded) == 1


def test_nothing_is_the_neutral_paragraph_and_says_so(capsys):
    found = texts(None)
    assert "neutral paragraph of IVF" in capsys.readouterr().out
    assert len(found.of("x")) == min(20, len(NEUTRAL["IVF"].split()))


def test_texts_of_each_pair_come_from_a_folder(tmp_path):
    (tmp_path / "x.txt").write_text("one two three")
    np.save(tmp_path / "y.npy", np.ones((1, 5, 8), np.float32))
    found = texts(str(tmp_path))
    assert len(found.of("x")) == 3 and len(found.of("y")) == 5
    with pytest.raises(UserError, match=r"no <name>.txt or <name>.npy for z"):
        texts(str(tmp_path), names=("x", "z"))


def test_zeros_need_no_encoder(capsys):
    assert not texts("zeros", {}, width=7).of("x").any()
    assert not texts(None, {"encoder": "zeros"}, width=7).of("x").any()
    assert "trained without paragraphs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "record", "words"),
    [
        ("street", RECORD, "sentence of several words"),
        ("nowhere.txt", RECORD, "no file or folder"),
        ("a street", {"encoder": "zeros"}, "leave out --text"),
        ("a street", {"encoder": "minilm", "encoder_hash": "other"}, "another encoder"),
        ("a street", {}, "which encoder"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_encoded(given, record, words):
    with pytest.raises(UserError, match=words):
        texts(given, record)


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "e.txt").write_text(" ")
    with pytest.raises(UserError, match=r"e\.txt is empty"):
        texts(str(tmp_path / "e.txt"))
