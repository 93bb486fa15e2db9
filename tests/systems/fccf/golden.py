"""The authors' numbers and how they are compared (tests/golden/fccf/README.md has the tolerances)."""

from __future__ import annotations

import json

import numpy as np

from tests.conftest import GOLDEN

FOLDER = GOLDEN / "fccf"
CHANNELS = range(3)
TERMS = ("noise", "mutual_information", "correlation_ratio", "fusion", "quality")


def manifest(name):
    """The shapes of the authors' parameters by name."""
    return json.loads((FOLDER / f"manifest{name}.json").read_text())


def arrays(golden, name):
    """A fixture of Diff-FCCF."""
    return golden(f"fccf/{name}.npz")


def close(x, expected, tolerance, name=""):
    """The largest difference, relative to the largest expected value."""
    x = x.numpy() if hasattr(x, "numpy") else np.asarray(x)
    assert x.shape == expected.shape, (name, x.shape, expected.shape)
    scale = max(abs(expected).max(), 1e-12)
    assert abs(x - expected).max() <= tolerance * scale, (name, abs(x - expected).max() / scale)


def probe(x, count):
    """`count` values of x, evenly spaced."""
    flat = np.asarray(x).ravel()
    return flat[np.linspace(0, flat.size - 1, count).astype(np.int64)]


def sources(golden, group):
    """s (2, 1, 64, 64), f (2, 3, 64, 64) in [-1, 1]."""
    z = arrays(golden, "inputs")
    s, f = z[f"gray_{group}"][:, None], np.moveaxis(z[f"ycrcb_{group}"], 3, 1)
    return tuple((x.astype(np.float32) / np.float32(255) * 2 - 1) for x in (s, f))


def sources256(golden):
    """s (1, 1, 256, 256), f (1, 3, 256, 256) in [-1, 1], of the group pet."""
    z = arrays(golden, "inputs")
    s, f = z["gray256"][:, None], np.moveaxis(z["ycrcb256"], 3, 1)
    return tuple((x.astype(np.float32) / np.float32(255) * 2 - 1) for x in (s, f))
