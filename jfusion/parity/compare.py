"""Compares the answers of both sides: names, layers, gradients, losses. Needs no Jittor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jfusion.checkpoint.names import WeightMap

KEPT = 16  # values that a recorded answer holds of a gradient, and of each sample of an output


@dataclass(frozen=True)
class Answer:
    """What one side answered: its record (see reference/run.py) and its arrays by name.

    Outputs (`layers/`, `outputs/`) are matrices: a row for each sample of the batch, with as many evenly
    spaced values of it as were kept; record["shapes"] has the whole shape. Of gradients, a recorded answer
    keeps some values too.
    """

    record: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def below(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays whose names begin so, without the beginning."""
        return {k.removeprefix(prefix): v for k, v in self.arrays.items() if k.startswith(prefix)}

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array as it was computed."""
        stored = self.record["shapes"].get(name)
        return tuple(self.arrays[name].shape if stored is None else stored)

    def recorded(self) -> Answer:
        """The answer with few values of each output and gradient; fused images stay whole."""
        arrays, shapes = dict(self.arrays), dict(self.record["shapes"])
        for name, value in self.arrays.items():
            if name.startswith("gradients/"):
                shapes[name] = list(value.shape)
                value = value.reshape(1, -1)
            if not name.startswith("fused/"):
                arrays[name] = value[:, kept(value.shape[1], KEPT)]
        return Answer({**self.record, "shapes": shapes}, arrays)


def kept(size: int, count: int) -> np.ndarray:
    """The places of up to `count` evenly spaced values among `size`."""
    return np.linspace(0, size - 1, min(size, count)).astype(int)


@dataclass(frozen=True)
class Difference:
    """How far an array is from the authors'.

    largest: the largest absolute difference. scale: the largest absolute value of the authors'. relative:
    the L2 norm of the difference over that of the authors' values. count: arrays that were compared.
    """

    name: str
    shape: tuple[int, ...]
    largest: float
    scale: float
    relative: float
    count: int = 1


@dataclass(frozen=True)
class Names:
    """The tensors of both checkpoints: those that correspond, and those that do not.

    ignored: the authors' entries that are computed here, or count batches.
    """

    equal: dict[str, list[int]]
    ours: dict[str, list[int]] = field(default_factory=dict)
    theirs: dict[str, list[int]] = field(default_factory=dict)
    shapes: dict[str, tuple[list[int], list[int]]] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)

    @property
    def one_to_one(self) -> bool:
        """Whether every tensor has its partner of the same shape."""
        return not (self.ours or self.theirs or self.shapes)


def names(ours: Answer, theirs: Answer, weights: WeightMap) -> Names:
    """Which entries of the state dicts correspond, by the authors' names."""
    mine, other = ours.record["names"], dict(theirs.record["names"])
    ignored = [n for n in other if _ignored(n, weights) and n not in mine]
    for name in ignored:
        del other[name]
    both = [n for n in other if n in mine]
    return Names(
        {n: other[n] for n in both if other[n] == mine[n]},
        {n: s for n, s in mine.items() if n not in other},
        {n: s for n, s in other.items() if n not in mine},
        {n: (mine[n], other[n]) for n in both if other[n] != mine[n]},
        ignored,
    )


def _ignored(name: str, weights: WeightMap) -> bool:
    return name.startswith(weights.ignored) or name.endswith(".num_batches_tracked")


def layers(
    ours: Answer,
    theirs: Answer,
    weights: WeightMap,
    parameters: Iterable[str],
    apart: str = "",
) -> list[Difference]:
    """The differences of the modules that both sides have, in the order in which ours ran, then outputs.

    Two modules are the same layer when they hold the same parameters; where several inside one another
    do, the first whose outputs have the same shapes is taken. parameters: all names of ours. apart: a
    pattern of the authors' names that are left out, see `Case`.
    """
    mine, other = _outputs(ours), _outputs(theirs)
    holders: dict[frozenset[str], list[str]] = {}
    official = [n for n in theirs.record["names"] if not n.endswith(".num_batches_tracked")]
    for path in other:
        inside = frozenset(n for n in official if n.startswith(f"{path}."))
        holders.setdefault(inside, []).append(path)
    for paths in holders.values():
        paths.sort(key=len)
    result, done = [], set()
    for path in mine:
        inside = frozenset(weights.official(n) for n in parameters if n.startswith(f"{path}."))
        for partner in holders.get(inside, []) if inside else []:
            if partner in done or re.fullmatch(apart, partner):
                continue
            found = _difference(ours, theirs, mine[path], other[partner], partner)
            if found is not None:
                done.add(partner)
                result.append(found)
                break
    for name in theirs.below("outputs/"):
        key = f"outputs/{name}"
        found = _difference(ours, theirs, {"0": [key]}, {"0": [key]}, name)
        if found is not None:
            result.append(found)
    return result


