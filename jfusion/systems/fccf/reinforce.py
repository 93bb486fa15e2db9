"""Exploration to stability: reinforcement learning of a policy for the chroma. Our reading.

The paper describes such training; the released code has its parts (policy.py) and never connects them.
What is ours here: the policy is Gaussian with the network's output as its mean, one draw for each
superpixel, and a standard deviation that falls from exploration to stability; the reward of an action is
how much it lowers the published composite loss, whose threshold is the adaptive boundary; the baseline
is a running mean; the gradient is that of REINFORCE (Williams 1992). The entropy of this policy depends
on the step alone: the entropy term of the released fragments would have no gradient, and is left out.
"""

from __future__ import annotations

import numpy as np

from jfusion.data.image import resize
from jfusion.errors import optional
from jfusion.runtime import jt, nn
from jfusion.systems.fccf.policy import AdaptiveBoundary, Policy, composite_loss

SEGMENTS, COMPACTNESS = 200, 10
# the standard deviation of an action at first and at last, and its factor from step to step
SIGMA_START, SIGMA_END, SIGMA_DECAY = 0.05, 0.005, 0.999
BASELINE_MOMENTUM = 0.95


def superpixels(luma: np.ndarray) -> np.ndarray:
    """The superpixels of gray images by SLIC: (N, H, W) in [0, 1] -> labels (N, H, W).

    Raises UserError without scikit-image.
    """
    slic = optional("skimage.segmentation", "scikit-image", "--reinforce", "reinforce").slic
    return np.stack(
        [
            slic(x, n_segments=SEGMENTS, compactness=COMPACTNESS, channel_axis=None)
            for x in luma.astype(np.float64)
        ]
    )


class Reinforcement(nn.Module):
    """The policy and its memory, a buffer: the steps, the baseline and the adaptive boundary.

    size: the side at which the policy sees images; others are resized for it.
    """

    def __init__(self, size: int):
        self.size = size
        self.policy = Policy(size)
        # number of steps, baseline, boundary, number of distances, distances
        self.memory = jt.array(
            np.array([0, 0, AdaptiveBoundary().value, 0, *[0] * AdaptiveBoundary.COUNT], np.float32)
        ).stop_grad()

    @property
    def sigma(self) -> float:
        """The standard deviation of an action at the present step."""
        return float(max(SIGMA_END, SIGMA_START * SIGMA_DECAY ** float(self.memory.numpy()[0])))

    def losses(self, luma: np.ndarray, chroma: np.ndarray) -> dict[str, jt.Var]:
        """The loss "policy", to be minimized, and the mean "reward" of one action on each channel.

        luma (N, 1, H, W), chroma (N, 2, H, W) in [0, 1]. policy is -mean(advantage * log probability),
        up to a constant; its value says nothing, only its gradient does.
        """
        n, sigma = len(luma), self.sigma
        luma, chroma = (_resized(x, self.size) for x in (luma, chroma))
        labels = np.repeat(superpixels(luma[:, 0]), 2, 0)
        state = chroma.reshape(2 * n, 1, self.size, self.size)
        mean = self.policy(jt.array(state), labels)
        draws = jt.randn(2 * n, int(labels.max()) + 1).numpy()
        noise = np.stack([d[label] for d, label in zip(draws, labels, strict=True)])[:, None]
        action = mean.numpy() + np.float32(sigma) * noise
        changed = np.clip(state + action, 0, 1)
        (steps, baseline, *_), boundary = self.memory.numpy(), self._boundary()
        reward = _rewards(np.repeat(luma, 2, 0), state, changed, boundary.value)
        boundary.update(float(abs(changed - state).mean()))
        mean_reward = reward.mean()
        new_baseline = BASELINE_MOMENTUM * baseline + (1 - BASELINE_MOMENTUM) * mean_reward
        self._remember(steps + 1, new_baseline, boundary)
        error = jt.array(action) - mean
        log_probability = -(error * error).mean(3).mean(2).mean(1) / (2 * sigma**2)
        advantage = jt.array((reward - baseline).astype(np.float32))
        return {
            "policy": -(advantage * log_probability).mean(),
            "reward": jt.array(np.float32(mean_reward)),
        }

    def apply_policy(self, luma: np.ndarray, chroma: np.ndarray) -> np.ndarray:
        """The chroma (N, 2, H, W) in [0, 1], changed by the policy's mean; luma (N, 1, H, W)."""
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


def _rewards(
    luma: np.ndarray, before: np.ndarray, changed: np.ndarray, threshold: float
) -> np.ndarray:
    """How much each change lowers the composite loss: arrays (M, 1, H, W) -> (M,)."""

    def cost(x: np.ndarray, i: int) -> float:
        one = slice(i, i + 1)
        return composite_loss(x[one], luma[i][None], before[one], threshold=threshold)

    return np.array([cost(before, i) - cost(changed, i) for i in range(len(before))])


def _resized(x: np.ndarray, height: int, width: int | None = None) -> np.ndarray:
    """Resizes x (N, C, H, W) bilinearly to height x width, by default a square."""
    width = width or height
    if x.shape[2:] == (height, width):
        return x
    return np.stack([[resize(channel, height, width) for channel in image] for image in x])
