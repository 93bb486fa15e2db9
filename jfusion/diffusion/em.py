"""DDFM's likelihood step: one EM iteration that ties the luminance to the two sources.

Zhao et al., ICCV 2023, algorithm 1; what the released code computes differs from the paper in
points that docs/ddfm.md lists. Notation of the paper: y = i - v, x = f - v, k the smoothed x, u its
differences, m and n the latent variances.
"""

from __future__ import annotations

import numpy as np

from jfusion.layers.matmul import matmul
from jfusion.runtime import jt


class Likelihood:
    """The step, and what it carries from one diffusion step to the next.

    first, second (N, 1, H, W) in [-1, 1]: the sources (the code's I and V). lamb: the weight of the
    smoothness, rho: the penalty that splits it off. textbook: return V + X', the paper's estimate,
    and not I - X', its mirror image about the mean of the sources, which the released code returns.
    After a step, `c`, `d` (the inverse variances), `h`, `f1`, `f2`, `tau_a`, `tau_b` can be looked at;
    the scales tau are of each sample (N, 1, 1, 1).
    """

    def __init__(
        self, first: jt.Var, second: jt.Var, lamb: float, rho: float, textbook: bool = False
    ):
        self.first, self.second, self.textbook = first, second, textbook
        self.lamb, self.rho = lamb, rho
        n, _, height, width = first.shape
        self.tau_a = self.tau_b = jt.ones((n, 1, 1, 1))
        self.f1 = self.f2 = jt.zeros_like(first)
        self.smooth = Smoothing(height, width)

    def __call__(self, f: jt.Var) -> jt.Var:
        """f (N, 1, H, W), the luminance of the clean estimate -> the corrected one."""
        rho = self.rho
        y, x = self.first - self.second, f - self.second
        rest = y - x
        # E step: expectations of the inverse variances, then the scales, for the next step
        d = jt.sqrt(2 / self.tau_b / (x * x + 1e-6))
        c = jt.sqrt(2 / self.tau_a / jt.maximum((rest + 1e-6) ** 2, 1e-24))
        d = jt.minimum(d, 2 * c)
        self.tau_b = _mean(1 / (d + 1e-10)) + self.tau_b / 2
        self.tau_a = _mean(1 / (c + 1e-10)) + self.tau_a / 2
        # M step: the smooth part of y - x, its shrunken differences, and x
        h = self.smooth(rest, self.f1, self.f2)
        shrink = rho / (2 * self.lamb + rho)
        self.f1, self.f2 = shrink * to_the_right(h), shrink * downwards(h)
        x = (2 * c * y + rho * (y - h)) / (2 * c + 2 * d + rho)
        self.c, self.d, self.h = c, d, h
        jt.sync([self.tau_a, self.tau_b, self.f1, self.f2])
        return self.second + x if self.textbook else self.first - x


class Smoothing:
    """Minimises |h - r|^2 + |forward differences of h + (f1, f2)|^2 on a torus.

    The differences are diagonal in the Fourier domain, where the transfer functions are
    exp(2 pi i v / W) - 1 and exp(2 pi i u / H) - 1. Their conjugates are differences the other way, and
    what is left to divide by is real and even: cosines plus sines (Hartley) diagonalise it as well,
    so two real matrices do, on a CPU and on a GPU.
    """

    def __init__(self, height: int, width: int):
        self.rows, self.columns = hartley(height), hartley(width)
        spectrum = 1 + _spectrum(height)[:, None] + _spectrum(width)[None]
        self.inverse = jt.array((1 / (spectrum * height * width)).astype(np.float32)).stop_grad()

    def __call__(self, r: jt.Var, f1: jt.Var, f2: jt.Var) -> jt.Var:
        """Three (N, 1, H, W) -> (N, 1, H, W)."""
        right = r + (_rolled(f1, 3) - f1) + (_rolled(f2, 2) - f2)
        return self._transform(self._transform(right) * self.inverse)

    def _transform(self, x: jt.Var) -> jt.Var:
        n, _, h, w = x.shape
        x = matmul(x.reshape(n * h, w), self.columns).reshape(n, h, w)
        return matmul(self.rows.broadcast((n, h, h)), x).reshape(n, 1, h, w)


def hartley(size: int) -> jt.Var:
    """cos(2 pi j k / size) + sin(2 pi j k / size), (size, size)."""
    index = np.arange(size)
    angle = 2 * np.pi * (index[:, None] * index % size) / size
    return jt.array((np.cos(angle) + np.sin(angle)).astype(np.float32)).stop_grad()


def _spectrum(size: int) -> np.ndarray:
    """|exp(2 pi i v / size) - 1|^2."""
    return 2 - 2 * np.cos(2 * np.pi * np.arange(size) / size)


def _rolled(x: jt.Var, axis: int) -> jt.Var:
    """Moved by one; what falls off comes in at the other end."""
    if axis == 3:
        return jt.concat([x[:, :, :, -1:], x[:, :, :, :-1]], 3)
    return jt.concat([x[:, :, -1:], x[:, :, :-1]], 2)


def to_the_right(x: jt.Var) -> jt.Var:
    """x minus its right neighbour, as if a zero column followed."""
    return jt.concat([x[:, :, :, :-1] - x[:, :, :, 1:], x[:, :, :, -1:]], 3)


def downwards(x: jt.Var) -> jt.Var:
    """x minus its lower neighbour, as if a zero row followed."""
    return jt.concat([x[:, :, :-1] - x[:, :, 1:], x[:, :, -1:]], 2)


def _mean(x: jt.Var) -> jt.Var:
    """(N, 1, H, W) -> (N, 1, 1, 1), rows first: one long float32 sum loses digits."""
    return x.mean(3, keepdims=True).mean(2, keepdims=True)
