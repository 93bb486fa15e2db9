"""A kernel against its reference: the same values, and the same gradients.

The reference runs in float64, so the differences are the kernel's own rounding.
"""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from jfusion.runtime import jt

sizes = st.integers(1, 19)
few = st.integers(1, 4)


def arrays(seed, *shapes):
    """Normal random float32 arrays of these shapes, the same for the same seed."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(s).astype(np.float32) for s in shapes]


def assert_same(kernel, reference, inputs, tolerance=2e-5):
    """Outputs agree, and so do the gradients of a random weighted sum of them."""
    out, gradients = run(kernel, inputs, np.float32)
    with jt.flag_scope(use_cuda=0):  # a GPU has no products of float64
        expected, expected_gradients = run(reference, inputs, np.float64)
    pairs = zip([*out, *gradients], [*expected, *expected_gradients], strict=True)
    for actual, desired in pairs:
        assert actual.shape == desired.shape
        scale = max(1.0, np.abs(desired).max(initial=0))
        np.testing.assert_allclose(actual, desired, rtol=0, atol=tolerance * scale)


def run(function, inputs, dtype):
    """The function's outputs, and the gradients of a weighted sum of them, as arrays."""
    variables = [jt.array(x.astype(dtype)) for x in inputs]
    out = function(*variables)
    out = list(out) if isinstance(out, tuple | list) else [out]
    weights = arrays(99, *[o.shape for o in out])
    total = sum((o * jt.array(w.astype(dtype))).sum() for o, w in zip(out, weights, strict=True))
    return [o.numpy() for o in out], [g.numpy() for g in jt.grad(total, variables)]
