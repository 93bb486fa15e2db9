"""The encoder against transformers' PyTorch models (tools/make_text_fixtures.py made the numbers)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jfusion.checkpoint.safetensors_file import Tensors
from jfusion.errors import UserError
from jfusion.runtime import jt
from jfusion.text import bert
from jfusion.text.ops import add_norm

FIXTURES = Path(__file__).parents[1] / "golden/text"


@pytest.mark.parametrize("name", ["bert", "bert_sharded", "bert_masked_lm", "blip2"])
def test_hidden_states_are_those_of_transformers(name):
    expected = np.load(FIXTURES / name / "expected.npz")
    network = bert.load(FIXTURES / name)
    with jt.no_grad():
        actual = network(expected["tokens"], expected["mask"].sum(1)).numpy()
    np.testing.assert_allclose(actual, expected["last_hidden_state"], rtol=0, atol=1e-5)


def test_only_the_text_branch_is_read(monkeypatch):
    read = []
    original = Tensors.read
    monkeypatch.setattr(Tensors, "read", lambda self, n: read.append(n) or original(self, n))
    bert.load(FIXTURES / "blip2")
    assert len(read) == 4 + 3 * 16
    assert not [n for n in read if "vision" in n or "crossattention" in n or "_query" in n]


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(FIXTURES / "bert", tmp_path / "bert")
    return tmp_path / "bert"


def changed(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    return folder


def test_missing_weights_are_listed(folder):
    def drop(weights):
        for i in (0, 2):
            del weights[f"encoder.layer.{i}.output.dense.bias"]

    names = "encoder.layer.0.output.dense.bias, encoder.layer.2.output.dense.bias"
    with pytest.raises(UserError, match=f"lack {names}"):
        bert.load(changed(folder, drop))


def test_a_layer_too_many_and_a_wrong_shape_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    with pytest.raises(UserError, match=r"config.json has 2 layers.*encoder.layer.2"):
        bert.load(folder)
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 60}))
    with pytest.raises(
        UserError, match=r"word_embeddings.weight is \(61, 24\) instead of \(60, 24\)"
    ):
        bert.load(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"hidden_act": "relu"}', "exact GELU"),
        ('{"model_type": "roberta"}', "of a roberta"),
        ('{"hidden_size": "wide"}', "not an encoder's configuration"),
        ("[1, 2", "not an encoder's configuration"),
    ],
)
def test_other_configurations_are_refused(folder, content, message):
    (folder / "config.json").write_text(content)
    with pytest.raises(UserError, match=message):
        bert.load(folder)


def test_truncated_weights_are_one_line(folder):
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    for part in (0, 5, 300, len(raw) // 2, len(raw) - 1):
        path.write_bytes(raw[:part])
        with pytest.raises(UserError, match="truncated"):
            bert.load(folder)
    path.unlink()
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        bert.load(folder)


def test_half_precision_and_bfloat16_are_read(tmp_path):
    value = np.array([[1.5, -2.25], [0.125, 3.0]], np.float32)  # exact in both
    bits = (value.view("<u4") >> 16).astype("<u2").tobytes()
    head = json.dumps({"x": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + bits)
    np.testing.assert_array_equal(Tensors(tmp_path).read("x"), value)
    save_file({"x": value.astype(np.float16)}, tmp_path / "model.safetensors")
    assert Tensors(tmp_path).read("x").dtype == np.float32


def test_names_of_the_first_bert_checkpoints_are_known(folder):
    def rename(weights):
        for name in [n for n in weights if "LayerNorm" in n]:
            new = name.replace("LayerNorm.weight", "LayerNorm.gamma")
            weights[new.replace("LayerNorm.bias", "LayerNorm.beta")] = weights.pop(name)

    expected = np.load(folder / "expected.npz")
    network = bert.load(changed(folder, rename))
    actual = network(expected["tokens"], expected["mask"].sum(1)).numpy()
    np.testing.assert_allclose(actual, expected["last_hidden_state"], rtol=0, atol=1e-5)


def test_tokens_beyond_the_encoder_are_refused():
    network = bert.load(FIXTURES / "bert")
    with pytest.raises(UserError, match="token 61 is beyond"):
        network(np.array([[61]]), np.array([1]))
    with pytest.raises(UserError, match="21 tokens, and the encoder has 20"):
        network(np.zeros((1, 21), int), np.array([21]))


def test_a_frozen_layer_does_not_pretend_to_have_a_gradient():
    if jt.flags.use_cuda:
        pytest.skip("the GPU's form has one")
    x, ones = jt.ones((2, 3)), jt.ones(3)
    with pytest.raises(Exception, match="no gradient"):
        jt.grad(add_norm(x, ones, x, ones, ones, 1e-12).sum(), [x])[0].sync()
