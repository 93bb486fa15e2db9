"""DDFM's likelihood step: one EM iteration that ties the luminance to the two sources.

Zhao et al., ICCV 2023, algorithm 1; what the released code computes differs from the paper in
points that docs/ddfm.md lists. Notation of the paper: y = i - v, x = f - v, k the smoothed x, u its
differences, m and n the latent variances.
"""

from __future__ import annotations

import numpy as np

from jfusion.ops.kernels import call_kernel, use_kernel
from jfusion.ops.matmul import matmul
from jfusion.runtime import jt


class Likelihood:
    """The EM step, with the state that it carries from one diffusion step to the next.

    first, second (N, 1, H, W) in [-1, 1]: the sources (the code's I and V). lamb: the weight of the
    smoothness, rho: the penalty that splits it off. estimate: "paper" returns V + X', the paper's
    estimate; "released" I - X', its mirror image about the mean of the sources, as the released code does.
    After a step, `c`, `d` (the inverse variances), `h`, `f1`, `f2`, `tau_a`, `tau_b` can be looked at;
    the scales tau are of each sample (N, 1, 1, 1).
    """

    def __init__(
        self, first: jt.Var, second: jt.Var, lamb: float, rho: float, estimate: str = "released"
    ):
        self.first, self.second = first, second
        self.rho, self.shrink, self.estimate = rho, rho / (2 * lamb + rho), estimate
        n, _, height, width = first.shape
        self.tau_a = self.tau_b = jt.ones((n, 1, 1, 1))
        self.f1 = self.f2 = jt.zeros_like(first)
        self.smooth = Smoothing(height, width)

    def __call__(self, f: jt.Var) -> jt.Var:
        """Corrects f (N, 1, H, W), the luminance of the estimate of x_0; the shape stays."""
        kernel = use_kernel(f, self.first)
        before = self.f1, self.f2, self.tau_a, self.tau_b
        step = _expectation if kernel else expectation_reference
        self.c, self.d, rhs, self.tau_a, self.tau_b = step(f, self.first, self.second, *before)
        self.h = self.smooth(rhs)
        step = _maximization if kernel else maximization_reference
        sources = self.first, self.second
        out, self.f1, self.f2 = step(
            self.c, self.d, self.h, *sources, self.rho, self.shrink, self.estimate
        )
        jt.sync([self.tau_a, self.tau_b, self.f1, self.f2])
        return out


def expectation_reference(
    f: jt.Var,
    first: jt.Var,
    second: jt.Var,
    f1: jt.Var,
    f2: jt.Var,
    tau_a: jt.Var,
    tau_b: jt.Var,
) -> tuple[jt.Var, ...]:
    """E step: the inverse variances c and d, the right-hand side of the smoothing, and the scales for the next step."""
    x, rest = f - second, first - f
    d = jt.sqrt(2 / tau_b / (x * x + 1e-6))
    c = jt.sqrt(2 / tau_a / jt.maximum((rest + 1e-6) ** 2, 1e-24))
    d = jt.minimum(d, 2 * c)
    # the adjoint of the forward differences, on a torus
    rhs = rest + (_rolled(f1, 3) - f1) + (_rolled(f2, 2) - f2)
    new_a, new_b = (_mean(1 / (v + 1e-10)) + t / 2 for v, t in ((c, tau_a), (d, tau_b)))
    return c, d, rhs, new_a, new_b


def maximization_reference(
    c: jt.Var,
    d: jt.Var,
    h: jt.Var,
    first: jt.Var,
    second: jt.Var,
    rho: float,
    shrink: float,
    estimate: str,
) -> tuple[jt.Var, ...]:
    """M step after the smoothing: the corrected luminance, and the shrunken differences of h."""
    y = first - second
    x = (2 * c * y + rho * (y - h)) / (2 * c + 2 * d + rho)
    f1, f2 = shrink * difference_to_right(h), shrink * difference_below(h)
    return second + x if estimate == "paper" else first - x, f1, f2


