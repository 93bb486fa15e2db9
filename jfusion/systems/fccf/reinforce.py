"""Exploration to stability: reinforcement learning of a policy for the chroma. Our reading.

The paper describes such training; the released code has its parts (jfusion/systems/fccf/policy.py) and
never connects them. What is ours here: the policy is Gaussian about the network's output, with one draw
for each superpixel and a deviation that falls from exploration to stability; an action is rewarded by
what it improves the published composite loss, whose threshold is the adaptive boundary; the baseline is a
running mean; the gradient is REINFORCE (Williams 1992) with an entropy term.
"""

from __future__ import annotations

import numpy as np

from jfusion.errors import optional
from jfusion.runtime import jt, nn
from jfusion.systems.fccf.policy import AdaptiveBoundary, Policy, composite_loss

SEGMENTS, COMPACTNESS = 200, 10
EXPLORE, SETTLE, DECAY = 0.05, 0.005, 0.999  # the deviation: at first, at last, from step to step
ENTROPY = 0.01
FORGET = 0.95  # of the baseline


def superpixels(luma: np.ndarray) -> np.ndarray:
    """SLIC on gray images: (N, H, W) in [0, 1] -> labels (N, H, W)."""
    slic = optional("skimage.segmentation", "scikit-image", "--reinforce", "reinforce").slic
    return np.stack(
        [
            slic(x, n_segments=SEGMENTS, compactness=COMPACTNESS, channel_axis=None)
            for x in luma.astype(np.float64)
        ]
    )


class Reinforcement(nn.Module):
    """The policy with what it remembers: baseline, boundary, steps. `size` is the policy's side."""

    def __init__(self, size: int):
        self.size = size
        self.policy = Policy(size)
        # steps taken, baseline, boundary, distances held, distances
        self.memory = jt.array(
            np.array([0, 0, AdaptiveBoundary().value, 0, *[0] * AdaptiveBoundary.COUNT], np.float32)
        ).stop_grad()

    @property
    def deviation(self) -> float:
        """The policy's standard deviation now."""
        return float(max(SETTLE, EXPLORE * DECAY ** float(self.memory.numpy()[0])))

    def losses(self, luma: np.ndarray, chroma: np.ndarray) -> dict[str, jt.Var]:
        """ "policy" (to be minimised) and "reward": luma (N, 1, H, W), chroma (N, 2, H, W) in [0, 1]."""
        n = len(luma)
        luma, chroma = (_resized(x, self.size) for x in (luma, chroma))
        labels = np.repeat(superpixels(luma[:, 0]), 2, 0)
        state = chroma.reshape(2 * n, 1, self.size, self.size)
        mean = self.policy(jt.array(state), labels)
        deviation, (steps, baseline, *_) = self.deviation, self.memory.numpy()
        draws = jt.randn(2 * n, int(labels.max()) + 1).numpy()
        noise = np.stack([d[label] for d, label in zip(draws, labels, strict=True)])[:, None]
        action = mean.numpy() + np.float32(deviation) * noise
        changed = np.clip(state + action, 0, 1)
        boundary = self._boundary()
        reward = np.array(
            [
                composite_loss(state[i : i + 1], y, state[i : i + 1], threshold=boundary.value)
                - composite_loss(changed[i : i + 1], y, state[i : i + 1], threshold=boundary.value)
                for i, y in enumerate(np.repeat(luma, 2, 0)[:, None])
            ]
        )
        error = jt.array(action) - mean
        log_probability = -(error * error).mean(3).mean(2).mean(1) / (2 * deviation**2)
        entropy = 0.5 * np.log(2 * np.pi * np.e * deviation**2)
        advantage = jt.array((reward - baseline).astype(np.float32))
        boundary.update(float(abs(changed - state).mean()))
        self._remember(steps + 1, FORGET * baseline + (1 - FORGET) * reward.mean(), boundary)
        return {
            "policy": -(advantage * log_probability).mean() - ENTROPY * float(entropy),
            "reward": jt.array(np.float32(reward.mean())),
        }

    def settled(self, luma: np.ndarray, chroma: np.ndarray) -> np.ndarray:
        """The chroma (N, 2, H, W) in [0, 1], changed as the policy now thinks best."""
        n, _, h, w = chroma.shape
        small, state = (_resized(x, self.size) for x in (luma, chroma))
        labels = np.repeat(superpixels(small[:, 0]), 2, 0)
        state = state.reshape(2 * n, 1, self.size, self.size)
        action = self.policy(jt.array(state), labels).numpy().reshape(n, 2, self.size, self.size)
        return np.clip(chroma + _resized(action, h, w), 0, 1)

    def _boundary(self) -> AdaptiveBoundary:
        _, _, value, count, *distances = map(float, self.memory.numpy())
        boundary = AdaptiveBoundary(value)
        boundary.distances = distances[: int(count)]
        return boundary

    def _remember(self, steps: float, baseline: float, boundary: AdaptiveBoundary) -> None:
        last = boundary.distances[-AdaptiveBoundary.COUNT :]
        rest = [0.0] * (AdaptiveBoundary.COUNT - len(last))
        values = [steps, baseline, boundary.value, len(last), *last, *rest]
        self.memory.update(jt.array(np.array(values, np.float32)).stop_grad())


def _resized(x: np.ndarray, height: int, width: int | None = None) -> np.ndarray:
    """(N, C, H, W) to another size, bilinear; of that size already: as it is."""
    width = width or height
    if x.shape[2:] == (height, width):
        return x
    from jfusion.data.image import resize

    return np.stack([[resize(p, height, width) for p in planes] for planes in x])
