"""Diff-FCCF's regions, its statistics and the terms of its loss."""

from __future__ import annotations

import numpy as np

from jfusion.layers.losses import guided_fusion_losses
from jfusion.runtime import jt
from jfusion.systems.fccf.config import Region


def region_of(plane: np.ndarray, rule: Region) -> np.ndarray:
    """Where the rule holds, float32 of the plane's shape (N, 1, H, W); quantiles over all of it."""
    if rule.background:
        level = np.float32(rule.level) * plane[:, :, :1, 5:6]
    else:
        ordered = np.sort(plane, axis=None)
        level = ordered[int(rule.level * ordered.size)]
    return (plane >= level if rule.above else plane <= level).astype(np.float32)


def transferred(s: np.ndarray, f: np.ndarray, region: np.ndarray) -> np.ndarray:
    """S with f's mean and (unbiased) deviation inside the region, 0 outside; (N, 1, H, W).

    Where the region has less than two pixels there are no statistics, and s stays as it is.
    """
    inside = region > 0
    if inside.sum() < 2:
        return s * region
    (mean_s, std_s), (mean_f, std_f) = (
        (v[inside].mean(dtype=np.float64), v[inside].std(ddof=1, dtype=np.float64)) for v in (s, f)
    )
    return (region * ((s - mean_s) / (std_s + 1e-5) * std_f + mean_f)).astype(np.float32)


def restated(a: jt.Var, b: jt.Var, kept: jt.Var) -> jt.Var:
    """A with b's mean and (unbiased) deviation, image by image; values that equal `kept` stay.

    a, b (N, 1, H, W); kept (N, 1, 1, 1), compared exactly.
    """
    (mean_a, std_a), (mean_b, std_b) = (_statistics(v) for v in (a, b))
    moved = (a - mean_a) / (std_a + 1e-5) * std_b + mean_b
    same = (a == kept).float32().detach()
    return same * a + (1 - same) * moved


def _statistics(x: jt.Var) -> tuple[jt.Var, jt.Var]:
    """Mean and unbiased deviation of each image, (N, 1, 1, 1); of a constant one the slope is 0."""
    mean = x.mean(3, keepdims=True).mean(2, keepdims=True)
    centred = x - mean
    count = x.shape[2] * x.shape[3]
    variance = (centred * centred).mean(3, keepdims=True).mean(2, keepdims=True)
    return mean, jt.sqrt(jt.maximum(variance * (count / (count - 1)), 1e-30))


def mutual_information(a: np.ndarray, b: np.ndarray, bins: int = 64) -> float:
    """Mean over the images of the mutual information in nats, from histograms over [0, 1] squared.

    a, b (N, ...) in [-1, 1]; pairs with a value outside are left out. It has no gradient.
    """
    values = []
    for x, y in zip(a, b, strict=True):
        x, y = ((v.ravel().astype(np.float64) + 1) / 2 for v in (x, y))
        counts = np.histogram2d(x, y, bins, [[0, 1], [0, 1]])[0]
        p = counts / counts.sum()
        px, py = p.sum(1, keepdims=True), p.sum(0, keepdims=True)
        p, px, py = (np.where(v == 0, 1e-10, v) for v in (p, px, py))
        values.append((p * np.log(p / (px * py + 1e-10))).sum())
    return float(np.mean(values))


def correlation_ratio(classes: np.ndarray, x: jt.Var) -> jt.Var:
    """1 - the part of x's variance that the classes explain, mean over the images; 0 is aligned.

    classes (N, 1, H, W): pixels of one exact value are a class. x (N, 1, H, W).
    """
    n, pixels = len(classes), classes[0].size
    found = [np.unique(c, return_inverse=True)[1].reshape(-1) for c in classes]
    count = max(int(f.max()) + 1 for f in found)
    sizes = np.stack([np.bincount(f, minlength=count) for f in found]).astype(np.float32)
    flat = x.reshape(n, pixels).float64()  # thousands of pixels may be of one class
    mean = flat.mean(1, keepdims=True)
    centred = flat - mean
    place = jt.array(np.stack(found).astype(np.int32))
    sums = centred.reindex_reduce("add", [n, count], ["i0", "@e0(i0,i1)"], extras=[place])
    between = (sums * sums / jt.array(np.maximum(sizes, 1)).float64()).sum(1)
    within = (centred * centred).sum(1)
    return (1 - between / (within + 1e-8)).mean().float32()


def quality(a: jt.Var, b: jt.Var, fused: jt.Var) -> dict[str, jt.Var]:
    """The missing Fusion_loss as the specification reads it: LFDT-Fusion's with weights 30, 40, 40."""
    return guided_fusion_losses(a, b, fused, jt.maximum(a, b), (30, 40, 40))


# ---- published, but in no loss -------------------------------------------------------------------


def pearson_loss(a: np.ndarray, b: np.ndarray) -> float:
    """Minus the correlation of a and b (N, ...), mean over the images."""
    each = [np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in zip(a, b, strict=True)]
    return -float(np.mean(each))


def stretched(x: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Each image to [-1, 1] by its extremes; values that equal its `kept` stay, a flat one gives 0.

    x (N, 1, H, W); kept (N,).
    """
    low, high = (f(x, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    moved = 2 * (x - low) / np.maximum(high - low, np.float32(1e-30)) - 1
    moved = np.where(high - low > 1e-5, moved, 0)
    return np.where(x == kept.reshape(-1, 1, 1, 1), x, moved).astype(np.float32)


def hessian_determinant(field: np.ndarray) -> np.ndarray:
    """How sharply each component of a field (N, H, W, 2) bends: (N, 2, H, W), 0 where it is flat."""
    f = np.moveaxis(field, 3, 1)
    of_rows, of_columns = np.gradient(f, axis=(2, 3))
    (yy, yx), (xy, xx) = (np.gradient(g, axis=(2, 3)) for g in (of_rows, of_columns))
    return xx * yy - xy * yx
