"""DDFM's whole way against the authors' run (tests/golden/ddfm/README.md has the tolerances)."""

from __future__ import annotations

import numpy as np
import pytest

import jfusion
from jfusion.data import color
from jfusion.diffusion import samplers
from jfusion.errors import UserError
from jfusion.runtime import jt
from jfusion.systems.base import round_half_down_to_uint8
from jfusion.systems.ddfm import color as ycbcr
from jfusion.systems.ddfm import system as module
from jfusion.systems.ddfm.em import Likelihood
from tests.diffusion.test_unet import load, settings


@pytest.fixture(scope="module")
def make(recipe):
    def make(**values):
        values = {"inference_steps": "10", **values}
        system = jfusion.create("ddfm", **settings("small"), **values)
        load(system.unet, recipe, "small")
        return system

    return make


@pytest.fixture(scope="module")
def sources(golden):
    """a (infrared) and b (visible) in [0, 1] as a user gives them."""
    z = golden("ddfm/sampler.npz")
    gray = (color.gray(z[f"{k}_bgr_u8"][..., ::-1]) for k in ("ir", "vi"))
    return [jt.array((np.asarray(g, np.float32) / 255)[None, None]) for g in gray]


class Watch:
    def __init__(self):
        self.x, self.pred_x0, self.i = [], [], []

    def __call__(self, i, x, pred_x0):
        self.i.append(i)
        self.x.append(x.numpy())
        self.pred_x0.append(pred_x0.numpy())


def test_color(golden):
    z = golden("ddfm/color.npz")
    channels = ycbcr.to_ycbcr(jt.array(z["rgb"]))
    np.testing.assert_allclose(channels.numpy(), z["ycbcr255"], rtol=0, atol=1e-5)
    replaced = np.concatenate([z["y_new"], z["ycbcr255"][:, 1:]], 1)
    back = ycbcr.from_ycbcr(jt.array(replaced))
    np.testing.assert_allclose(back.numpy(), z["rgb_back"], rtol=0, atol=1e-5)
    y = module.luminance(back).numpy()
    np.testing.assert_allclose(y[0, 0], z["cv_y_of_rgb_back"], rtol=0, atol=1e-5)
    gray = np.rint(color.gray(z["bgr_u8"][..., ::-1]))
    np.testing.assert_array_equal(gray, z["gray"])


def test_the_released_code_exchanges_the_sources(make, sources, golden, monkeypatch):
    z, seen = golden("ddfm/sampler.npz"), []
    monkeypatch.setattr(
        module, "Likelihood", lambda first, second, *_: seen.append((first, second))
    )
    system = make(border="released")
    a, b = (system.fit(x) for x in sources)
    system.model(a, b)
    make(border="released", source_roles="paper").model(a, b)
    for found, expected in zip(seen[0], (z["I"], z["V"]), strict=True):
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(seen[1][0].numpy(), z["V"], rtol=0, atol=1e-6)


