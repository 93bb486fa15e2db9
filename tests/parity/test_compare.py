"""Which layers and names correspond, and how far they are apart."""

from __future__ import annotations

import numpy as np
import pytest

from jfusion.checkpoint.names import WeightMap
from jfusion.parity import compare
from jfusion.parity.compare import Answer
from jfusion.parity.reference.constants import rows

MAP = WeightMap({"theirs.{i}.{p}": "ours.{i}.{p}"}, ignored=("constant.",))
NAMES = {"theirs.0.weight": [2, 2], "theirs.1.weight": [3]}


def answer(arrays, names=NAMES):
    values = {k: np.asarray(v, np.float32) for k, v in arrays.items()}
    shapes = {k: list(v.shape) for k, v in values.items() if k.startswith(("layers/", "outputs/"))}
    matrices = {k: rows(v) if k in shapes else v for k, v in values.items()}
    return Answer({"names": dict(names), "shapes": shapes}, matrices)


def test_names_that_correspond_and_those_that_do_not():
    theirs = answer({}, {**NAMES, "x": [1], "constant.k": [9], "bn.num_batches_tracked": []})
    found = compare.names(answer({}, {**NAMES, "y": [2]}), theirs, MAP)
    assert list(found.equal) == list(NAMES) and not found.one_to_one
    assert found.theirs == {"x": [1]} and found.ours == {"y": [2]}
    assert found.ignored == ["constant.k", "bn.num_batches_tracked"]
    other = compare.names(answer({}), answer({}, {**NAMES, "theirs.1.weight": [4]}), MAP)
    assert other.shapes == {"theirs.1.weight": ([3], [4])} and not other.one_to_one
    assert compare.names(answer({}), answer({}), MAP).one_to_one


def test_modules_with_the_same_parameters_are_the_same_layer():
    ours = answer({"layers/ours.0/0.0": [1, 2.5], "layers/ours.1/0.0": [1, 1, 1]})
    theirs = answer({"layers/theirs.0/0.0": [1, 2], "layers/theirs.1/0.0": [1, 1]})
    (found,) = compare.layers(ours, theirs, MAP, ["ours.0.weight", "ours.1.weight"])
    assert found.name == "theirs.0"  # the shapes of the other one do not fit
    assert (found.largest, found.scale, found.count) == (0.5, 2, 1)
    assert found.relative == pytest.approx(0.5 / 5**0.5)


def test_of_modules_inside_one_another_the_one_that_fits_is_taken():
    theirs = answer({"layers/theirs/0.0": [[1, 1]], "layers/theirs.0/0.0": [1, 2]})
    theirs.record["names"].pop("theirs.1.weight")
    ours = answer({"layers/ours.0/0.0": [1, 2]})
    (found,) = compare.layers(ours, theirs, MAP, ["ours.0.weight"])
    assert found.name == "theirs.0" and found.largest == 0


def test_a_call_on_a_batch_stands_for_calls_on_its_parts():
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    ours = answer({"layers/ours.0/0.0": x})
    theirs = answer({"layers/theirs.0/0.0": x[:2], "layers/theirs.0/1.0": x[2:] + 1})
    (found,) = compare.layers(ours, theirs, MAP, ["ours.0.weight"])
    assert (found.largest, found.count) == (1, 2)


def test_a_layer_that_stands_apart_is_left_out():
    ours = answer({"layers/ours.0/0.0": [1, 2], "layers/ours.1/0.0": [1, 2]})
    theirs = answer({"layers/theirs.0/0.0": [1, 2], "layers/theirs.1/0.0": [-3, 2]})
    parameters = ["ours.0.weight", "ours.1.weight"]
    (found,) = compare.layers(ours, theirs, MAP, parameters, r".*\.1")
    assert found.name == "theirs.0" and found.largest == 0


def test_outputs_come_last():
    both = answer({"layers/ours.0/0.0": [1], "layers/theirs.0/0.0": [1], "outputs/output": [2, 3]})
    found = compare.layers(both, both, MAP, ["ours.0.weight"])
    assert [d.name for d in found] == ["theirs.0", "output"]


def test_a_recorded_answer_has_few_values_and_all_shapes():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 30, 40)).astype(np.float32)
    whole = answer({"layers/theirs.0/0.0": x, "gradients/s/n": x, "fused/0": x})
    recorded = whole.recorded()
    assert recorded.arrays["layers/theirs.0/0.0"].shape == (2, compare.KEPT)
    assert recorded.arrays["fused/0"].shape == x.shape
    ours = answer({"layers/ours.0/0.0": x + 1, "gradients/s/n": x})
    (found,) = compare.layers(ours, recorded, MAP, ["ours.0.weight"])
    assert found.shape == x.shape and found.largest == pytest.approx(1, abs=1e-6)
    (gradient,) = compare.gradients(ours, recorded, "s")
    assert gradient.largest == 0 and gradient.relative == 0
