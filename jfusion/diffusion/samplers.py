"""Samplers: from noise to an image, one function each, all of one signature.

    sampler(model, x, schedule, *, noise=None, callback=None) -> x_0

model(x, i) -> ModelPrediction, for instance `GaussianDiffusion.model`; what corrects the estimate of x_0
(DDFM's EM step) is a model around a model. x (N, C, H, W): the noise to start from. schedule: a `Schedule`,
used from its last index to 0 (ddim, ddpm), or `Sigmas`, used from index 0 on (the others, which solve the
probability-flow equation and read nothing but the prediction's `pred_x0`: eps = (x - α_t pred_x0) / σ_t).
i is an index of its arrays. noise(i) -> (N, C, H, W): fresh noise for step i, where a sampler draws some.
callback(remaining, x, pred_x0): called after each call of the model with the number of calls that remain,
down to 0, the new x and the estimate of x_0. Progress bars, recordings and previews are callbacks.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from jfusion.diffusion.process import ModelPrediction
from jfusion.diffusion.schedule import Schedule, Sigmas
from jfusion.runtime import jt

Model = Callable[[jt.Var, int], ModelPrediction]
Noise = Callable[[int], jt.Var]
Callback = Callable[[int, jt.Var, jt.Var], None]

FEW_STEPS = 15  # with fewer, multistep samplers take the last step in first order


def ddim(
    model: Model,
    x: jt.Var,
    schedule: Schedule,
    *,
    noise: Noise | None = None,
    callback: Callback | None = None,
    eta: float = 0.0,
) -> jt.Var:
    """DDIM, Song et al. 2021, equation 12: deterministic for eta 0, without noise; eta 1 is nearly DDPM."""
    one = np.float32(1)
    for i in reversed(range(len(schedule))):
        prediction = model(x, i)
        pred_x0, x = prediction.pred_x0, x if prediction.x is None else prediction.x
        alpha_cumprod, alpha_cumprod_prev = (
            np.float32(v[i]) for v in (schedule.alphas_cumprod, schedule.alphas_cumprod_prev)
        )
        sigma_t = (
            np.float32(eta)
            * np.sqrt((one - alpha_cumprod_prev) / (one - alpha_cumprod))
            * np.sqrt(one - alpha_cumprod / alpha_cumprod_prev)
        )
        recip, recipm1 = (
            np.float32(v[i])
            for v in (schedule.sqrt_recip_alphas_cumprod, schedule.sqrt_recipm1_alphas_cumprod)
        )
        eps = (float(recip) * x - pred_x0) / float(recipm1)
        x = (
            float(np.sqrt(alpha_cumprod_prev)) * pred_x0
            + float(np.sqrt(one - alpha_cumprod_prev - sigma_t**2)) * eps
        )
        if eta and i:
            x = x + float(sigma_t) * noise(i)
        run_callback(callback, i, x, pred_x0)
    return x


def ddpm(
    model: Model,
    x: jt.Var,
    schedule: Schedule,
    *,
    noise: Noise,
    callback: Callback | None = None,
) -> jt.Var:
    """Ancestral sampling (DDPM, algorithm 2): the model's mean, and noise of its variance but at step 0."""
    for i in reversed(range(len(schedule))):
        pred_x0, mean, log_variance, _ = model(x, i)
        x = mean + jt.exp(0.5 * log_variance) * noise(i) if i else mean
        run_callback(callback, i, x, pred_x0)
    return x


def dpm_solver_pp_2m(
    model: Model,
    x: jt.Var,
    schedule: Sigmas,
    *,
    noise: Noise | None = None,
    callback: Callback | None = None,
) -> jt.Var:
    """DPM-Solver++ (2M), Lu et al. 2022, algorithm 2: multistep, second order."""
    lambda_t, steps, pred_x0_prev = schedule.lambda_t, len(schedule), None
    for i in range(steps):
        pred_x0 = d = model(x, i).pred_x0
        if i and not _lower_order(i, steps):
            r = (lambda_t[i] - lambda_t[i - 1]) / (lambda_t[i + 1] - lambda_t[i])
            d = pred_x0 + (pred_x0 - pred_x0_prev) * float(0.5 / r)
        x = _first_order_step(x, d, schedule, i, i + 1)
        pred_x0_prev = pred_x0
        run_callback(callback, steps - 1 - i, x, pred_x0)
    return x


