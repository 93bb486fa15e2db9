"""Metrics: the twelve of FILM's Evaluator for one triple, ours next to its utils/Evaluator.py."""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np
from cases import common


class Case(NamedTuple):
    """A triple of gray images; `methods` fused images are evaluated against the same sources."""

    size: tuple[int, int]
    methods: int = 1


CASES = {
    "480x640": Case((480, 640)),
    "480x640-5-methods": Case((480, 640), 5),
    "768x1024": Case((768, 1024)),
    "96x128": Case((96, 128)),
}
THEIRS = {"VIF": "VIFF"}
ALONE = ("EN", "SD", "SF", "AG")
PAIRED = ("MI", "MSE", "PSNR", "CC", "SCD", "VIF", "Qabf", "SSIM")


def inputs(case: Case) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """The fused images and both sources, float32 with whole numbers 0..255."""
    a, b = (np.round(x * 255) for x in common.images("ab", case.size))
    parts = np.linspace(0.4, 0.6, case.methods)
    fused = [np.round(w * a + (1 - w) * b) for w in parts]
    return [f.astype(np.float32) for f in fused], a.astype(np.float32), b.astype(np.float32)


def ours(name: str) -> common.Run:
    """One run of ours."""
    from jfusion import metrics
    from jfusion.metrics.parallel import keep_freed_memory

    keep_freed_memory()  # as `jfusion metrics` does
    fused, a, b = inputs(CASES[name])

    def run() -> dict[str, np.ndarray]:
        sources = metrics.GrayImage(a), metrics.GrayImage(b)
        rows = [metrics.evaluate(f, *sources) for f in fused]
        return {m: np.array([row[m] for row in rows]) for m in rows[0]}

    return run


def reference(name: str, folder: str) -> common.Run:
    """One run of the authors' Evaluator."""
    sys.path.insert(0, folder)
    from utils.Evaluator import Evaluator

    fused, a, b = inputs(CASES[name])

    def run() -> dict[str, np.ndarray]:
        columns = {}
        for m in ALONE + PAIRED:
            compute = getattr(Evaluator, THEIRS.get(m, m))
            columns[m] = [compute(f) if m in ALONE else compute(f, a, b) for f in fused]
        return {m: np.array(values, np.float64) for m, values in columns.items()}

    return run
