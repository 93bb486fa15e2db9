"""The color channels of a pair as the network sees them: regions of the chroma and their statistics."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jfusion.errors import UserError
from jfusion.runtime import jt
from jfusion.systems.fccf.config import Region


class ColorChannel(NamedTuple):
    """One color channel of a batch of pairs; arrays (N, 1, H, W) float32, images in [-1, 1].

    number: 0 is Y, 1 Cr, 2 Cb. s: the structural image; f: this channel of the functional one.
    s_condition, f_condition: the two as conditions of the network. region: 1 where the channel receives
    structure, elsewhere 0; sign: the sign with which it is added. The luma (number 0) is its own
    condition, and receives structure everywhere.
    """

    number: int
    s: np.ndarray
    f: np.ndarray
    s_condition: np.ndarray
    f_condition: np.ndarray
    region: np.ndarray
    sign: float


def color_channel(
    number: int, s: np.ndarray, f: np.ndarray, regions: tuple[Region, Region], guard: bool = True
) -> ColorChannel:
    """A channel whose region is that of the whole batch, as in training.

    s (N, 1, H, W), f (N, 3, H, W) in [-1, 1]; regions: those of Cr and Cb. Raises UserError where a
    region has less than two pixels, unless `guard`: then the channel stays as it is.
    """
    f = f[:, number : number + 1]
    if number == 0:
        return ColorChannel(0, s, f, s, f, np.ones_like(f), 1.0)
    rule = regions[number - 1]
    region = region_of(f, rule)
    if region.sum() < 2 and not guard:
        name = ("Y", "Cr", "Cb")[number]
        raise UserError(
            f"fccf: the region of {name} has less than two pixels; leave it unchanged with --region-guard"
        )
    s_condition = match_in_region(s, f, region)
    return ColorChannel(number, s, f, s_condition, region * f, region, rule.sign)


def channel_of_each_image(
    number: int, s: np.ndarray, f: np.ndarray, regions: tuple[Region, Region], guard: bool = True
) -> ColorChannel:
    """A channel in which every image has its own region, as in inference; see `color_channel`."""
    each = [
        color_channel(number, s[i : i + 1], f[i : i + 1], regions, guard) for i in range(len(s))
    ]
    arrays = (np.concatenate([channel[k] for channel in each]) for k in range(1, 6))
    return ColorChannel(number, *arrays, each[0].sign)


def region_of(f: np.ndarray, rule: Region) -> np.ndarray:
    """Where the rule holds, float32 of f's shape (N, 1, H, W); a quantile is that of all N images."""
    if rule.background:
        level = np.float32(rule.level) * f[:, :, :1, 5:6]
    else:
        ordered = np.sort(f, axis=None)
        level = ordered[int(rule.level * ordered.size)]
    return (f >= level if rule.above else f <= level).astype(np.float32)


def match_in_region(s: np.ndarray, f: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Gives s the mean and the (unbiased) deviation of f inside the region, and 0 outside; (N, 1, H, W).

    The statistics are those of all N images. Where the region has less than two pixels there are none,
    and s stays as it is.
    """
    inside = region > 0
    if inside.sum() < 2:
        return s * region
    (mean_s, std_s), (mean_f, std_f) = (
        (v[inside].mean(dtype=np.float64), v[inside].std(ddof=1, dtype=np.float64)) for v in (s, f)
    )
    return (region * ((s - mean_s) / (std_s + 1e-5) * std_f + mean_f)).astype(np.float32)


def match_statistics(a: jt.Var, b: jt.Var, fixed: jt.Var) -> jt.Var:
    """Gives each image of a the mean and the (unbiased) deviation of b's; values equal to `fixed` stay.

    a, b (N, 1, H, W); fixed (N, 1, 1, 1), compared exactly. This is adaptive instance normalization
    (AdaIN, Huang and Belongie, ICCV 2017) but for the fixed value, which stands for the background.
    """
    (mean_a, std_a), (mean_b, std_b) = (_statistics(v) for v in (a, b))
    matched = (a - mean_a) / (std_a + 1e-5) * std_b + mean_b
    is_fixed = (a == fixed).float32().detach()
    return is_fixed * a + (1 - is_fixed) * matched


def _statistics(x: jt.Var) -> tuple[jt.Var, jt.Var]:
    """Mean and unbiased deviation of each image, (N, 1, 1, 1); the gradient of a constant image is 0."""
    mean = x.mean(3, keepdims=True).mean(2, keepdims=True)
    centered = x - mean
    count = x.shape[2] * x.shape[3]
    variance = (centered * centered).mean(3, keepdims=True).mean(2, keepdims=True)
    return mean, jt.sqrt(jt.maximum(variance * (count / (count - 1)), 1e-30))
