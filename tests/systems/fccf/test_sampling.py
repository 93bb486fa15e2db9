"""Diff-FCCF's noise schedule and staged inference, against the authors' numbers."""

from __future__ import annotations

import numpy as np
import pytest

from jfusion.data import color
from jfusion.data.h5 import Pair
from jfusion.diffusion.process import q_sample
from jfusion.diffusion.schedule import named_schedule, rounded
from jfusion.runtime import jt
from jfusion.systems.base import floor_to_uint8
from jfusion.systems.fccf import sampling
from jfusion.systems.fccf.channels import ColorChannel, color_channel
from jfusion.systems.fccf.config import GROUPS, INFERENCE_REGIONS, Config
from jfusion.systems.fccf.sampling import StagedSampler, noise_schedule, posterior
from tests.systems.fccf.golden import CHANNELS, arrays, close, probe, sources, sources256


@pytest.mark.parametrize(
    "kind, steps", [("cosine", 2000), ("cosine", 9), ("linear", 2000), ("linear", 90)]
)
def test_schedules_are_rounded_as_the_reference_rounds_them(golden, kind, steps):
    z = arrays(golden, "schedule")
    config = Config(noise_schedule=kind, train_timesteps=steps)
    made = noise_schedule(config)
    at = z["index"] if steps == 2000 else slice(None)
    for theirs, ours in {
        "betas": made.betas,
        "alphas": 1 - made.betas,
        "alphas_cumprod": made.alphas_cumprod,
        "alphas_cumprod_prev": made.alphas_cumprod_prev,
        "sqrt_recip_alphas_cumprod": made.sqrt_recip_alphas_cumprod,
        "sqrt_recipm1_alphas_cumprod": made.sqrt_recipm1_alphas_cumprod,
        "posterior_variance": made.posterior_variance,
        "posterior_mean_coef1": made.posterior_mean_coef1,
        "posterior_mean_coef2": made.posterior_mean_coef2,
    }.items():
        close(ours[at], z[f"{kind}{steps}_{theirs}"], 3e-7, theirs)
        assert (ours.dtype == np.float32) == (kind == "cosine"), theirs
    if kind == "cosine":
        close(
            made.posterior_log_variance_clipped[at],
            z[f"cosine{steps}_posterior_log_variance_clipped"],
            3e-7,
        )


def test_noising_and_the_step_back(golden):
    z = arrays(golden, "schedule")
    steps = rounded(named_schedule("cosine", 2000))
    for x, q in (("x1", "q1"), ("x2", "q2")):
        close(q_sample(jt.array(z[x]), z["t"], jt.array(z["noise"]), steps), z[q], 1e-6)
    for i, k in enumerate(z["t"]):
        clean = (
            steps.sqrt_recip_alphas_cumprod[k] * z["x1"][i]
            - steps.sqrt_recipm1_alphas_cumprod[k] * z["noise"][i]
        )
        mean = (
            steps.posterior_mean_coef1[k] * z["x2"][i] + steps.posterior_mean_coef2[k] * z["x1"][i]
        )
        close(mean, z["post_mean"][i], 1e-6)
        assert abs(clean - z["x0"][i]).max() <= 1e-6 * abs(z["x0"]).max()


def sampler_of(system, group):
    return StagedSampler(system.network, system.config, group)


def test_stages_of_the_conditions(golden, make):
    z = arrays(golden, "schedule")
    one = np.full((1, 1, 8, 8), 1.0, np.float32)
    channel = ColorChannel(0, one, 2 * one, one, 2 * one, one, 1.0)
    for steps, stage in ((2000, z["stage2000"]), (9, z["stage_small"])):
        sampler = sampler_of(make(train_timesteps=steps), "pet")
        for t in range(0, steps, 1 if steps == 9 else 37):
            first, second = (x.numpy().max() for x in sampler.conditions([channel], t))
            assert (first, second) == {1: (2, 2), 2: (1, 2), 3: (1, 1)}[int(stage[t])], t


def test_values_become_8_bits_as_the_authors_write_them(golden):
    z = arrays(golden, "color")
    cut = floor_to_uint8((np.clip(z["tensor2img_in"], -1, 1) + 1) / 2)
    assert abs(cut.astype(int) - z["tensor2img_out"]).max() <= 1
    assert (cut == z["tensor2img_out"]).mean() > 0.99


def channel_of_the_batch(golden, number, group):
    """The channel with the regions of the whole batch, as the fixture has them."""
    return color_channel(number, *sources(golden, group), INFERENCE_REGIONS[group])


