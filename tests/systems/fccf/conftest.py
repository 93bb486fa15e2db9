"""Shared by the tests of Diff-FCCF: the system with the golden weights."""

from __future__ import annotations

import pytest

import jfusion
from tests.systems.fccf.golden import manifest


@pytest.fixture(scope="module")
def make(recipe):
    """make("_small", group="ct") -> the system with the golden weights, in evaluation mode."""

    def make(name="_small", **values):
        width = 32 if name == "_small" else 64
        system = jfusion.create("fccf", **{"width": width, "group": "pet", **values})
        system.load_official(recipe.state(manifest(name), salt="golden"))
        system.eval()
        return system

    return make
