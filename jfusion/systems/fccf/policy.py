"""The parts of Diff-FCCF's reinforcement learning that are published. Training never used them.

A policy network proposes small changes of a chroma plane from its superpixels; a threshold and a reward
follow the training. The released code does not connect the parts.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from jfusion.checkpoint import NameMap
from jfusion.ops.activation import tanh
from jfusion.runtime import jt, nn

HEADS = 4
SIZE = 256  # the only side that the published network takes
OFFICIAL = NameMap(
    {
        "gcn.conv{i}.{p}.{q}": "graph.{i}.{p}.{q}",
        "gcn.conv{i}.attention": "graph.{i}.attention",
        "action_head.{i}.{p}": "head.{i}.{p}",
    }
)


class HypergraphConv(nn.Module):
    """Pixels of one label share an edge: attention over the image, mean over each label, and back."""

    def __init__(self, width: int, out: int):
        self.node2edge = nn.Linear(width, HEADS * out)
        self.edge2node = nn.Linear(HEADS * out, out)
        self.residual = nn.Linear(width, out)
        self.attention = jt.randn(1, HEADS, out) * 0.1
        bound = (6 / (HEADS * out)) ** 0.5
        for layer in (self.node2edge, self.edge2node):
            layer.weight.assign((jt.rand(layer.weight.shape) * 2 - 1) * bound)

    def execute(self, x: jt.Var, labels: np.ndarray) -> jt.Var:
        """X (N, C, H, W), labels (N, H, W) any whole numbers -> (N, out, H, W), after ELU."""
        n, c, h, w = x.shape
        nodes = x.reshape(n, c, h * w).transpose(0, 2, 1)
        return (
            jt.stack([self._image(nodes[i], labels[i]) for i in range(n)], 0)
            .reshape(n, h, w, -1)
            .transpose(0, 3, 1, 2)
        )

    def _image(self, x: jt.Var, labels: np.ndarray) -> jt.Var:
        """X (nodes, C) -> (nodes, out)."""
        _, place = np.unique(labels, return_inverse=True)
        place = place.reshape(-1)
        sizes, at = np.bincount(place).astype(np.float32), jt.array(place.astype(np.int32))
        at.sync()  # Jittor cannot fuse an index that it is only about to make
        features = self.node2edge(x).reshape(len(place), HEADS, -1)
        logits = (features * self.attention).sum(2)
        logits = jt.exp(logits - logits.max(0, keepdims=True))
        weighted = (features * (logits / logits.sum(0, keepdims=True)).unsqueeze(2)).reshape(
            len(place), -1
        )
        edges = weighted.reindex_reduce(
            "add",
            [len(sizes), weighted.shape[1]],
            ["@e0(i0)", "i1"],
            extras=[at],
        ) / jt.array(sizes[:, None])
        edges = self.edge2node(edges)
        y = edges[at] + self.residual(x)
        return jt.ternary(y > 0, y, jt.exp(jt.minimum(y, 0)) - 1)


class Policy(nn.Module):
    """A chroma plane -> the change that it proposes, at most 0.1 anywhere."""

    WIDTHS = (1, 64, 32, 1)

    def __init__(self, size: int = SIZE):
        # conv1 .. conv3 in the authors' names
        self.graph = nn.ModuleList(
            [nn.Identity(), *(HypergraphConv(a, b) for a, b in pairwise(self.WIDTHS))]
        )
        self.head = nn.ModuleList(
            [nn.Linear(size * size, 512), nn.Identity(), nn.Linear(512, size * size)]
        )

    def execute(self, plane: jt.Var, labels: np.ndarray) -> jt.Var:
        """Plane (N, 1, size, size) in [0, 1], labels (N, size, size), superpixels -> like plane."""
        first, _, second = self.head
        x = self.features(plane, labels).reshape(plane.shape[0], -1)
        return 0.1 * tanh(second(nn.relu(first(x)))).reshape(plane.shape)

    def features(self, plane: jt.Var, labels: np.ndarray) -> jt.Var:
        """What the graph makes of the plane, of its shape."""
        _, first, second, third = self.graph
        x = nn.relu(first(plane, labels))
        return third(nn.relu(second(x, labels)), labels)


def composite_loss(
    x: np.ndarray,
    luma: np.ndarray,
    before: np.ndarray,
    weights: tuple[float, float, float] = (0.5, 0.3, 0.2),
    threshold: float = 0.1,
) -> float:
    """How far a changed chroma plane is from what is wanted; its negative is the reward.

    It should follow the luma, and leave its former self either clearly or not at all (weight 1), have
    contrast (2), and the former values' distribution (3). All (N, 1, H, W). Where the change is below
    `threshold` it costs its square. Contrast is a mean over windows of 3x3 side by side, zeros around.
    """
    x, luma, before = (v.astype(np.float64) for v in (x, luma, before))
    change = x - before
    error = ((x - luma) ** 2).mean() + ((abs(change) < threshold) * change**2).mean()
    n, c, h, w = x.shape
    padded = np.zeros((n, c, h + 2, w + 2))
    padded[:, :, 1:-1, 1:-1] = (x - x.mean()) ** 2
    rows, columns = (h + 2) // 3, (w + 2) // 3  # a last window that does not fit is left out
    contrast = padded[:, :, : 3 * rows, : 3 * columns].sum() / (n * c * rows * columns * 9)
    moved = abs(np.sort(x, axis=None) - np.sort(before, axis=None)).mean()
    return float(weights[0] * error - weights[1] * contrast + weights[2] * moved)


class AdaptiveBoundary:
    """A threshold that follows the slope of the last hundred distances: up 10 %, or down."""

    COUNT = 100

    def __init__(self, start: float = 0.1):
        self.value, self.distances = start, []

    def update(self, distance: float) -> float:
        """Takes a distance, and returns the threshold."""
        self.distances.append(distance)
        if len(self.distances) > self.COUNT:
            last = self.distances[-self.COUNT :]
            slope = np.polyfit(np.arange(self.COUNT), last, 1)[0]
            self.value *= 1 + 0.1 * np.sign(slope)
        return self.value


class Balance:
    """The reward for terms of a loss that stay in balance with their running means."""

    START = {
        "noise": 10.0,
        "folding": 1e5,
        "smooth": 1e6,
        "fusion": 1e3,
        "quality": 1e4,
    }

    def __init__(self):
        self.running = dict(self.START)

    def reward(
        self, losses: dict[str, float], total: float, trends: tuple[float, ...] = ()
    ) -> float:
        """-ln(total) - 0.3 std(ratios) + 0.2, or -0.1 where the mean trend is steep."""
        for name, value in losses.items():
            self.running[name] = 0.95 * self.running[name] + 0.05 * value
        ratios = [value / (self.running[name] + 1e-8) for name, value in losses.items()]
        trend = abs(float(np.mean(trends))) if len(trends) else 0.0
        steady = 1.0 if trend < 0.1 else -0.5
        return float(-np.log(total + 1e-8) - 0.3 * np.std(ratios) + 0.2 * steady)
