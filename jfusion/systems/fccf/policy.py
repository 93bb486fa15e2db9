"""The parts of Diff-FCCF's reinforcement learning that are published, and that reinforce.py connects.

A policy network proposes small changes of a chroma channel from its superpixels; a composite loss rates
the result, with a threshold that follows the training. The released code never calls them.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from jfusion.checkpoint import WeightMap
from jfusion.ops.activation import tanh
from jfusion.ops.softmax import softmax
from jfusion.runtime import jt, nn

HEADS = 4
SIZE = 256  # the only side that the published network accepts
OFFICIAL = WeightMap(
    {
        "gcn.conv{i}.{p}.{q}": "graph.{i}.{p}.{q}",
        "gcn.conv{i}.attention": "graph.{i}.attention",
        "action_head.{i}.{p}": "head.{i}.{p}",
    }
)


class HypergraphConv(nn.Module):
    """A convolution on the hypergraph whose edges are the labels: the pixels of a label share one.

    An edge is the mean over its pixels, weighted by attention over the whole image; each pixel gets
    its edge back, mapped, and a linear map of itself.
    """

    def __init__(self, channels: int, out: int):
        self.node2edge = nn.Linear(channels, HEADS * out)
        self.edge2node = nn.Linear(HEADS * out, out)
        self.residual = nn.Linear(channels, out)
        self.attention = jt.randn(1, HEADS, out) * 0.1
        bound = (6 / (HEADS * out)) ** 0.5
        for layer in (self.node2edge, self.edge2node):
            layer.weight.assign((jt.rand(layer.weight.shape) * 2 - 1) * bound)

    def execute(self, x: jt.Var, labels: np.ndarray) -> jt.Var:
        """Maps x (N, C, H, W), with labels (N, H, W) of any whole numbers, to (N, out, H, W), after ELU."""
        n, c, h, w = x.shape
        nodes = x.reshape(n, c, h * w).transpose(0, 2, 1)
        return (
            jt.stack([self._image(nodes[i], labels[i]) for i in range(n)], 0)
            .reshape(n, h, w, -1)
            .transpose(0, 3, 1, 2)
        )

    def _image(self, x: jt.Var, labels: np.ndarray) -> jt.Var:
        """One image: x (nodes, C), labels (H, W) -> (nodes, out)."""
        edge_of = np.unique(labels, return_inverse=True)[1].reshape(-1)
        sizes, index = np.bincount(edge_of).astype(np.float32), jt.array(edge_of.astype(np.int32))
        index.sync()  # Jittor cannot fuse an index that is not computed yet
        features = self.node2edge(x).reshape(len(edge_of), HEADS, -1)
        logits = (features * self.attention).sum(2)
        # over the nodes; the gradient of one from stock Jittor changes by an ulp from run to run
        weights = softmax(logits.transpose(1, 0)).transpose(1, 0).unsqueeze(2)
        weighted = (features * weights).reshape(len(edge_of), -1)
        shape = [len(sizes), weighted.shape[1]]
        sums = weighted.reindex_reduce("add", shape, ["@e0(i0)", "i1"], extras=[index])
        edges = self.edge2node(sums / jt.array(sizes[:, None]))
        y = edges[index] + self.residual(x)
        return jt.ternary(y > 0, y, jt.exp(jt.minimum(y, 0)) - 1)


class Policy(nn.Module):
    """The policy network: it proposes a change of a chroma channel, at most 0.1 anywhere.

    size: the side of the channel; the parameters grow with it.
    """

    WIDTHS = (1, 64, 32, 1)

    def __init__(self, size: int = SIZE):
        # conv1 to conv3 in the authors' names
        self.graph = nn.ModuleList(
            [nn.Identity(), *(HypergraphConv(a, b) for a, b in pairwise(self.WIDTHS))]
        )
        self.head = nn.ModuleList(
            [nn.Linear(size * size, 512), nn.Identity(), nn.Linear(512, size * size)]
        )

    def execute(self, chroma: jt.Var, labels: np.ndarray) -> jt.Var:
        """The change, of chroma's shape: chroma (N, 1, size, size) in [0, 1]; labels (N, size, size)."""
        first, _, second = self.head
        x = self.features(chroma, labels).reshape(chroma.shape[0], -1)
        return 0.1 * tanh(second(nn.relu(first(x)))).reshape(chroma.shape)

    def features(self, chroma: jt.Var, labels: np.ndarray) -> jt.Var:
        """The output of the three graph convolutions, of chroma's shape."""
        _, first, second, third = self.graph
        x = nn.relu(first(chroma, labels))
        return third(nn.relu(second(x, labels)), labels)


def composite_loss(
    x: np.ndarray,
    luma: np.ndarray,
    before: np.ndarray,
    weights: tuple[float, float, float] = (0.5, 0.3, 0.2),
    threshold: float = 0.1,
) -> float:
    """The cost of a changed chroma channel; its negative is the reward.

    x: the changed channel, luma, before: the channel before the change; all (N, 1, H, W) in [0, 1]. The
    three terms, by their weights: x should be close to the luma, and a change below `threshold` costs its
    square; x should have contrast, the mean of its squared deviations in windows of 3x3 that do not
    overlap, with zeros around the image; and its values should keep the distribution of `before`.
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
    """A threshold that rises or falls by 10 % with the trend of the last hundred distances."""

    COUNT = 100

    def __init__(self, start: float = 0.1):
        self.value, self.distances = start, []

    def update(self, distance: float) -> float:
        """Adds a distance and returns the new threshold, which stays until there are a hundred."""
        self.distances.append(distance)
        if len(self.distances) > self.COUNT:
            last = self.distances[-self.COUNT :]
            trend = np.polyfit(np.arange(self.COUNT), last, 1)[0]
            self.value *= 1 + 0.1 * np.sign(trend)
        return self.value
