"""Parts of the released code that nothing uses, there or here; kept next to their golden numbers."""

from __future__ import annotations

import numpy as np


def pearson_loss(a: np.ndarray, b: np.ndarray) -> float:
    """The negative correlation of a and b (N, ...), mean over the images."""
    each = [np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in zip(a, b, strict=True)]
    return -float(np.mean(each))


def min_max_normalize(x: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Each image scaled to [-1, 1] by its extremes; values equal to its `kept` stay, a flat one gives 0.

    x (N, 1, H, W); kept (N,).
    """
    low, high = (f(x, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    scaled = 2 * (x - low) / np.maximum(high - low, np.float32(1e-30)) - 1
    scaled = np.where(high - low > 1e-5, scaled, 0)
    return np.where(x == kept.reshape(-1, 1, 1, 1), x, scaled).astype(np.float32)


def hessian_determinant(field: np.ndarray) -> np.ndarray:
    """The Hessian determinant of each component of a field (N, H, W, 2): (N, 2, H, W)."""
    f = np.moveaxis(field, 3, 1)
    d_rows, d_columns = np.gradient(f, axis=(2, 3))
    (yy, yx), (xy, xx) = (np.gradient(g, axis=(2, 3)) for g in (d_rows, d_columns))
    return xx * yy - xy * yx


class Balance:
    """The reward of loss terms that stay in balance with their running means."""

    START = {
        "noise": 10.0,
        "folding": 1e5,
        "smooth": 1e6,
        "fusion": 1e3,
        "quality": 1e4,
    }

    def __init__(self):
        self.running = dict(self.START)

    def reward(
        self, losses: dict[str, float], total: float, trends: tuple[float, ...] = ()
    ) -> float:
        """-ln(total) - 0.3 std(ratios) + 0.2, or -0.1 where the mean trend is steep."""
        for name, value in losses.items():
            self.running[name] = 0.95 * self.running[name] + 0.05 * value
        ratios = [value / (self.running[name] + 1e-8) for name, value in losses.items()]
        trend = abs(float(np.mean(trends))) if len(trends) else 0.0
        steady = 1.0 if trend < 0.1 else -0.5
        return float(-np.log(total + 1e-8) - 0.3 * np.std(ratios) + 0.2 * steady)
