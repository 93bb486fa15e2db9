"""What both sides of a comparison must agree on."""

from __future__ import annotations

import numpy as np

MOST = (
    1 << 18
)  # values of each sample's output of a layer that are compared; evenly spaced ones of more
FORWARD_RUNS = 5  # that are timed, after one that is not


def rows(output: np.ndarray) -> np.ndarray:
    """An output as a matrix: a row for each sample, of at most `MOST` values."""
    matrix = output.reshape(len(output) if output.ndim > 1 else 1, -1)
    count = matrix.shape[1]
    return matrix[:, np.linspace(0, count - 1, min(count, MOST)).astype(int)]


EM_STEPS = 3  # of DDFM, one after the other

# The small configuration of DDFM's network, as the authors' JSON files are.
SMALL = {
    "image_size": 64,
    "num_channels": 32,
    "num_res_blocks": 2,
    "channel_mult": "",
    "learn_sigma": False,  # the loss is of the noise alone
    "class_cond": False,
    "use_checkpoint": False,
    "attention_resolutions": "16,8",
    "num_heads": 4,
    "num_head_channels": 32,
    "num_heads_upsample": -1,
    "use_scale_shift_norm": True,
    "dropout": 0.0,
    "resblock_updown": True,
    "use_fp16": False,
    "use_new_attention_order": False,
}
