"""The few-step solvers against LFDT-Fusion's samplers on an analytic denoiser, and their orders."""

from __future__ import annotations

import numpy as np
import pytest

from jfusion.diffusion import solvers
from jfusion.diffusion.process import Estimate, Process
from jfusion.diffusion.samplers import ddim
from jfusion.diffusion.schedule import Schedule
from jfusion.runtime import jt


def table(steps, name):
    """LFDT-Fusion's noise table: float32, its own ends for Heun."""
    low, high = (8.5e-4, 0.012) if name == "Heun" else (1e-4, 0.02)
    return Schedule(np.linspace(low, high, steps, dtype=np.float32).astype(float), np.arange(steps))


SOLVERS = {
    "ddp-solver": (solvers.dpm_solver_pp_2s, solvers.whole_levels, {}),
    "ddp-solver++": (solvers.dpm_solver_pp_2m, solvers.whole_levels, {}),
    "Deis": (solvers.deis, solvers.whole_levels, {"rescale": "batch"}),
    "Unipc": (solvers.unipc, solvers.whole_levels, {}),
    "Heun": (solvers.heun, solvers.fractional_levels, {"replace": True}),
    "Euler": (solvers.euler, solvers.fractional_levels, {"replace": True}),
    "LMS": (solvers.lms, solvers.fractional_levels, {"replace": True}),
    "PNDM": (solvers.pndm, solvers.pndm_levels, {}),
}
IN_SIGMA = ("Heun", "Euler", "LMS")


def close(found, expected, name):
    scale = max(1e-6, np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5 * scale, err_msg=name)


def keep(seen):
    """A callback that keeps each step's index and state."""
    return lambda k, x, clean: seen.append((k, x.numpy()))


class Denoiser:
    """The fixture's: a x + b t / 1000 P + c Q, as a clean estimate."""

    def __init__(self, z, levels):
        self.z, self.levels, self.inputs = z, levels, []

    def __call__(self, x, k):
        z, t = self.z, self.levels.times[k]
        a, b, c = (float(v) for v in z["abc"])
        self.inputs.append(x.numpy())
        e = a * x + b * float(t) / 1000 * jt.array(z["P"]) + c * jt.array(z["Q"])
        clean = (x - float(self.levels.s[k]) * e) / float(self.levels.alpha[k])
        return Estimate(clean, None, None)


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_follow_the_reference(golden, name):
    z = golden("lfdt/schedulers.npz")
    solve, levels_of, settings = SOLVERS[name]
    for steps, count in z["grid"]:
        key = f"{name}/T{steps}_K{count}"
        if f"{key}/samples" not in z.files:
            assert name == "PNDM" and count < 4
            continue
        levels = levels_of(table(int(steps), name), int(count))
        second = levels.sigmas[1]
        if name in IN_SIGMA:
            x = z["x0"] + second * z["noise"]
        else:
            x = levels.alpha[1] * z["x0"] + levels.s[1] * z["noise"]
        denoiser, seen = Denoiser(z, levels), []
        x = jt.array(x.astype(np.float32))
        solve(
            denoiser,
            x,
            levels,
            callback=keep(seen),
            **settings,
        )
        close(np.stack([s for _, s in seen]), z[f"{key}/samples"], key)
        assert [k for k, _ in seen] == list(range(len(seen)))[::-1]
        if name != "Heun":
            np.testing.assert_allclose(levels.times, z[f"{key}/timesteps"], rtol=1e-6)
        if f"{key}/model_in" in z.files:
            close(np.stack(denoiser.inputs), z[f"{key}/model_in"], key)


def test_ddim_is_the_one_of_the_references_schedule(golden):
    z = golden("lfdt/schedulers.npz")
    a, b, c = (float(v) for v in z["abc"])
    for steps, count in z["grid"]:
        key, full = f"DDIM/T{steps}_K{count}", table(int(steps), "DDIM")
        taken = np.arange(count) * (steps // count)
        before = np.append(1.0, full.abar[taken][:-1])
        short = Schedule(1 - full.abar[taken] / before, taken)
        np.testing.assert_array_equal(taken[::-1], z[f"{key}/timesteps"])
        abar = full.abar[z[f"{key}/noise_t"]].reshape(-1, 1, 1, 1)
        x = np.sqrt(abar) * z["x0"] + np.sqrt(1 - abar) * z["noise"]

        def network(x, t):
            return a * x + b * float(t[0]) / 1000 * jt.array(z["P"]) + c * jt.array(z["Q"])

        seen = []
        model = Process(short, "epsilon", "fixed_small", clip=False).model(network)
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

    def __init__(self, levels, variance=0.25):
        self.levels, self.variance = levels, variance

    def __call__(self, x, k):
        a, s = self.levels.alpha[k], self.levels.s[k]
        return Estimate(x * float(a * self.variance / (a**2 * self.variance + s**2)), None, None)

    def exact(self, x, first, last):
        """x (variance preserving) at level `first`, carried along the flow to level `last`."""
        deviation = [
            np.sqrt(self.levels.alpha[i] ** 2 * self.variance + self.levels.s[i] ** 2)
            for i in (first, last)
        ]
        return x * deviation[1] / deviation[0]


def even_levels(count):
    """Equal distances in lambda, from sigma 10 to 0.1, in float64 throughout."""
    sigmas = np.exp(np.linspace(np.log(10.0), np.log(0.1), count + 1))
    return solvers.Levels(np.arange(count)[::-1].astype(float), sigmas, np.array([]))


@pytest.mark.parametrize(
    "solve, order",
    [
        (solvers.dpm_solver_pp_2m, 2),
        (solvers.dpm_solver_pp_2s, 2),
        (solvers.deis, 2),
        (solvers.unipc, 2),
        (solvers.euler, 1),
        (solvers.heun, 2),
        (solvers.lms, 3),  # fourth, but its first steps are of lower order
    ],
)
def test_the_order_of_convergence(solve, order):
    """Error against the number of steps, on data whose flow has a closed form."""
    errors = []
    counts = (16, 32) if order == 3 else (32, 64)
    with jt.flag_scope(auto_convert_64_to_32=0):
        for count in counts:
            levels = even_levels(count)
            model, start = Gaussian(levels), np.full((1, 1, 1, 1), 0.7)
            in_sigma = solve in (solvers.euler, solvers.heun, solvers.lms)
            x = start / levels.alpha[0] if in_sigma else start
            found = solve(model, jt.array(x), levels).numpy()
            expected = model.exact(start, 0, -1)
            if in_sigma:
                expected = expected / levels.alpha[-1]
            errors.append(abs(found - expected).max())
    rate = np.log2(errors[0] / errors[1])
    assert order - 0.35 < rate < order + 1.2


def test_pndm_converges_in_third_order():
    """Fourth order between three Runge-Kutta steps at the noisy end, which are of lower order."""
    errors, schedule = [], table(4000, "PNDM")
    with jt.flag_scope(auto_convert_64_to_32=0):
        for count in (20, 40):
            levels = solvers.pndm_levels(schedule, count)
            model, start = Gaussian(levels), np.full((1, 1, 1, 1), 0.7)
            found = solvers.pndm(model, jt.array(start), levels).numpy()
            errors.append(abs(found - model.exact(start, 0, -1)).max())
    rate = np.log2(errors[0] / errors[1])
    assert rate > 2.6
