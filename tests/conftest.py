"""Shared by all tests: the golden arrays, and one seed for everything random."""

from __future__ import annotations

import importlib.util
import json
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

GOLDEN = Path(__file__).parent / "golden"
settings.register_profile("jfusion", deadline=None, derandomize=True)
settings.load_profile("jfusion")
# A suite in the background inherits that Ctrl-C is ignored; the programs that the tests interrupt must not.
signal.signal(signal.SIGINT, signal.default_int_handler)

spec = importlib.util.spec_from_file_location("recipe", GOLDEN / "recipe.py")
recipe_module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recipe_module)


@pytest.fixture(scope="session")
def golden():
    """golden("film/forward.npz") -> the arrays of a fixture."""
    return lambda name: np.load(GOLDEN / name)


@pytest.fixture(scope="session")
def recipe():
    """The module that rebuilds parameters and images from their names."""
    return recipe_module


@pytest.fixture(scope="session")
def scaled_weights(recipe):
    """scaled_weights("cddfuse") -> the golden parameters by the authors' names, some of them damped."""

    def draw(system, manifest="manifest.json"):
        folder = GOLDEN / system
        state = recipe.state(json.loads((folder / manifest).read_text()), salt="golden")
        for name, factor in json.loads((folder / "scales.json").read_text()).items():
            if name in state:
                state[name] = (state[name] * np.float32(factor)).astype(np.float32)
        return state

    return draw
