"""The references run in float64, which Jittor otherwise makes float32 of."""

from __future__ import annotations

import pytest

from jfusion.runtime import jt


@pytest.fixture(autouse=True, scope="package")
def keep_float64():
    """Arrays of 64 bits stay so, for all tests of the operators."""
    with jt.flag_scope(auto_convert_64_to_32=0):
        yield
