"""One normalization for several images, and what the networks' own normalization makes of it."""

from __future__ import annotations

import numpy as np

from jfusion.runtime import jt
from jfusion.systems.network import min_max_normalize
from jfusion.systems.stretch import Stretch, ends


def test_a_stretch_of_several_images_holds_for_each():
    stretch = Stretch()
    with stretch.applied():
        assert ends(np.float32(0.2), np.float32(0.3)) == (np.float32(0.2), np.float32(0.3))
    with stretch.measured():
        for low, high in ((0.2, 0.6), (0.1, 0.5)):
            assert ends(np.array([low]), np.array([high])) == (low, high)
    with stretch.applied():
        assert ends(np.array([0.3]), np.array([0.4])) == (0.1, 0.6)
    assert ends(0.3, 0.4) == (0.3, 0.4)


def test_a_network_normalizes_by_it():
    x = np.random.default_rng(0).uniform(0.1, 0.8, (2, 1, 6, 7)).astype(np.float32)
    each = min_max_normalize(jt.array(x)).numpy()
    assert (each.min((1, 2, 3)) == 0).all() and (each.max((1, 2, 3)) == 1).all()
    stretch = Stretch()
    with stretch.measured():
        min_max_normalize(jt.array(x))
    assert stretch == Stretch(float(x.min()), float(x.max()))
    with stretch.applied():
        darker = min_max_normalize(jt.array(x / 2)).numpy()
    expected = np.clip((x / 2 - x.min()) / (x.max() - x.min()), 0, 1)
    np.testing.assert_allclose(darker, expected, atol=1e-6)