def _outputs(answer: Answer) -> dict[str, dict[str, list[str]]]:
    """Module -> part of its output -> the arrays of its calls in order."""
    found: dict[str, dict[str, list[str]]] = {}
    for key in answer.below("layers/"):
        path, call = key.rsplit("/", 1)
        found.setdefault(path, {}).setdefault(call.split(".")[1], []).append(f"layers/{key}")
    return found


def _difference(
    ours: Answer,
    theirs: Answer,
    mine: Mapping[str, list[str]],
    other: Mapping[str, list[str]],
    name: str,
) -> Difference | None:
    """The difference of a module's outputs over all calls; None where their shapes do not fit.

    One call on a batch may stand for several calls on its parts.
    """
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for part in sorted(mine.keys() & other.keys()):
        shapes = [[side.shape(k) for k in x[part]] for side, x in ((ours, mine), (theirs, other))]
        arrays = [[side.arrays[k] for k in x[part]] for side, x in ((ours, mine), (theirs, other))]
        if shapes[0] == shapes[1]:
            pairs += zip(*arrays, strict=True)
        elif _parts_of_a_batch(*shapes):
            pairs.append((np.concatenate(arrays[0]), np.concatenate(arrays[1])))
        else:
            continue
        shape, calls = shapes[1][0], len(shapes[1])
    return _measured(name, shape, pairs, calls) if pairs else None


def _parts_of_a_batch(ours: list[tuple[int, ...]], theirs: list[tuple[int, ...]]) -> bool:
    """Whether the outputs of all calls, joined along the batch, have one shape."""
    if min(map(len, [*ours, *theirs])) < 2 or len({s[1:] for s in [*ours, *theirs]}) != 1:
        return False
    return sum(s[0] for s in ours) == sum(s[0] for s in theirs)


def _measured(
    name: str,
    shape: tuple[int, ...],
    pairs: list[tuple[np.ndarray, np.ndarray]],
    calls: int = 1,
) -> Difference:
    """The difference of matrices; of the second, the recorded one, there may be fewer columns."""
    largest = scale = square = total = 0.0
    for ours, theirs in pairs:
        columns = kept(ours.shape[1], theirs.shape[1])
        difference = (ours[:, columns] - theirs.astype(np.float64)).ravel()
        expected = theirs.astype(np.float64).ravel()
        largest, scale = max(largest, _greatest(difference)), max(scale, _greatest(expected))
        square, total = square + float(difference @ difference), total + float(expected @ expected)
    relative = (square / total) ** 0.5 if total else float(square > 0)
    return Difference(name, shape, largest, scale, relative, calls)


def _greatest(values: np.ndarray) -> float:
    return float(np.abs(values).max(initial=0))


def gradients(ours: Answer, theirs: Answer, stage: str) -> list[Difference]:
    """The differences of the gradients that the authors' code gives, in the order of its parameters."""
    prefix = f"gradients/{stage}/"
    mine = ours.below(prefix)
    return [
        _measured(name, mine[name].shape, [(mine[name].reshape(1, -1), value.reshape(1, -1))])
        for name, value in theirs.below(prefix).items()
        if name in mine and mine[name].shape == theirs.shape(prefix + name)
    ]


def relative(ours: float, theirs: float) -> float:
    """|ours - theirs| / |theirs|."""
    return abs(ours - theirs) / abs(theirs) if theirs else float(ours != theirs)
