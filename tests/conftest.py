"""Shared by all tests: the golden arrays, and one seed for everything random."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

GOLDEN = Path(__file__).parent / "golden"
settings.register_profile("jfusion", deadline=None, derandomize=True)
settings.load_profile("jfusion")

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
