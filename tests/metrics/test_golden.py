"""Metrics against the authors' Evaluator (tolerances of tests/golden/metrics/README.md)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jfusion import metrics
from jfusion.errors import UserError

TOLERANCE = {
    "EN": 1e-9,
    "MI": 1e-9,
    "VIF": 1e-7,
    "Qabf": 1e-6,
    "CC": 1e-6,
    "SCD": 1e-6,
    "SSIM": 2e-6,
}


@pytest.fixture(scope="module")
def values(golden):
    return golden("metrics/metrics.npz")


@pytest.mark.parametrize("name", list(metrics.METRICS))
def test_equals_the_evaluator(values, name):
    column = [str(m) for m in values["metrics"]].index("VIFF" if name == "VIF" else name)
    tolerance = TOLERANCE.get(name, 0)
    for row, triple in enumerate(str(t) for t in values["triples"]):
        images = [values[f"{triple}.{x}"] for x in "FAB"]
        found = metrics.evaluate(*images, names=[name])[name]
        expected = values["evaluator_float64_input"][row, column]
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=tolerance, err_msg=triple)


images = hnp.arrays(np.uint8, (50, 45), elements=st.integers(0, 255))


@given(images, images, images)
def test_sources_can_be_exchanged(f, a, b):
    there, back = metrics.evaluate(f, a, b), metrics.evaluate(f, b, a)
    for name, value in there.items():
        np.testing.assert_allclose(value, back[name], rtol=1e-9, atol=1e-9, err_msg=name)


@given(images)
def test_bounds_of_an_identical_triple(x):
    values = metrics.evaluate(x, x, x)
    assert 0 <= values["EN"] <= 8
    assert values["MSE"] == 0 and values["SSIM"] == pytest.approx(2)
    if np.ptp(x):
        assert values["CC"] == pytest.approx(1) and values["VIF"] == pytest.approx(2, abs=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 60), (60, 1), (6, 7)])
def test_tiny_images_give_a_value_or_nan(shape):
    x = np.arange(np.prod(shape)).reshape(shape) % 256
    values = metrics.evaluate(x, x, x[::-1])
    assert np.isfinite([values[k] for k in ("EN", "SD", "SF", "AG", "MSE")]).all()
    assert np.isnan(values["VIF"]) and (np.isnan(values["SSIM"]) or min(shape) >= 7)


def test_bad_input_is_named():
    x = np.zeros((9, 9))
    with pytest.raises(UserError, match="did you mean 'Qabf'"):
        metrics.evaluate(x, x, x, names=["Qbaf"])
    with pytest.raises(UserError, match="one size"):
        metrics.evaluate(x, x[:5], x)
    with pytest.raises(UserError, match="preset"):
        metrics.evaluate(x, x, x, preset="flim")
