"""Samplers that solve the probability-flow equation in few steps, of the signature of `samplers`.

    solve(model, x, timesteps, *, noise=None, callback=None) -> x_0

model(x, k) -> Estimate, of which only `clean` counts: the noise is e = (x - alpha clean) / s. timesteps:
`Levels`, whose index k counts from the noisiest, 0. noise is not drawn: they are deterministic.
callback(k, x, clean) is called after each call of the model, with k counting down to 0. alpha, s and
lam = -log sigma are those of the level, sigma = s / alpha.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jfusion.diffusion.samplers import Callback, Model, Noise
from jfusion.diffusion.schedule import Schedule
from jfusion.runtime import jt

LOW_ORDER_AT_END = 15  # with fewer steps, multistep solvers take the last one in first order


@dataclass(frozen=True)
class Levels:
    """times (K,): what the network sees, descending. sigmas (K + 1,): with the level at the end.

    abar (T,): the whole table, for the solver that steps between its own times (PNDM).
    """

    times: np.ndarray
    sigmas: np.ndarray
    abar: np.ndarray

    def __len__(self) -> int:
        return len(self.times)

    @cached_property
    def alpha(self) -> np.ndarray:
        """How much of the clean image is in x at each level."""
        return 1 / np.sqrt(1 + self.sigmas**2)

    @cached_property
    def s(self) -> np.ndarray:
        """How much noise is in x at each level."""
        return self.sigmas * self.alpha

    @cached_property
    def lam(self) -> np.ndarray:
        """-log sigma, half of the log signal-to-noise ratio."""
        with np.errstate(divide="ignore"):
            return -np.log(self.sigmas)


def sigmas_of(schedule: Schedule) -> np.ndarray:
    """sqrt((1 - abar) / abar) at each step (T,)."""
    return np.sqrt((1 - schedule.abar) / schedule.abar)


def whole_levels(schedule: Schedule, steps: int) -> Levels:
    """Equal distances, rounded to whole steps; ends at the level of step 0, not at 0."""
    times = np.rint(np.linspace(0, len(schedule) - 1, steps + 1))[:0:-1].astype(int)
    table = sigmas_of(schedule)
    return Levels(times, np.append(table[times], table[0]), schedule.abar)


def fractional_levels(schedule: Schedule, steps: int) -> Levels:
    """Equal distances from the last step to the first, sigma interpolated; ends at 0."""
    times = np.linspace(0, len(schedule) - 1, steps)[::-1].astype(np.float32).astype(float)
    table = sigmas_of(schedule)
    sigmas = np.interp(times, np.arange(len(table)), table)
    return Levels(times, np.append(sigmas, 0.0), schedule.abar)


def pndm_levels(schedule: Schedule, steps: int) -> Levels:
    """Multiples of T // K; the three noisiest are each replaced by four Runge-Kutta calls."""
    base = np.arange(steps) * (len(schedule) // steps)
    half = len(schedule) // steps // 2
    times = []
    for b, after in zip(base[:-4:-1], base[-2:-5:-1], strict=True):
        times += [b, after + half, after + half, after]
    times += list(base[-4::-1])
    table = sigmas_of(schedule)
    return Levels(np.array(times), table[np.array(times)], schedule.abar)


def _noise_of(x: jt.Var, clean: jt.Var, levels: Levels, k: int) -> jt.Var:
    return (x - float(levels.alpha[k]) * clean) / float(levels.s[k])


def _first_order(x: jt.Var, clean: jt.Var, levels: Levels, k: int, to: int) -> jt.Var:
    """DPM-Solver++'s step from level k to level `to` with one clean estimate (equation 9)."""
    grown = math.expm1(levels.lam[k] - levels.lam[to])
    return float(levels.s[to] / levels.s[k]) * x - float(levels.alpha[to] * grown) * clean


def dpm_solver_pp_2m(
    model: Model,
    x: jt.Var,
    timesteps: Levels,
    *,
    noise: Noise | None = None,
    callback: Callback | None = None,
) -> jt.Var:
    """DPM-Solver++ (2M), Lu et al. 2022, algorithm 2: multistep, second order."""
    lam, count, before = timesteps.lam, len(timesteps), None
    for k in range(count):
        clean = direction = model(x, k).clean
        if k and not _low_order(k, count):
            r = (lam[k] - lam[k - 1]) / (lam[k + 1] - lam[k])
            direction = clean + (clean - before) * float(0.5 / r)
        x = _first_order(x, direction, timesteps, k, k + 1)
        before = clean
        _told(callback, count, k, x, clean)
    return x


def dpm_solver_pp_2s(
    model: Model,
    x: jt.Var,
    timesteps: Levels,
    *,
    noise: Noise | None = None,
    callback: Callback | None = None,
) -> jt.Var:
    """DPM-Solver++ (2S), Lu et al. 2022, algorithm 1: pairs of calls, each pair a second-order step."""
    lam, count, start, before = timesteps.lam, len(timesteps), x, None
    for k in range(count):
        clean = model(x, k).clean
        if k % 2 == 0:
            start, before = x, clean
            x = _first_order(x, clean, timesteps, k, k + 1)
        else:
            r = (lam[k] - lam[k - 1]) / (lam[k + 1] - lam[k - 1])
            direction = before + (clean - before) * float(0.5 / r)
            x = _first_order(start, direction, timesteps, k - 1, k + 1)
        _told(callback, count, k, x, clean)
    return x


def deis(
    model: Model,
    x: jt.Var,
    timesteps: Levels,
    *,
    noise: Noise | None = None,
    callback: Callback | None = None,
    rescale: str = "off",
) -> jt.Var:
    """DEIS (log-rho, second order), Zhang and Chen 2023, equation 15.

    rescale: before each update, values outside [-1, 1] anywhere in the "batch", as in LFDT-Fusion's
    copy, or in an "image", stretch all of it to [-1, 1]; "off": never.
    """
    sigma, alpha, count, before = timesteps.sigmas, timesteps.alpha, len(timesteps), None
    for k in range(count):
        clean = model(x, k).clean
        e = _noise_of(x, clean, timesteps, k)
        if rescale != "off":
            x = (
                _into_range(x)
                if rescale == "batch"
                else jt.concat([_into_range(v) for v in x.split(1)])
            )
        if not k or _low_order(k, count):
            grown = math.expm1(timesteps.lam[k + 1] - timesteps.lam[k])
            x = float(alpha[k + 1] / alpha[k]) * x - float(timesteps.s[k + 1] * grown) * e
        else:
            now, then = sigma[k], sigma[k - 1]
            c1 = _log_rho(sigma[k + 1], now, then) - _log_rho(now, now, then)
            c2 = _log_rho(sigma[k + 1], then, now) - _log_rho(now, then, now)
            moved = x * float(1 / alpha[k]) + e * float(c1) + before * float(c2)
            x = float(alpha[k + 1]) * moved
        before = e
        _told(callback, count, k, x, clean)
    return x


def _log_rho(rho: float, b: float, c: float) -> float:
    """The antiderivative of the linear basis in log rho that is 1 at b and 0 at c."""
    return rho * (math.log(rho) - math.log(c) - 1) / (math.log(b) - math.log(c))


def _into_range(x: jt.Var) -> jt.Var:
    low, high = x.min(), x.max()
    if low.item() >= -1 and high.item() <= 1:
        return x
    return 2 * (x - low) / (high - low) - 1


def unipc(
    model: Model,
    x: jt.Var,
    timesteps: Levels,
    *,
    noise: Noise | None = None,
    callback: Callback | None = None,
) -> jt.Var:
    """UniPC (second order, B2), Zhao et al. 2023: each call first corrects the step before it."""
    t, count = timesteps, len(timesteps)
    cleans, start, order = [], None, 0
    for k in range(count):
        clean = model(x, k).clean
        if k:
            x = _corrected(start, clean, cleans, t, k, order)
        start, order = x, min(2, count - k, k + 1)
        cleans = [*cleans[-1:], clean]
        h = t.lam[k + 1] - t.lam[k]
        x = _first_order(start, clean, t, k, k + 1)
        if order == 2:
            r = (t.lam[k - 1] - t.lam[k]) / h
            weight = 0.5 * t.alpha[k + 1] * math.expm1(-h) / r
            x = x - float(weight) * (cleans[0] - clean)
        _told(callback, count, k, x, clean)
    return x


def _corrected(
    start: jt.Var, clean: jt.Var, cleans: list[jt.Var], t: Levels, k: int, order: int
) -> jt.Var:
    """UniC: the step to level k again, now with the estimate there."""
    h = t.lam[k] - t.lam[k - 1]
    grown, before = math.expm1(-h), cleans[-1]
    x = _first_order(start, before, t, k - 1, k)
    if order == 1:
        return x - float(0.5 * t.alpha[k] * grown) * (clean - before)
    r = (t.lam[k - 2] - t.lam[k - 1]) / h
    phi1 = grown / -h - 1
    phi2 = phi1 / -h - 0.5
    rho = np.linalg.solve([[1, 1], [r, 1]], [phi1 / grown, 2 * phi2 / grown])
    first, second = (float(t.alpha[k] * grown * v) for v in (rho[0] / r, rho[1]))
    return x - first * (cleans[-2] - before) - second * (clean - before)


def euler(
    model: Model,
    x: jt.Var,
    timesteps: Levels,
    *,
    noise: Noise | None = None,
    callback: Callback | None = None,
    replace: bool = False,
) -> jt.Var:
    """Euler's method in sigma (Karras et al. 2022, without churn); x is clean + sigma noise.

    replace: the input that is scaled for the network takes the place of x, as LFDT-Fusion's does.
    """
    return _in_sigma(model, x, timesteps, callback, replace, lambda es, k: [(1.0, es[-1])])


def lms(
    model: Model,
    x: jt.Var,
    timesteps: Levels,
    *,
    noise: Noise | None = None,
    callback: Callback | None = None,
    replace: bool = False,
) -> jt.Var:
    """Linear multistep in sigma, up to fourth order (Adams-Bashforth); x and replace as `euler`."""
    sigmas = timesteps.sigmas

    def slopes(es: list[jt.Var], k: int) -> list[tuple[float, jt.Var]]:
        count, step = min(k + 1, 4), sigmas[k + 1] - sigmas[k]
        weights = [_adams(sigmas, k, j, count) / step for j in range(count)]
        return list(zip(weights, es[::-1][:count], strict=True))

    return _in_sigma(model, x, timesteps, callback, replace, slopes)


def _adams(sigmas: np.ndarray, k: int, j: int, count: int) -> float:
    """The integral over the step of the Lagrange polynomial of the slope j steps back."""
    basis = np.poly1d([1.0])
    for other in range(count):
        if other != j:
            root, own = sigmas[k - other], sigmas[k - j]
            basis *= np.poly1d([1.0, -root]) / (own - root)
    whole = basis.integ()
    return whole(sigmas[k + 1]) - whole(sigmas[k])


def _in_sigma(
    model: Model,
    x: jt.Var,
    t: Levels,
    callback: Callback | None,
    replace: bool,
    slopes: Callable[[list[jt.Var], int], list[tuple[float, jt.Var]]],
) -> jt.Var:
    es, count = [], len(t)
    for k in range(count):
        scaled = x * float(t.alpha[k])
        clean = model(scaled, k).clean
        es = [*es[-3:], _noise_of(scaled, clean, t, k)]
        x = scaled if replace else x
        step = t.sigmas[k + 1] - t.sigmas[k]
        for weight, e in slopes(es, k):
            x = x + float(weight * step) * e
        _told(callback, count, k, x, clean)
    return x


def heun(
    model: Model,
    x: jt.Var,
    timesteps: Levels,
    *,
    noise: Noise | None = None,
    callback: Callback | None = None,
    replace: bool = False,
) -> jt.Var:
    """Heun's method in sigma (Karras et al. 2022, algorithm 1 without churn); as `euler`."""
    t, count = timesteps, len(timesteps)
    calls, done = 2 * count - 1, 0
    for k in range(count):
        scaled = x * float(t.alpha[k])
        clean = model(scaled, k).clean
        first = _noise_of(scaled, clean, t, k)
        start = scaled if replace else x
        step = float(t.sigmas[k + 1] - t.sigmas[k])
        x = start + step * first
        _told(callback, calls, done, x, clean)
        done += 1
        if k == count - 1:
            break
        scaled = x * float(t.alpha[k + 1])
        clean = model(scaled, k + 1).clean
        second = _noise_of(scaled, clean, t, k + 1)
        x = start + 0.5 * step * (first + second)
        _told(callback, calls, done, x, clean)
        done += 1
    return x


def pndm(
    model: Model,
    x: jt.Var,
    timesteps: Levels,
    *,
    noise: Noise | None = None,
    callback: Callback | None = None,
) -> jt.Var:
    """PNDM (F-PNDM), Liu et al. 2022: three Runge-Kutta steps, then Adams-Bashforth, of equation 11."""
    times, abar, count = timesteps.times, timesteps.abar, len(timesteps)
    distance = int(times[12] - times[13]) if count > 13 else int(times[0] - times[3])
    half, history, es, start = distance // 2, [], [], x

    def moved(x: jt.Var, e: jt.Var, time: int, to: int) -> jt.Var:
        a, b = abar[time], abar[max(to, 0)]
        of_e = (b - a) / (a * math.sqrt(1 - b) + math.sqrt(a * (1 - a) * b))
        return float(math.sqrt(b / a)) * x - float(of_e) * e

    for k, time in enumerate(map(int, times)):
        clean = model(x, k).clean
        e = _noise_of(x, clean, timesteps, k)
        if k < 12:
            base = int(times[k - k % 4])
            if k % 4 == 0:
                start, es = x, []
                history.append(e)
            es.append(e)
            target = (base - half, base - distance + half, base - distance, base - distance)[k % 4]
            if k % 4 == 3:
                e = (es[0] + 2 * es[1] + 2 * es[2] + es[3]) / 6
            x = moved(start, e, base, target)
        else:
            history = [*history[-3:], e]
            now, first, second, third = history[::-1]
            mean = (55 * now - 59 * first + 37 * second - 9 * third) / 24
            x = moved(x, mean, time, time - distance)
        _told(callback, count, k, x, clean)
    return x


def _low_order(k: int, count: int) -> bool:
    return k == count - 1 and count < LOW_ORDER_AT_END


def _told(callback: Callback | None, count: int, k: int, x: jt.Var, clean: jt.Var) -> None:
    if callback is not None:
        callback(count - 1 - k, x, clean)