def dpm_solver_pp_2s(
    model: Model,
    x: jt.Var,
    schedule: Sigmas,
    *,
    noise: Noise | None = None,
    callback: Callback | None = None,
) -> jt.Var:
    """DPM-Solver++ (2S), Lu et al. 2022, algorithm 1: pairs of calls, each pair a second-order step."""
    lambda_t, steps, x_prev, pred_x0_prev = schedule.lambda_t, len(schedule), x, None
    for i in range(steps):
        pred_x0 = model(x, i).pred_x0
        if i % 2 == 0:
            x_prev, pred_x0_prev = x, pred_x0
            x = _first_order_step(x, pred_x0, schedule, i, i + 1)
        else:
            r = (lambda_t[i] - lambda_t[i - 1]) / (lambda_t[i + 1] - lambda_t[i - 1])
            d = pred_x0_prev + (pred_x0 - pred_x0_prev) * float(0.5 / r)
            x = _first_order_step(x_prev, d, schedule, i - 1, i + 1)
        run_callback(callback, steps - 1 - i, x, pred_x0)
    return x


def deis(
    model: Model,
    x: jt.Var,
    schedule: Sigmas,
    *,
    noise: Noise | None = None,
    callback: Callback | None = None,
    rescale: str = "off",
) -> jt.Var:
    """DEIS (log-rho, second order), Zhang and Chen 2023, equation 15.

    rescale: before each update, values outside [-1, 1] anywhere in the "batch", as in LFDT-Fusion's
    code, or in an "image", min-max normalize all of it to [-1, 1]; "off": never.
    """
    sigmas, alpha_t, steps, eps_prev = schedule.sigmas, schedule.alpha_t, len(schedule), None
    for i in range(steps):
        pred_x0 = model(x, i).pred_x0
        eps = _eps(x, pred_x0, schedule, i)
        if rescale == "batch":
            x = _rescaled(x)
        elif rescale == "image":
            x = jt.concat([_rescaled(image) for image in x.split(1)])
        if not i or _lower_order(i, steps):
            growth = math.expm1(schedule.lambda_t[i + 1] - schedule.lambda_t[i])
            x = (
                float(alpha_t[i + 1] / alpha_t[i]) * x
                - float(schedule.sigma_t[i + 1] * growth) * eps
            )
        else:
            rho, rho_prev, rho_next = sigmas[i], sigmas[i - 1], sigmas[i + 1]
            c1 = _log_rho(rho_next, rho, rho_prev) - _log_rho(rho, rho, rho_prev)
            c2 = _log_rho(rho_next, rho_prev, rho) - _log_rho(rho, rho_prev, rho)
            x = x * float(1 / alpha_t[i]) + eps * float(c1) + eps_prev * float(c2)
            x = float(alpha_t[i + 1]) * x
        eps_prev = eps
        run_callback(callback, steps - 1 - i, x, pred_x0)
    return x


def unipc(
    model: Model,
    x: jt.Var,
    schedule: Sigmas,
    *,
    noise: Noise | None = None,
    callback: Callback | None = None,
) -> jt.Var:
    """UniPC (second order, B2), Zhao et al. 2023: each call first corrects the step before it."""
    s, steps = schedule, len(schedule)
    history, x_prev, order = [], None, 0  # history: the last two pred_x0
    for i in range(steps):
        pred_x0 = model(x, i).pred_x0
        if i:
            x = _unic(x_prev, pred_x0, history, s, i, order)
        x_prev, order = x, min(2, steps - i, i + 1)
        history = [*history[-1:], pred_x0]
        h = s.lambda_t[i + 1] - s.lambda_t[i]
        x = _first_order_step(x_prev, pred_x0, s, i, i + 1)
        if order == 2:
            r = (s.lambda_t[i - 1] - s.lambda_t[i]) / h
            weight = 0.5 * s.alpha_t[i + 1] * math.expm1(-h) / r
            x = x - float(weight) * (history[0] - pred_x0)
        run_callback(callback, steps - 1 - i, x, pred_x0)
    return x


