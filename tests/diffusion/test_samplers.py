"""The samplers of few steps against LFDT-Fusion's samplers on an analytic denoiser, and their orders."""

from __future__ import annotations

import numpy as np
import pytest

from jfusion.diffusion import samplers, schedule
from jfusion.diffusion.process import GaussianDiffusion, ModelPrediction
from jfusion.diffusion.samplers import ddim
from jfusion.diffusion.schedule import Schedule, Sigmas
from jfusion.runtime import jt


def table(steps, name):
    """LFDT-Fusion's noise table: float32, its own ends for Heun."""
    low, high = (8.5e-4, 0.012) if name == "Heun" else (1e-4, 0.02)
    return Schedule(np.linspace(low, high, steps, dtype=np.float32).astype(float), np.arange(steps))


SAMPLERS = {
    "ddp-solver": (samplers.dpm_solver_pp_2s, schedule.get_sigmas_linspace, {}),
    "ddp-solver++": (samplers.dpm_solver_pp_2m, schedule.get_sigmas_linspace, {}),
    "Deis": (samplers.deis, schedule.get_sigmas_linspace, {"rescale": "batch"}),
    "Unipc": (samplers.unipc, schedule.get_sigmas_linspace, {}),
    "Heun": (samplers.heun, schedule.get_sigmas_interpolated, {"keep_scaled": True}),
    "Euler": (samplers.euler, schedule.get_sigmas_interpolated, {"keep_scaled": True}),
    "LMS": (samplers.lms, schedule.get_sigmas_interpolated, {"keep_scaled": True}),
    "PNDM": (samplers.pndm, schedule.get_sigmas_pndm, {}),
}
IN_SIGMA = ("Heun", "Euler", "LMS")


def close(found, expected, name):
    scale = max(1e-6, np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5 * scale, err_msg=name)


def keep(seen):
    """A callback that keeps each step's index and state."""
    return lambda i, x, pred_x0: seen.append((i, x.numpy()))


class Denoiser:
    """The fixture's: a x + b t / 1000 P + c Q, as an estimate of x_0."""

    def __init__(self, z, sigmas):
        self.z, self.sigmas, self.inputs = z, sigmas, []

    def __call__(self, x, i):
        z, t = self.z, self.sigmas.timesteps[i]
        a, b, c = (float(v) for v in z["abc"])
        self.inputs.append(x.numpy())
        e = a * x + b * float(t) / 1000 * jt.array(z["P"]) + c * jt.array(z["Q"])
        pred_x0 = (x - float(self.sigmas.sigma_t[i]) * e) / float(self.sigmas.alpha_t[i])
        return ModelPrediction(pred_x0)


@pytest.mark.parametrize("name", SAMPLERS)
def test_solvers_follow_the_reference(golden, name):
    z = golden("lfdt/schedulers.npz")
    sample, get_sigmas, settings = SAMPLERS[name]
    for steps, count in z["grid"]:
        key = f"{name}/T{steps}_K{count}"
        if f"{key}/samples" not in z.files:
            assert name == "PNDM" and count < 4
            continue
        sigmas = get_sigmas(table(int(steps), name), int(count))
        second = sigmas.sigmas[1]
        if name in IN_SIGMA:
            x = z["x0"] + second * z["noise"]
        else:
            x = sigmas.alpha_t[1] * z["x0"] + sigmas.sigma_t[1] * z["noise"]
        denoiser, seen = Denoiser(z, sigmas), []
        x = jt.array(x.astype(np.float32))
        sample(
            denoiser,
            x,
            sigmas,
            callback=keep(seen),
            **settings,
        )
        close(np.stack([s for _, s in seen]), z[f"{key}/samples"], key)
        assert [k for k, _ in seen] == list(range(len(seen)))[::-1]
        if name != "Heun":
            np.testing.assert_allclose(sigmas.timesteps, z[f"{key}/timesteps"], rtol=1e-6)
        if f"{key}/model_in" in z.files:
            close(np.stack(denoiser.inputs), z[f"{key}/model_in"], key)


