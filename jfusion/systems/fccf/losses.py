"""The training loss of Diff-FCCF: five terms for each color channel.

The paper's names "folding" and "smooth" stand for the mutual information and the correlation ratio.
"""

from __future__ import annotations

import numpy as np

from jfusion.layers.losses import guided_fusion_losses
from jfusion.ops.activation import absolute
from jfusion.runtime import jt
from jfusion.systems.fccf.channels import ColorChannel, match_statistics
from jfusion.systems.fccf.network import Output
from jfusion.systems.fccf.warp import warp

PIXELS = 65536  # sums are divided by this, whatever the size (sic)


def channel_losses(
    channel: ColorChannel,
    output: Output,
    field: jt.Var,
    noise: jt.Var,
    noisy: tuple[jt.Var, jt.Var],
    loss_scale: float,
    compare_warped_luma: bool,
) -> dict[str, jt.Var]:
    """The terms of one channel: noise, mutual_information, correlation_ratio, fusion and quality.

    output: the network's for this channel. field (N, H, W, 2): the displacement of f in pixels. noise
    (N, 1, H, W): what was added to the two conditions; noisy: the result, (N, 1, H, W) each. The terms
    fusion and quality are left out where the region has less than two pixels. compare_warped_luma:
    whether the luma is warped before it is compared with s, which the released code does for pet alone.
    """
    warped = warp(jt.array(channel.f), field)
    before_warp = channel.number == 0 and not compare_warped_luma
    compared = jt.array(channel.f) if before_warp else warped
    terms = {
        "noise": loss_scale * _sum(absolute(noise - output.noise)) / PIXELS,
        "mutual_information": jt.array(
            np.float32(-mutual_information(channel.s, compared.numpy()))
        ),
        "correlation_ratio": correlation_ratio(channel.s, compared),
    }
    if channel.region.sum() < 2:
        return terms
    two_terms = _luma_losses if channel.number == 0 else _chroma_losses
    return {**terms, **two_terms(channel, output, noisy, warped)}


def _luma_losses(
    channel: ColorChannel, output: Output, noisy: tuple[jt.Var, jt.Var], warped: jt.Var
) -> dict[str, jt.Var]:
    m, (x1, x2) = output.mask1, noisy
    mixed = m * x1 + (1 - m) * x2
    fusion = (_sum(absolute(mixed - x1)) + _sum(absolute(mixed - x2))) / PIXELS
    s, f = jt.array(channel.s), jt.array(channel.f)
    return {"fusion": fusion, "quality": _quality(f, s, fused_estimate(channel, output, warped))}


def _chroma_losses(
    channel: ColorChannel, output: Output, noisy: tuple[jt.Var, jt.Var], warped: jt.Var
) -> dict[str, jt.Var]:
    m, (x1, x2), region = output.mask2, noisy, jt.array(channel.region)
    added = x2 + channel.sign * m * x1
    fusion = _sum(absolute(region * (added - m * x1))) / PIXELS
    fused = fused_estimate(channel, output, warped)
    structure = m * jt.array(channel.s_condition)
    return {"fusion": fusion, "quality": _quality(structure, structure, region * fused)}


def _quality(a: jt.Var, b: jt.Var, fused: jt.Var) -> jt.Var:
    return sum(quality(a, b, fused).values())


def fused_estimate(channel: ColorChannel, output: Output, warped: jt.Var) -> jt.Var:
    """The fused channel that the masks of one time step give, (N, 1, H, W) in [-1, 1].

    The luma is a blend of s and f by mask1. A chroma channel is, inside the region, f with structure
    added by mask2 and with f's statistics again; outside it is `warped`, f after the warp.
    """
    if channel.number == 0:
        return output.mask1 * jt.array(channel.s) + (1 - output.mask1) * jt.array(channel.f)
    region, f = jt.array(channel.region), jt.array(channel.f_condition)
    added = f + channel.sign * output.mask2 * jt.array(channel.s_condition)
    inside = jt.clamp(match_statistics(added, f, added[:, :, 2:3, 2:3].detach()), -1, 1)
    return region * inside + (1 - region) * warped


def mutual_information(a: np.ndarray, b: np.ndarray, bins: int = 64) -> float:
    """The mutual information in nats, from histograms over [0, 1] squared, mean over the images.

    a, b (N, ...) in [-1, 1]; pairs of values with one outside are left out. It has no gradient.
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
    """1 minus the correlation ratio: the part of x's variance that the classes do not explain.

    classes (N, 1, H, W): pixels of one exact value form a class. x (N, 1, H, W). The result is a scalar
    in [0, 1], mean over the images; 0 where the two images are aligned (Roche et al., MICCAI 1998).
    """
    n, pixels = len(classes), classes[0].size
    labels = [np.unique(c, return_inverse=True)[1].reshape(-1) for c in classes]
    count = max(int(of_image.max()) + 1 for of_image in labels)
    sizes = np.stack([np.bincount(of_image, minlength=count) for of_image in labels])
    sizes = np.maximum(sizes.astype(np.float32), 1)
    flat = x.reshape(n, pixels).float64()  # a class may have thousands of pixels
    centered = flat - flat.mean(1, keepdims=True)
    index = jt.array(np.stack(labels).astype(np.int32))
    sums = centered.reindex_reduce("add", [n, count], ["i0", "@e0(i0,i1)"], extras=[index])
    explained = (sums * sums / jt.array(sizes).float64()).sum(1)
    total = (centered * centered).sum(1)
    return (1 - explained / (total + 1e-8)).mean().float32()


def quality(a: jt.Var, b: jt.Var, fused: jt.Var) -> dict[str, jt.Var]:
    """The terms of the quality loss: ssim, gradient and intensity, weighted.

    The file with this loss is missing in the released code; the specification reads it as
    LFDT-Fusion's with the weights 30, 40, 40. a, b, fused (N, 1, H, W).
    """
    return guided_fusion_losses(a, b, fused, jt.maximum(a, b), (30, 40, 40))


def _sum(x: jt.Var) -> jt.Var:
    """The sum, rows first: float32 sums of many values lose digits."""
    return x.sum(3).sum(2).sum()