def _unic(
    x_prev: jt.Var, pred_x0: jt.Var, history: list[jt.Var], s: Sigmas, i: int, order: int
) -> jt.Var:
    """UniC, the corrector: the step to level i again, now with the estimate there."""
    h = s.lambda_t[i] - s.lambda_t[i - 1]
    growth, pred_x0_prev = math.expm1(-h), history[-1]
    x = _first_order_step(x_prev, pred_x0_prev, s, i - 1, i)
    if order == 1:
        return x - float(0.5 * s.alpha_t[i] * growth) * (pred_x0 - pred_x0_prev)
    r = (s.lambda_t[i - 2] - s.lambda_t[i - 1]) / h
    phi_1 = growth / -h - 1
    phi_2 = phi_1 / -h - 0.5
    rhos = np.linalg.solve([[1, 1], [r, 1]], [phi_1 / growth, 2 * phi_2 / growth])
    first, second = (float(s.alpha_t[i] * growth * v) for v in (rhos[0] / r, rhos[1]))
    return x - first * (history[-2] - pred_x0_prev) - second * (pred_x0 - pred_x0_prev)


def euler(
    model: Model,
    x: jt.Var,
    schedule: Sigmas,
    *,
    noise: Noise | None = None,
    callback: Callback | None = None,
    keep_scaled: bool = False,
) -> jt.Var:
    """Euler's method in sigma (Karras et al. 2022, without churn); x is x_0 + sigma ε.

    keep_scaled: the input that is scaled for the network takes the place of x, as in LFDT-Fusion's code.
    """
    return _multistep_in_sigma(
        model, x, schedule, callback, keep_scaled, lambda history, i: [(1.0, history[-1])]
    )


def lms(
    model: Model,
    x: jt.Var,
    schedule: Sigmas,
    *,
    noise: Noise | None = None,
    callback: Callback | None = None,
    keep_scaled: bool = False,
) -> jt.Var:
    """Linear multistep in sigma, up to fourth order (Adams-Bashforth); x and keep_scaled as in `euler`."""
    sigmas = schedule.sigmas

    def weighted(history: list[jt.Var], i: int) -> list[tuple[float, jt.Var]]:
        order, step = min(i + 1, 4), sigmas[i + 1] - sigmas[i]
        weights = [_adams_bashforth(sigmas, i, j, order) / step for j in range(order)]
        return list(zip(weights, history[::-1][:order], strict=True))

    return _multistep_in_sigma(model, x, schedule, callback, keep_scaled, weighted)


def heun(
    model: Model,
    x: jt.Var,
    schedule: Sigmas,
    *,
    noise: Noise | None = None,
    callback: Callback | None = None,
    keep_scaled: bool = False,
) -> jt.Var:
    """Heun's method in sigma (Karras et al. 2022, algorithm 1 without churn); as `euler`."""
    s, steps = schedule, len(schedule)
    remaining = 2 * steps - 1
    for i in range(steps):
        scaled = x * float(s.alpha_t[i])
        pred_x0 = model(scaled, i).pred_x0
        eps = _eps(scaled, pred_x0, s, i)
        x_prev = scaled if keep_scaled else x
        step = float(s.sigmas[i + 1] - s.sigmas[i])
        x = x_prev + step * eps
        remaining -= 1
        run_callback(callback, remaining, x, pred_x0)
        if i == steps - 1:  # the last level is 0, where there is no second call
            break
        scaled = x * float(s.alpha_t[i + 1])
        pred_x0 = model(scaled, i + 1).pred_x0
        eps_next = _eps(scaled, pred_x0, s, i + 1)
        x = x_prev + 0.5 * step * (eps + eps_next)
        remaining -= 1
        run_callback(callback, remaining, x, pred_x0)
    return x


def pndm(
    model: Model,
    x: jt.Var,
    schedule: Sigmas,
    *,
    noise: Noise | None = None,
    callback: Callback | None = None,
) -> jt.Var:
    """PNDM (F-PNDM), Liu et al. 2022: three Runge-Kutta steps, then Adams-Bashforth, of equation 11."""
    timesteps, steps = schedule.timesteps, len(schedule)
    distance = (
        int(timesteps[12] - timesteps[13]) if steps > 13 else int(timesteps[0] - timesteps[3])
    )
    half, history, stages, x_prev = distance // 2, [], [], x

    def transfer(x: jt.Var, eps: jt.Var, t: int, t_next: int) -> jt.Var:
        alpha_cumprod, alpha_cumprod_next = (
            schedule.alphas_cumprod[t],
            schedule.alphas_cumprod[max(t_next, 0)],
        )
        factor = (alpha_cumprod_next - alpha_cumprod) / (
            alpha_cumprod * math.sqrt(1 - alpha_cumprod_next)
            + math.sqrt(alpha_cumprod * (1 - alpha_cumprod) * alpha_cumprod_next)
        )
        return float(math.sqrt(alpha_cumprod_next / alpha_cumprod)) * x - float(factor) * eps

    for i, t in enumerate(map(int, timesteps)):
        pred_x0 = model(x, i).pred_x0
        eps = _eps(x, pred_x0, schedule, i)
        if i < 12:
            start = int(timesteps[i - i % 4])
            if i % 4 == 0:
                x_prev, stages = x, []
                history.append(eps)
            stages.append(eps)
            t_next = (start - half, start - distance + half, start - distance, start - distance)
            if i % 4 == 3:
                eps = (stages[0] + 2 * stages[1] + 2 * stages[2] + stages[3]) / 6
            x = transfer(x_prev, eps, start, t_next[i % 4])
        else:
            history = [*history[-3:], eps]
            e0, e1, e2, e3 = history[::-1]
            x = transfer(x, (55 * e0 - 59 * e1 + 37 * e2 - 9 * e3) / 24, t, t - distance)
        run_callback(callback, steps - 1 - i, x, pred_x0)
    return x


