"""Samplers: from noise to an image, one function each, all of one signature.

    sample(model, x, timesteps, *, noise, callback=None) -> x_0

model(x, k) -> Estimate, for instance `Process.model`; what corrects the clean estimate (DDFM's EM
step) is a model around a model. x (N, C, H, W): the noise to start from. timesteps: the Schedule that
is walked down, from its last index to 0. noise(k) -> (N, C, H, W): the fresh noise of step k.
callback(k, x, clean): called after each step with the step's index, the new x and the clean estimate;
progress bars, recordings and previews are callbacks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jfusion.diffusion.process import Estimate
from jfusion.diffusion.schedule import Schedule
from jfusion.runtime import jt

Model = Callable[[jt.Var, int], Estimate]
Noise = Callable[[int], jt.Var]
Callback = Callable[[int, jt.Var, jt.Var], None]


def ddim(
    model: Model,
    x: jt.Var,
    timesteps: Schedule,
    *,
    noise: Noise,
    callback: Callback | None = None,
    eta: float = 0.0,
) -> jt.Var:
    """DDIM, equation 12: deterministic for eta 0, where no noise is drawn; eta 1 is nearly DDPM."""
    one = np.float32(1)
    for k in reversed(range(len(timesteps))):
        found = model(x, k)
        clean, x = found.clean, x if found.x is None else found.x
        abar, before = np.float32(timesteps.abar[k]), np.float32(timesteps.abar_before[k])
        sigma = (
            np.float32(eta) * np.sqrt((one - before) / (one - abar)) * np.sqrt(one - abar / before)
        )
        of_x, of_noise = (
            np.float32(v[k]) for v in (timesteps.clean_from_x, timesteps.clean_from_noise)
        )
        direction = (float(of_x) * x - clean) / float(of_noise)
        x = float(np.sqrt(before)) * clean + float(np.sqrt(one - before - sigma**2)) * direction
        if eta and k:
            x = x + float(sigma) * noise(k)
        _told(callback, k, x, clean)
    return x


def ddpm(
    model: Model,
    x: jt.Var,
    timesteps: Schedule,
    *,
    noise: Noise,
    callback: Callback | None = None,
) -> jt.Var:
    """Ancestral sampling (DDPM, algorithm 2): the model's mean, and noise of its variance but at 0."""
    for k in reversed(range(len(timesteps))):
        clean, mean, log_variance, _ = model(x, k)
        x = mean + jt.exp(0.5 * log_variance) * noise(k) if k else mean
        _told(callback, k, x, clean)
    return x


def _told(callback: Callback | None, k: int, x: jt.Var, clean: jt.Var) -> None:
    """Computes the step, so that Jittor's graph does not grow, and reports it."""
    jt.sync([x])
    if callback is not None:
        callback(k, x, clean)


SAMPLERS = {"ddim": ddim, "ddpm": ddpm}
