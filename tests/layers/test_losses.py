"""Properties of the shared losses; the systems' tests compare them with the authors' numbers."""

from __future__ import annotations

import numpy as np
import pytest

from jfusion.errors import UserError
from jfusion.layers import losses
from jfusion.runtime import jt


def image(seed, shape=(2, 1, 20, 24)):
    return np.random.default_rng(seed).random(shape, np.float32)


def test_means_over_many_pixels_keep_their_digits():
    a, b, fused = (image(i, (2, 1, 300, 400)) for i in range(3))
    ours = losses.fusion_loss(*(jt.array(x) for x in (a, b, fused)), 10.0)[1].item()
    exact = np.abs(np.maximum(a, b).astype(np.float64) - fused).mean()
    assert ours == pytest.approx(exact, rel=1e-6)
    lp = losses.lp_ssim_loss(jt.array(a), jt.array(fused), 1.0)[1].item()
    assert lp == pytest.approx(np.linalg.norm(a.astype(np.float64) - fused), rel=1e-6)


def test_the_fusion_loss_of_the_maximum_is_that_of_its_gradients_alone():
    a, b = (jt.array(image(i)) for i in range(2))
    total, intensity, gradient = losses.fusion_loss(a, b, jt.maximum(a, b), 3.0)
    assert intensity.item() == 0 and gradient.item() > 0
    assert total.item() == pytest.approx(3 * gradient.item())


@pytest.mark.parametrize("place", [1, 2])
def test_the_fusion_loss_refuses_color(place):
    images = [jt.array(image(i)) for i in range(3)]
    images[place] = jt.array(image(3, (2, 3, 20, 24)))
    with pytest.raises(UserError, match="single-channel"):
        losses.fusion_loss(*images, 1.0)


def test_the_ssim_losses_end_where_kornia_clamps():
    x = jt.array(image(0))
    assert losses.kornia_ssim_loss(x, x).item() == pytest.approx(0, abs=1e-6)
    assert losses.halved_ssim_loss(x, x).item() == pytest.approx(0, abs=1e-6)
    # before kornia 0.5, dissimilar and opposed images cost the same
    assert losses.kornia_ssim_loss(x, 1 - x).item() == pytest.approx(0.5)
    assert losses.halved_ssim_loss(x, 1 - x).item() > 0.5


def test_ssim_maps_are_symmetric_and_differ_at_the_border_alone():
    x, y = (jt.array(image(i)) for i in range(2))
    zero, reflected = losses.ssim_map(x, y, 11), losses.reflected_ssim_map(x, y)
    np.testing.assert_allclose(losses.ssim_map(y, x, 11).numpy(), zero.numpy(), atol=1e-5)
    inner = (slice(None), slice(None), slice(5, -5), slice(5, -5))
    np.testing.assert_allclose(zero.numpy()[inner], reflected.numpy()[inner], atol=1e-5)
    assert abs(zero.numpy() - reflected.numpy()).max() > 1e-3


def test_the_guided_losses_weigh_the_sources_by_their_gradients():
    a, flat = jt.array(image(0)), jt.full((2, 1, 20, 24), 0.0)
    parts = losses.guided_fusion_losses(a, flat, a, a, (1.0, 1.0, 1.0))
    # a flat b counts nothing: the fused image equals a, so nothing is lost
    assert {k: round(v.item(), 5) for k, v in parts.items()} == {
        "ssim": 0.0,
        "gradient": 0.0,
        "intensity": 0.0,
    }
    doubled = losses.guided_fusion_losses(a, flat, 1 - a, a, (1.0, 2.0, 3.0))
    single = losses.guided_fusion_losses(a, flat, 1 - a, a, (1.0, 1.0, 1.0))
    ratios = [doubled[k].item() / single[k].item() for k in ("ssim", "gradient", "intensity")]
    assert ratios == pytest.approx([1, 2, 3])


def test_the_correlation_is_pearsons_and_a_constant_channel_counts_nothing():
    x, y = image(0, (2, 3, 9, 7)), image(1, (2, 3, 9, 7))
    pairs = zip(x.reshape(6, -1), y.reshape(6, -1), strict=True)
    expected = np.mean([np.corrcoef(u, v)[0, 1] for u, v in pairs])
    assert losses.correlation(jt.array(x), jt.array(y)).item() == pytest.approx(expected, abs=1e-5)
    assert losses.correlation(jt.array(x), jt.array(2 * x + 1)).item() == pytest.approx(1, abs=1e-5)
    x[:, 0] = 0.3
    (gradient,) = jt.grad(losses.correlation(v := jt.array(x), jt.array(y)), [v])
    assert np.isfinite(gradient.numpy()).all() and not gradient.numpy()[:, 0].any()


def test_the_decomposition_loss_wants_bases_alike_and_details_unlike():
    x, y = jt.array(image(0)), jt.array(image(1))
    good = losses.decomposition_loss((x, x), (x, y)).item()
    bad = losses.decomposition_loss((x, y), (x, x)).item()
    assert 0 <= good < 0.1 < 0.5 < bad