SAMPLERS = {
    "ddim": ddim,
    "ddpm": ddpm,
    "dpm_solver_pp_2m": dpm_solver_pp_2m,
    "dpm_solver_pp_2s": dpm_solver_pp_2s,
    "deis": deis,
    "unipc": unipc,
    "euler": euler,
    "lms": lms,
    "heun": heun,
    "pndm": pndm,
}


# ---- what they share ---------------------------------------------------------------------------


def run_callback(callback: Callback | None, remaining: int, x: jt.Var, pred_x0: jt.Var) -> None:
    """Reports a step. Where no gradient is kept, it computes x first, so that Jittor's graph stays small."""
    if jt.flags.no_grad:
        jt.sync([x])
    if callback is not None:
        callback(remaining, x, pred_x0)


def _eps(x: jt.Var, pred_x0: jt.Var, s: Sigmas, i: int) -> jt.Var:
    """The noise that an estimate of x_0 leaves of x, at level i."""
    return (x - float(s.alpha_t[i]) * pred_x0) / float(s.sigma_t[i])


def _first_order_step(x: jt.Var, pred_x0: jt.Var, s: Sigmas, i: int, i_next: int) -> jt.Var:
    """DPM-Solver++'s step from level i to level i_next with one estimate of x_0 (equation 9)."""
    growth = math.expm1(s.lambda_t[i] - s.lambda_t[i_next])
    return float(s.sigma_t[i_next] / s.sigma_t[i]) * x - float(s.alpha_t[i_next] * growth) * pred_x0


def _lower_order(i: int, steps: int) -> bool:
    return i == steps - 1 and steps < FEW_STEPS


def _log_rho(rho: float, b: float, c: float) -> float:
    """The antiderivative of the linear basis in log rho that is 1 at b and 0 at c."""
    return rho * (math.log(rho) - math.log(c) - 1) / (math.log(b) - math.log(c))


def _rescaled(x: jt.Var) -> jt.Var:
    low, high = x.min(), x.max()
    if low.item() >= -1 and high.item() <= 1:
        return x
    return 2 * (x - low) / (high - low) - 1


def _adams_bashforth(sigmas: np.ndarray, i: int, j: int, order: int) -> float:
    """The integral over step i of the Lagrange polynomial that is 1 at level i - j."""
    basis = np.poly1d([1.0])
    for other in range(order):
        if other != j:
            root = sigmas[i - other]
            basis *= np.poly1d([1.0, -root]) / (sigmas[i - j] - root)
    integral = basis.integ()
    return integral(sigmas[i + 1]) - integral(sigmas[i])


def _multistep_in_sigma(
    model: Model,
    x: jt.Var,
    s: Sigmas,
    callback: Callback | None,
    keep_scaled: bool,
    weighted: Callable[[list[jt.Var], int], list[tuple[float, jt.Var]]],
) -> jt.Var:
    """Steps along a weighted mean of the last four eps; weighted(history, i) -> weights and eps."""
    history, steps = [], len(s)
    for i in range(steps):
        scaled = x * float(s.alpha_t[i])
        pred_x0 = model(scaled, i).pred_x0
        history = [*history[-3:], _eps(scaled, pred_x0, s, i)]
        x = scaled if keep_scaled else x
        step = s.sigmas[i + 1] - s.sigmas[i]
        for weight, eps in weighted(history, i):
            x = x + float(weight * step) * eps
        run_callback(callback, steps - 1 - i, x, pred_x0)
    return x