def test_ddim_is_the_one_of_the_references_schedule(golden):
    z = golden("lfdt/schedulers.npz")
    a, b, c = (float(v) for v in z["abc"])
    for steps, count in z["grid"]:
        key, full = f"DDIM/T{steps}_K{count}", table(int(steps), "DDIM")
        taken = np.arange(count) * (steps // count)
        before = np.append(1.0, full.alphas_cumprod[taken][:-1])
        short = Schedule(1 - full.alphas_cumprod[taken] / before, taken)
        np.testing.assert_array_equal(taken[::-1], z[f"{key}/timesteps"])
        alphas_cumprod = full.alphas_cumprod[z[f"{key}/noise_t"]].reshape(-1, 1, 1, 1)
        x = np.sqrt(alphas_cumprod) * z["x0"] + np.sqrt(1 - alphas_cumprod) * z["noise"]

        def network(x, t):
            return a * x + b * float(t[0]) / 1000 * jt.array(z["P"]) + c * jt.array(z["Q"])

        seen = []
        model = GaussianDiffusion(short, "epsilon", "fixed_small", clip_denoised=False).model(
            network
        )
        ddim(
            model,
            jt.array(x.astype(np.float32)),
            short,
            noise=None,
            callback=keep(seen),
        )
        close(np.stack([s for _, s in seen]), z[f"{key}/samples"], key)


class Gaussian:
    """The exact noise of data ~ N(0, v): what x carries at each level is known for all times."""

    def __init__(self, sigmas, variance=0.25):
        self.sigmas, self.variance = sigmas, variance

    def __call__(self, x, i):
        a, s = self.sigmas.alpha_t[i], self.sigmas.sigma_t[i]
        return ModelPrediction(x * float(a * self.variance / (a**2 * self.variance + s**2)))

    def exact(self, x, first, last):
        """x (variance preserving) at level `first`, carried along the flow to level `last`."""
        deviation = [
            np.sqrt(self.sigmas.alpha_t[i] ** 2 * self.variance + self.sigmas.sigma_t[i] ** 2)
            for i in (first, last)
        ]
        return x * deviation[1] / deviation[0]


def even_sigmas(count):
    """Equal distances in lambda, from sigma 10 to 0.1, in float64 throughout."""
    sigmas = np.exp(np.linspace(np.log(10.0), np.log(0.1), count + 1))
    return Sigmas(np.arange(count)[::-1].astype(float), sigmas, np.array([]))


@pytest.mark.parametrize(
    "sample, order",
    [
        (samplers.dpm_solver_pp_2m, 2),
        (samplers.dpm_solver_pp_2s, 2),
        (samplers.deis, 2),
        (samplers.unipc, 2),
        (samplers.euler, 1),
        (samplers.heun, 2),
        (samplers.lms, 3),  # fourth, but its first steps are of lower order
    ],
)
def test_the_order_of_convergence(sample, order):
    """Error against the number of steps, on data whose flow has a closed form."""
    errors = []
    counts = (16, 32) if order == 3 else (32, 64)
    with jt.flag_scope(auto_convert_64_to_32=0):
        for count in counts:
            sigmas = even_sigmas(count)
            model, start = Gaussian(sigmas), np.full((1, 1, 1, 1), 0.7)
            in_sigma = sample in (samplers.euler, samplers.heun, samplers.lms)
            x = start / sigmas.alpha_t[0] if in_sigma else start
            found = sample(model, jt.array(x), sigmas).numpy()
            expected = model.exact(start, 0, -1)
            if in_sigma:
                expected = expected / sigmas.alpha_t[-1]
            errors.append(abs(found - expected).max())
    rate = np.log2(errors[0] / errors[1])
    assert order - 0.35 < rate < order + 1.2


def test_pndm_converges_in_third_order():
    """Fourth order between three Runge-Kutta steps at the noisy end, which are of lower order."""
    errors, full = [], table(4000, "PNDM")
    with jt.flag_scope(auto_convert_64_to_32=0):
        for count in (20, 40):
            sigmas = schedule.get_sigmas_pndm(full, count)
            model, start = Gaussian(sigmas), np.full((1, 1, 1, 1), 0.7)
            found = samplers.pndm(model, jt.array(start), sigmas).numpy()
            errors.append(abs(found - model.exact(start, 0, -1)).max())
    rate = np.log2(errors[0] / errors[1])
    assert rate > 2.6