def test_the_authors_run(make, sources, golden, monkeypatch):
    z, watch, raw, corrected, taus, eps = golden("ddfm/sampler.npz"), Watch(), [], [], [], []

    class Watched(Likelihood):
        def __call__(self, f):
            out = super().__call__(f)
            corrected.append(out.numpy())
            taus.append([float(self.tau_a.item()), float(self.tau_b.item())])
            return out

    monkeypatch.setattr(module, "Likelihood", Watched)
    system = make(border="released")
    assert system.process.schedule.timesteps.tolist() == z["timestep_map"].tolist()
    p_mean_variance = system.process.p_mean_variance

    def watched(output, x, i):
        found = p_mean_variance(output, x, i)
        eps.append(output.numpy()[:, :3])
        raw.append(found.pred_x0.numpy())
        return found

    object.__setattr__(system.process, "p_mean_variance", watched)
    final = system.sample(*sources, callback=watch)
    assert watch.i == list(range(9, -1, -1))
    loose = {"rtol": 0, "atol": 5e-3}
    np.testing.assert_allclose(np.stack(eps), z["em_eps"], rtol=0, atol=2e-4)
    np.testing.assert_allclose(np.stack(watch.x), z["em_x"], rtol=0, atol=1e-3)
    np.testing.assert_allclose(taus, z["em_tau"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.stack(raw), z["em_x0_raw"], **loose)
    np.testing.assert_allclose(np.stack(corrected), z["em_F"], **loose)
    np.testing.assert_allclose(np.stack(watch.pred_x0), z["em_x0"], **loose)
    np.testing.assert_array_equal(final.numpy(), watch.x[-1])

    fused = module.min_max_normalize(module.luminance(final))
    np.testing.assert_allclose(fused.numpy()[0, 0] * 255, z["fused_255"], rtol=0, atol=0.05)
    for found, expected in (
        (round_half_down_to_uint8(fused.numpy())[0, 0], z["fused_u8_recon"]),
        (system.preview_step(final, (32, 64))[0], z["fused_u8_progress"]),
        (system.preview_step(jt.array(watch.x[0]), (32, 64))[0], z["progress_u8_first"]),
    ):
        off = abs(found.astype(int) - expected)
        assert off.max() <= 1 and (off > 0).mean() <= 0.005


def test_the_run_over_low_noise(make, sources, golden):
    z, watch = golden("ddfm/sampler.npz"), Watch()
    system = make(
        border="released",
        inference_steps=str(z["low_respacing"]),
        lamb=float(z["low_lamb"]),
        rho=float(z["low_rho"]),
    )
    assert system.process.schedule.timesteps.tolist() == z["low_timestep_map"].tolist()
    final = system.sample(*sources, start=jt.array(z["x_T"]), callback=watch)
    np.testing.assert_allclose(np.stack(watch.x)[z["low_keep"]], z["low_x"], rtol=0, atol=1e-3)
    fused = module.min_max_normalize(module.luminance(final)).numpy()[0, 0] * 255
    np.testing.assert_allclose(fused, z["low_fused_255"], rtol=0, atol=0.05)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_without_the_em_step(make, sources, golden, sampler):
    z, watch = golden("ddfm/sampler.npz"), Watch()
    system = make(border="released", em=False, sampler=sampler)
    noise = [jt.array(v) for v in z["noise"][::-1]]
    system.sample(*sources, start=jt.array(z["x_T"]), noise=lambda k: noise[k], callback=watch)
    np.testing.assert_allclose(np.stack(watch.x)[z["keep"]], z[f"{sampler}_x"], rtol=0, atol=1e-3)


def test_ddim_with_fresh_noise(make, sources, golden):
    z = golden("ddfm/sampler.npz")
    system = make(border="released", em=False, eta=float(z["ddim_eta"]))
    noise = [jt.array(v) for v in z["noise"][::-1]]
    final = system.sample(*sources, start=jt.array(z["x_T"]), noise=lambda k: noise[k])
    np.testing.assert_allclose(final.numpy(), z["ddim_eta_final"].reshape(final.shape), atol=1e-3)


def test_the_papers_algorithm(make, sources, golden):
    z = golden("ddfm/sampler.npz")
    system = make(border="released", sampler="ddpm")
    noise = [jt.array(v) for v in z["noise"][::-1]]
    final = system.sample(*sources, start=jt.array(z["x_T"]), noise=lambda k: noise[k])
    np.testing.assert_allclose(final.numpy(), z["ddpm_em_final"].reshape(final.shape), atol=1e-3)


def test_any_size_keeps_it_and_samples_of_a_batch_are_those_alone(make):
    rng = np.random.default_rng(0)
    pair = [jt.array(rng.random((1, 1, 13, 21)).astype(np.float32)) for _ in range(2)]
    system = make(inference_steps="3")
    one = system.fuse(*pair)
    assert one.shape == [1, 1, 13, 21] and one.min().item() == 0 and one.max().item() == 1
    two = system.fuse(*(jt.concat([x, x]) for x in pair)).numpy()
    np.testing.assert_allclose(two[:1], one.numpy(), atol=1e-4)
    np.testing.assert_allclose(two[1:], system.fuse(*pair, seed=3408).numpy(), atol=1e-4)
    assert abs(two[0] - two[1]).max() > 0.01


def test_an_image_too_small_to_cut_is_refused(make):
    with pytest.raises(UserError, match="32 pixels"):
        make(border="released").sample(jt.zeros((1, 1, 31, 64)), jt.zeros((1, 1, 31, 64)))


def test_samplers_have_one_signature():
    import inspect

    for sampler in samplers.SAMPLERS.values():
        names = list(inspect.signature(sampler).parameters)
        assert names[:5] == ["model", "x", "schedule", "noise", "callback"]
