"""A network on stripes gives what it gives on the whole image."""

from __future__ import annotations

import numpy as np
import pytest

import jfusion
from jfusion.errors import UserError
from jfusion.layers import tiles
from jfusion.runtime import jt
from jfusion.systems.film.config import TINY


def passes(network):
    """Counts the calls of a network."""
    calls = []

    def counted(*inputs):
        calls.append(inputs[0].shape[2])
        return network(*inputs)

    return counted, calls


@pytest.mark.parametrize("name", ["film", "cddfuse"])
@pytest.mark.parametrize("height", [37, 64])
def test_stripes_leave_no_seam(name, height):
    system = jfusion.create(name, **(TINY if name == "film" else {}))
    rng = np.random.default_rng(0)
    a, b = (jt.array(rng.random((1, 1, height, 29), np.float32)) for _ in range(2))
    rest = (jt.array(rng.standard_normal((1, 3, 8)).astype(np.float32)),) if name == "film" else ()
    tiling = system.TILING
    network, calls = passes(system)
    with jt.no_grad():
        expected = system(a, b, *rest).numpy()
        found = tiles.whole(network, a, b, *rest, tiling=tiling, stripe_rows=12).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
    assert np.ptp(expected) > 1e-3
    stripes = round(height / 12)
    assert len(calls) == stripes * tiling.passes
    assert max(calls) <= 2 * 12 + 2 * tiling.halo and not tiles.active()


def test_an_image_below_the_limit_is_not_cut():
    network, calls = passes(lambda a, b: a + b)
    a = jt.ones((1, 1, 40, 10))
    tiles.whole(network, a, a, tiling=tiles.Tiling(400, 400, 4, 1, 1))
    assert calls == [40]
    tiles.whole(network, a, a, tiling=tiles.Tiling(399, 400, 4, 1, 1))
    assert calls == [40, 40]  # one stripe: the image is not wide


def test_a_full_disk_is_known_before():
    a = jt.ones((1, 1, 40, 10))
    with pytest.raises(UserError, match=r"GB of the disk .*JFUSION_HOME"):
        tiles.whole(
            lambda a, b: a, a, a, tiling=tiles.Tiling(1, 200, 4, 1, 1 << 50), stripe_rows=20
        )


def test_an_interrupted_run_leaves_nothing_behind():
    def interrupted(a, b):
        (a,) = tiles.cut(a)
        raise KeyboardInterrupt

    a = jt.ones((1, 1, 40, 10))
    with pytest.raises(KeyboardInterrupt):
        tiles.whole(interrupted, a, a, tiling=tiles.Tiling(1, 200, 4, 1, 1), stripe_rows=20)
    assert not tiles.active()
