"""Schedules and one reverse step against the reference's arrays (tests/golden/ddfm/README.md)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jfusion.diffusion.process import GaussianDiffusion, q_sample
from jfusion.diffusion.schedule import named_schedule, space_timesteps
from jfusion.errors import UserError
from jfusion.runtime import jt

SAME = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "alphas_cumprod_next",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)
DERIVED = {  # not stored: made where they are used
    "sqrt_alphas_cumprod": lambda s: np.sqrt(s.alphas_cumprod),
    "sqrt_one_minus_alphas_cumprod": lambda s: np.sqrt(1 - s.alphas_cumprod),
    "log_one_minus_alphas_cumprod": lambda s: np.log(1 - s.alphas_cumprod),
}
SCHEDULES = {
    "linear1000": lambda: named_schedule("linear", 1000),
    "cosine1000": lambda: named_schedule("cosine", 1000),
    "linear300": lambda: named_schedule("linear", 300),
    "linear1000_100": lambda: named_schedule("linear", 1000).respaced(100),
    "linear1000_ddim25": lambda: named_schedule("linear", 1000).respaced("ddim25"),
}


@pytest.mark.parametrize("case", SCHEDULES)
def test_schedules(golden, case):
    z, made = golden("ddfm/schedule.npz"), SCHEDULES[case]()
    stored = {k.split(".", 1)[1] for k in z.files if k.startswith(f"{case}.")}
    assert stored
    for name in stored - {"timestep_map"}:
        found = getattr(made, name) if name in SAME else DERIVED[name](made)
        np.testing.assert_allclose(found, z[f"{case}.{name}"], rtol=1e-12, err_msg=name)
    if "timestep_map" in stored:
        np.testing.assert_array_equal(made.timesteps, z[f"{case}.timestep_map"])


def test_every_spacing(golden):
    z = golden("ddfm/schedule.npz")
    maps = [k for k in z.files if k.startswith("map.")]
    assert maps
    for key in maps:
        steps, spacing = key.removeprefix("map.").split("_", 1)
        spacing = spacing.replace("_", ",")
        np.testing.assert_array_equal(space_timesteps(int(steps), spacing), z[key], err_msg=key)
        if spacing.isdigit():
            np.testing.assert_array_equal(space_timesteps(int(steps), int(spacing)), z[key])
        if "," in spacing:
            np.testing.assert_array_equal(
                space_timesteps(int(steps), list(map(int, spacing.split(",")))), z[key]
            )


@given(st.integers(1, 400), st.integers(1, 400))
def test_a_spacing_takes_so_many_different_steps(steps, count):
    if count > steps:
        with pytest.raises(UserError, match=f"cannot take {count} of {steps}"):
            space_timesteps(steps, count)
        return
    taken = space_timesteps(steps, count)
    assert len(taken) == count and taken[0] == 0 and taken[-1] <= steps - 1
    assert count == 1 or taken[-1] == steps - 1
    assert (np.diff(taken) > 0).all()


def test_one_step_is_enough():
    one = named_schedule("linear", 1000).respaced(1)
    assert len(one) == 1 and np.isfinite(one.posterior_log_variance_clipped).all()


@pytest.mark.parametrize("spacing", ["ddim300", "ddim", "ddim0", "many", "0,0", "1001", "10,2000"])
def test_impossible_spacings_are_refused(spacing):
    with pytest.raises(UserError):
        space_timesteps(1000, spacing)


def test_a_typo_is_answered():
    with pytest.raises(UserError, match="cosine"):
        named_schedule("cosin", 10)
    with pytest.raises(UserError, match="learned_range"):
        GaussianDiffusion(named_schedule("linear", 30), var_type="learned_rang")


MEANS = ("epsilon", "start_x", "previous_x")


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("kind", ["", ".noclip", ".dynamic"])
def test_one_step_of_each_mean(golden, mean, kind):
    z = golden("ddfm/step.npz")
    key = f"{mean}.learned_range{kind}"
    if f"{key}.mean" not in z.files:
        pytest.skip(f"no fixture {key}")
    short = named_schedule("linear", 1000).respaced(100)
    process = GaussianDiffusion(short, mean, "learned_range", kind != ".noclip", kind == ".dynamic")
    for i, k in enumerate(z["t"]):
        found = process.p_mean_variance(jt.array(z["model_output"]), jt.array(z["x"]), int(k))
        for name, value in (("mean", found.mean), ("pred_xstart", found.pred_x0)):
            expected = z[f"{key}.{name}"][i]
            np.testing.assert_allclose(
                value.numpy(),
                expected.reshape(value.shape),
                rtol=1e-5,
                atol=1e-5 * abs(expected).max(),
            )


@pytest.mark.parametrize("variance", ["learned", "learned_range", "fixed_small", "fixed_large"])
def test_one_step_of_each_variance(golden, variance):
    z = golden("ddfm/step.npz")
    process = GaussianDiffusion(named_schedule("linear", 1000).respaced(100), "epsilon", variance)
    for i, k in enumerate(z["t"]):
        if variance == "fixed_small" and k == 0:
            continue  # minus infinity there; ours is cut, and no noise is added at 0
        found = process.p_mean_variance(
            jt.array(z["model_output"]), jt.array(z["x"]), int(k)
        ).log_variance
        expected = z[f"{variance}.log_variance"][i]
        expected = np.broadcast_to(expected.reshape(-1, *expected.shape[-3:]), found.shape)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)
        variances = z[f"{variance}.variance"][i].reshape(-1, *z[f"{variance}.variance"].shape[-3:])
        variances = np.broadcast_to(variances, found.shape)
        np.testing.assert_allclose(np.exp(found.numpy()), variances, rtol=2e-5)


def test_halves_that_do_not_fit_are_refused():
    process = GaussianDiffusion(named_schedule("linear", 1000), var_type="learned_range")
    with pytest.raises(UserError, match="needs 6"):
        process.p_mean_variance(jt.zeros((1, 3, 2, 2)), jt.zeros((1, 3, 2, 2)), 0)


def test_noise_is_added_by_each_samples_own_step():
    s = named_schedule("linear", 1000)
    x_start, noise = jt.ones((2, 1, 1, 1)), jt.full((2, 1, 1, 1), 2.0)
    found = q_sample(x_start, np.array([0, 999]), noise, s).numpy().ravel()
    np.testing.assert_allclose(
        found,
        np.sqrt(s.alphas_cumprod[[0, 999]]) + 2 * np.sqrt(1 - s.alphas_cumprod[[0, 999]]),
        rtol=1e-6,
    )