def _expectation(f: jt.Var, *others: jt.Var) -> tuple[jt.Var, ...]:
    names = ("f", "first", "second", "f1", "f2", "tau_a", "tau_b")
    maps, scales = ("c", "d", "rhs"), ("new_tau_a", "new_tau_b")
    return call_kernel(
        "em_expectation(f_p, first_p, second_p, f1_p, f2_p, tau_a_p, tau_b_p, c_p, d_p, rhs_p, "
        "new_tau_a_p, new_tau_b_p, f_shape0, f_shape2, f_shape3)",
        dict(zip(names, (f, *others), strict=True)),
        {**dict.fromkeys(maps, f.shape), **dict.fromkeys(scales, (f.shape[0], 1, 1, 1))},
        cpu="em.h",
    )


def _maximization(
    c: jt.Var,
    d: jt.Var,
    h: jt.Var,
    first: jt.Var,
    second: jt.Var,
    rho: float,
    shrink: float,
    estimate: str,
) -> tuple[jt.Var, ...]:
    return call_kernel(
        "em_maximization(c_p, d_p, h_p, first_p, second_p, out_p, f1_p, f2_p, c_shape0*c_shape2, "
        'c_shape2, c_shape3, data["rho"], data["shrink"], data["paper"] != 0)',
        {"c": c, "d": d, "h": h, "first": first, "second": second},
        dict.fromkeys(("out", "f1", "f2"), c.shape),
        cpu="em.h",
        data={"rho": rho, "shrink": shrink, "paper": int(estimate == "paper")},
    )


class Smoothing:
    """Solves h + D^T D h = r, D the forward differences on a torus.

    D is diagonal in the Fourier domain, with the transfer functions exp(2 pi i v / W) - 1 and
    exp(2 pi i u / H) - 1.
    """

    def __init__(self, height: int, width: int):
        self.spectrum = (1 + _spectrum(height)[:, None] + _spectrum(width)).astype(np.float32)

    def __call__(self, r: jt.Var) -> jt.Var:
        """(N, 1, H, W) -> the same shape."""
        if not use_kernel(r):
            return self.reference(r)
        from scipy import fft

        size = r.shape[2:]
        half = fft.rfft2(r.numpy()) / self.spectrum[:, : size[1] // 2 + 1]
        return jt.array(fft.irfft2(half, size))

    def reference(self, r: jt.Var) -> jt.Var:
        """The same as products of matrices, which a GPU does too.

        D^T D is real and even in the Fourier domain, so cosines plus sines (Hartley) diagonalize it
        as well.
        """
        height, width = r.shape[2:]
        matrices = hartley(height), hartley(width)
        scale = jt.array(1 / (self.spectrum * height * width)).stop_grad()
        return _transformed(_transformed(r, *matrices) * scale, *matrices)


def _transformed(x: jt.Var, rows: jt.Var, columns: jt.Var) -> jt.Var:
    n, _, h, w = x.shape
    x = matmul(x.reshape(n * h, w), columns).reshape(n, h, w)
    return matmul(rows.broadcast((n, h, h)), x).reshape(n, 1, h, w)


def hartley(size: int) -> jt.Var:
    """cos(2 pi j k / size) + sin(2 pi j k / size), (size, size)."""
    index = np.arange(size)
    angle = 2 * np.pi * (index[:, None] * index % size) / size
    return jt.array((np.cos(angle) + np.sin(angle)).astype(np.float32)).stop_grad()


def _spectrum(size: int) -> np.ndarray:
    """|exp(2 pi i v / size) - 1|^2."""
    return 2 - 2 * np.cos(2 * np.pi * np.arange(size) / size)


def _rolled(x: jt.Var, axis: int) -> jt.Var:
    """Shifts x by one pixel along an axis of a torus."""
    if axis == 3:
        return jt.concat([x[:, :, :, -1:], x[:, :, :, :-1]], 3)
    return jt.concat([x[:, :, -1:], x[:, :, :-1]], 2)


def difference_to_right(x: jt.Var) -> jt.Var:
    """Subtracts from x its right neighbor, as if a column of zeros followed."""
    return jt.concat([x[:, :, :, :-1] - x[:, :, :, 1:], x[:, :, :, -1:]], 3)


def difference_below(x: jt.Var) -> jt.Var:
    """Subtracts from x its lower neighbor, as if a row of zeros followed."""
    return jt.concat([x[:, :, :-1] - x[:, :, 1:], x[:, :, -1:]], 2)


def _mean(x: jt.Var) -> jt.Var:
    """(N, 1, H, W) -> (N, 1, 1, 1), rows first: one long float32 sum loses digits."""
    return x.mean(3, keepdims=True).mean(2, keepdims=True)
