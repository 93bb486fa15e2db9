"""The operators of the text encoder."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jfusion.runtime import jt
from jfusion.text import ops as encoder
from tests.ops.compare import arrays, few


@pytest.fixture(autouse=True, scope="module")
def keep_float64():
    with jt.flag_scope(auto_convert_64_to_32=0):
        yield


@given(few, st.integers(1, 40), few, st.integers(1, 9))
@settings(max_examples=8)
def test_encoder_layers(n, length, heads, size):
    """No gradients: the text encoder is frozen."""
    lengths = np.random.default_rng(1).integers(1, length + 1, n).astype(np.int32)
    h = heads * size
    cases = (
        (
            encoder.self_attention,
            encoder.self_attention_reference,
            [(n, length, 3 * h)],
            (lengths, heads),
        ),
        (
            encoder.add_norm,
            encoder.add_norm_reference,
            [(n, length, h), (h,), (n, length, h), (h,), (h,)],
            (1e-12,),
        ),
        (encoder.bias_gelu, encoder.bias_gelu_reference, [(n, length, h), (h,)], ()),
    )
    for kernel, reference, shapes, arguments in cases:
        if kernel is encoder.add_norm and h == 1:
            continue  # the variance of one value is rounding noise
        inputs = arrays(0, *shapes)
        arguments = [jt.array(m) if isinstance(m, np.ndarray) else m for m in arguments]
        actual = kernel(*(jt.array(x) for x in inputs), *arguments).numpy()
        with jt.flag_scope(use_cuda=0):
            expected = reference(
                *(jt.array(x.astype(np.float64)) for x in inputs), *arguments
            ).numpy()
        np.testing.assert_allclose(actual, expected, rtol=0, atol=3e-5)