@pytest.mark.parametrize("group", GROUPS)
def test_staged_inference(golden, make, group):
    z = arrays(golden, "sampling")
    system = make(group=group, train_timesteps=int(z["T"]))
    start = np.concatenate(list(z["z_q"].astype(np.float32) / 32), 1)
    schedule, field = noise_schedule(system.config), []

    class WithField(StagedSampler):
        """Carries the field that the published sampling carries."""

        def run_network(self, channels, x, t):
            output = super().run_network(channels, x, t)
            field.append(posterior(field[-1], output.noise, x[:, 1:2], t, schedule)[1])
            return output

    sampler = WithField(system.network, system.config, group)
    for number in CHANNELS:
        channel, trace = channel_of_the_batch(golden, number, group), []
        key = f"{group}_{number}"
        field[:] = [jt.zeros((2, 2, 64, 64))]

        def watch(i, x, pred_x0, trace=trace):
            v = x.numpy().astype(float)
            # the fused chain first, the field last
            order = (v[:, 2], v[:, 0], v[:, 1], field[-1].numpy().astype(float))
            trace.append([u(c) for c in order for u in (np.mean, lambda c: c.std(ddof=1))])

        with jt.no_grad():
            final = sampler.sample([channel], jt.array(start), watch).numpy()
        close(final[:, :, ::2, ::2], z[f"{key}_final"], 5e-3, key)
        close(probe(final, 256), z[f"{key}_probe"], 5e-3, key)
        assert abs(np.array(trace) - z[f"{key}_trace"][:, 3:]).max() < 1e-4, key


def test_added_noise(golden, make):
    z = arrays(golden, "sampling")
    sampler = sampler_of(make(group="pet", train_timesteps=3, add_noise=True), "pet")
    start = np.concatenate(list(z["z_q"].astype(np.float32) / 32), 1)
    maps = iter(z["step_z_q"].astype(np.float32) / 32)
    with jt.no_grad():
        final = sampler.sample(
            [channel_of_the_batch(golden, 0, "pet")],
            jt.array(start),
            noise=lambda i: jt.array(next(maps)),
        )
    close(final.numpy()[:, :, ::2, ::2], z["addnoise_T3_pet_0_final"], 5e-3)


def test_single_steps_back(golden, make):
    z = arrays(golden, "sampling")
    system = make(group="spect")
    sampler, schedule = sampler_of(system, "spect"), noise_schedule(system.config)
    s, f = (x[:1] for x in sources(golden, "spect"))
    chains = (z[f"single_{k}_q"].astype(np.float32) / 32 for k in ("xt1", "xt2", "xt"))
    x = jt.array(np.concatenate(list(chains), 1))
    for i in map(int, z["single_i"]):
        for number in CHANNELS:
            own, sign = f[:, number : number + 1], INFERENCE_REGIONS["spect"][number - 1].sign
            channel = ColorChannel(number, s, own, s, own, np.ones_like(s), sign if number else 1.0)
            with jt.no_grad():
                mean = sampler.predict([channel], x, i, schedule).mean.numpy()
                noise = sampler.run_network([channel], x, i).noise
                d = jt.array(z["single_dv_q"].astype(np.float32) / 32)
                field = posterior(d, noise, x[:, 1:2], i, schedule)[1].numpy()
            for name, chain in (("x1", 0), ("x2", 1), ("x", 2)):
                key = f"single_{i}_{number}_{name}"
                close(mean[:, chain : chain + 1, ::8, ::8], z[key], 1e-4, key)
            key = f"single_{i}_{number}_dv"
            close(field[:, :, ::8, ::8], z[key], 1e-4, key)


def test_a_fused_image_is_that_of_the_authors(golden, make, monkeypatch):
    z, sources_of = arrays(golden, "sampling"), arrays(golden, "inputs")
    system = make("", train_timesteps=6)
    rgb = color.from_ycrcb(sources_of["ycrcb256"][0])
    s, f = (x / 2 + 0.5 for x in sources256(golden))
    maps = iter(list(z["d256_z_q"].astype(np.float32) / 32) * 3)
    monkeypatch.setattr(
        sampling.TorchNoise, "normal", lambda self, shape: next(maps).reshape(shape)
    )
    with jt.no_grad():
        fused = system.fuse(jt.array(s), jt.array(f)).numpy()
    for number in CHANNELS:
        expected = z[f"d256_{number}_final"]
        inside = abs(expected) < 1  # ours is clamped to the range
        found = (2 * fused[:, number : number + 1] - 1)[:, :, ::4, ::4]
        assert abs(found - expected)[inside].max() <= 5e-3 * abs(expected).max()
    gray = sources_of["gray256"][0].astype(np.float32)[None] / 255
    image = system.postprocess(fused[0], Pair("x", gray, gray, None, None, rgb, "b")).image
    assert abs(image[::2, ::2, ::-1].astype(int) - z["d256_fused_bgr"]).max() <= 4
