"""Drawn weights and images are those of the golden fixtures."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from jfusion.parity import draw

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("recipe", GOLDEN / "recipe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("a.conv.weight", (3, 2, 1, 1)),
        ("a.conv.bias", (3,)),
        ("norm.weight", (4,)),
        ("prelu.weight", (1,)),
        ("attn.temperature", (2, 1, 1)),
        ("bn.running_mean", (3,)),
        ("bn.running_var", (3,)),
        ("in_proj_weight", (6, 2)),
    ],
)
def test_weights_are_those_of_the_recipe(recipe, name, shape):
    np.testing.assert_array_equal(draw.weight(name, shape), recipe.weight(name, shape))


def test_images_are_those_of_the_recipe(recipe):
    for shape in ((2, 1, 9, 13), (20, 24)):
        np.testing.assert_array_equal(
            draw.image("grad.vis", shape), recipe.image("grad.vis", shape)
        )


def test_the_batch_is_that_of_the_golden_training():
    stored = np.load(GOLDEN / "film/train.npz")
    np.testing.assert_array_equal(draw.image("film.grad9.imageA", (2, 1, 32, 40)), stored["imageA"])
    stored = np.load(GOLDEN / "cddfuse/train.npz")
    for name in ("ir", "vis"):
        np.testing.assert_array_equal(draw.image(f"grad.{name}", (2, 1, 32, 40)), stored[name])
