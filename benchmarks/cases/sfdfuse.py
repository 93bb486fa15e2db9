"""SFDFuse: forward, and a training step of either phase (drop-path off, clipping)."""

from __future__ import annotations

import numpy as np
from cases import cddfuse, common
from cases.cddfuse import CASES as CASES  # the same sizes


def weights() -> dict[str, np.ndarray]:
    """The golden parameters by the authors' names, with the wavelet's constants."""
    state, constants = cddfuse.weights("sfdfuse"), np.load(common.GOLDEN / "sfdfuse/modules.npz")
    for name in ("wt_filter", "iwt_filter"):
        state[f"DIDF_Encoder.FreFeature.{name}"] = constants[name]
    return state


def ours(name: str) -> common.Run:
    """One run of ours."""
    return cddfuse.run_of_ours(name, common.create("sfdfuse", weights(), drop_path=0.0))


def reference(name: str, folder: str) -> common.Run:
    """One run of the authors' networks, on the CPU; losses written after the specification."""
    return cddfuse.run_of_reference(name, common.authors("sfdfuse", folder, weights()))
