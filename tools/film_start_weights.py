"""Start weights with which FILM makes about the pixel-wise maximum of its two images, from the first step.

    python tools/film_start_weights.py start.safetensors
    jfusion train film --weights start.safetensors ...

From the usual initial weights FILM spends its first thousands of steps on learning to pass images through.
Here they are the usual ones, scaled down, next to an identity: channel 0 of each block carries its image,
and one hidden unit of the decoder computes max(a, b) = b + relu(a - b). The names of weights are those of
`jfusion.systems.film.network`; the text dimension is that of minilm's features.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import jfusion
from jfusion import checkpoint, runtime
from jfusion.config import to_dict

Weights = dict[str, np.ndarray]

WIDTH = 32  # channels of a block
MAXIMUM = 16  # the channel of the decoder that holds image b, and soon the maximum
GATE, CONSTANT, SLOPE = 30, 3.0, 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the start weights; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--token-size", type=int, nargs=2, default=(36, 48))
    options = parser.parse_args(arguments)
    runtime.seed(options.seed)
    film = jfusion.create("film", text_dim=384, token_size=tuple(options.token_size))
    weights = {name: np.array(value) for name, value in film.state().items()}
    pass_images_through(weights)
    merge_images(weights)
    compute_maximum(weights)
    content = {"model": weights, "system": "film", "config": to_dict(film.config)}
    checkpoint.save(options.out, content)
    return 0


def pass_images_through(w: Weights) -> None:
    """Puts an identity next to the weights of the three blocks; their channel 0 is the image alone."""
    for name in w:
        if name.endswith(("attention.project.weight", "feed_forward.project.weight")):
            w[name] *= 0.1
    identity = np.eye(WIDTH, dtype=np.float32)
    writers = "encoder.attention.project", "encoder.feed_forward.project", "from_tokens"
    for block in (f"block{i}.{side}." for i in (1, 2, 3) for side in "AB"):
        stem, merge = w[f"{block}stem.weight"], w[f"{block}merge.weight"]
        if not block.startswith("block1"):
            stem *= 0.3
            stem[:, :, 1, 1] += identity
        stem[0] = 0
        stem[0, 0, 1, 1] = 1
        merge *= 0.1
        merge[:, :, 0, 0] += np.concatenate([identity, identity], 1) / 2
        merge[0] = 0
        merge[0, [0, WIDTH], 0, 0] = 0.5
        w[f"{block}merge.bias"][:] = w[f"{block}from_tokens.bias"][:] = 0
        for writer in writers:
            w[f"{block}{writer}.weight"][0] = 0


def merge_images(w: Weights) -> None:
    """Passes half of each image's channels to the decoder; the last layer undoes the sigmoid around 0.5."""
    for block in ("decoder.refine1.", "decoder.refine2."):
        for part in ("attention", "feed_forward"):
            w[f"{block}{part}.project.weight"][MAXIMUM] = 0
    half = np.zeros((WIDTH, 2 * WIDTH), np.float32)
    half[:MAXIMUM, :MAXIMUM] = half[MAXIMUM:, WIDTH : WIDTH + MAXIMUM] = np.eye(MAXIMUM)
    w["decoder.reduce.weight"] = w["decoder.reduce.weight"] * 0.1 + half[:, :, None, None]
    w["decoder.reduce.weight"][MAXIMUM] = half[MAXIMUM][:, None, None]
    w["decoder.reduce.bias"][:] = 0
    w["decoder.to_image.weight"] *= 0.1
    w["decoder.to_image.weight"][0, MAXIMUM, 0, 0] = 4.8
    w["decoder.to_image.bias"][:] = -2.4


def compute_maximum(w: Weights) -> None:
    """Makes one hidden unit of the decoder's first block relu(a - b), and adds it to image b.

    The normalization before it must not scale with the image: two constant channels of +-3 dominate its
    variance. A third channel, whose normalized value is the constant 1, opens the unit's gate.
    """
    for side, sign in (("A", 1), ("B", -1)):
        block = f"block3.{side}."
        w[f"{block}merge.weight"][-1] = 0
        w[f"{block}merge.bias"][-1] = sign * CONSTANT
        w[f"{block}merge_slope"][:] = 1.0 if sign < 0 else 0.25  # the constant -3 must pass
    joint = "decoder.joint."
    images_and_constants = [0, WIDTH - 1, WIDTH, 2 * WIDTH - 1]
    w[f"{joint}attention.project.weight"][images_and_constants] = 0
    w[f"{joint}norm2.weight"][GATE], w[f"{joint}norm2.bias"][GATE] = 0, 1
    names = "expand", "depthwise", "project"
    expand, depthwise, project = (w[f"{joint}feed_forward.{n}.weight"] for n in names)
    unit, gate = 0, project.shape[1]
    project[images_and_constants] = 0
    expand[[unit, gate]] = depthwise[[unit, gate]] = 0
    expand[unit, 0, 0, 0], expand[unit, WIDTH, 0, 0] = SLOPE, -SLOPE
    expand[gate, GATE, 0, 0] = 1
    depthwise[[unit, gate], 0, 1, 1] = 1
    deviation = np.sqrt(2 * CONSTANT**2 / (2 * WIDTH) + 0.02)
    project[:, unit] = 0
    project[WIDTH, unit, 0, 0] = deviation / SLOPE


if __name__ == "__main__":
    sys.exit(main())
