"""The values of several methods on several data sets, and what follows from them: means and tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from jfusion import metrics
from jfusion.errors import counted
from jfusion.metrics.table import Table, deviations, means

# data set -> method -> image -> metric -> value
Values = dict[str, dict[str, dict[str, dict[str, float]]]]


@dataclass
class Comparison:
    """Values by data set, method, image and metric, of the evaluator `preset`.

    columns: the metrics, in the order of the tables. decimals: those that a table shows of a metric, where
    they differ from the metric's own.
    """

    preset: str
    columns: list[str]
    values: Values
    decimals: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        definitions = metrics.preset(self.preset).metrics
        known = [c for c in self.columns if c in definitions]
        self.lower = {c for c in known if not definitions[c].higher_is_better}
        self.decimals = {c: definitions[c].decimals for c in known} | dict(self.decimals)

    @property
    def methods(self) -> list[str]:
        """The methods in the order in which they were given."""
        return list(dict.fromkeys(m for images in self.values.values() for m in images))

    def complete_methods(self) -> list[str]:
        """The methods that have values of every data set."""
        return [m for m in self.methods if all(of.get(m) for of in self.values.values())]

    def pairs(self, name: str) -> dict[str, int]:
        """How many pairs of a data set each method was evaluated on."""
        return {method: len(images) for method, images in self.values[name].items()}

    def keep_common(self) -> None:
        """Leaves out the pairs of which a method has no value, for instance of a broken file."""
        for of_set in self.values.values():
            common = set.intersection(*(set(images) for images in of_set.values()))
            for method, images in of_set.items():
                of_set[method] = {name: v for name, v in images.items() if name in common}

    def table(self, name: str, spread: bool = False) -> Table:
        """The means over the pairs of a data set; spread: with the standard deviations."""
        table = Table(self.columns, self.lower, self.decimals)
        counts = self.pairs(name)
        same = len(set(counts.values())) == 1
        for method, images in self.values[name].items():
            label = method if same else f"{method} ({counts[method]})"
            std = deviations(images.values()) if spread else {}
            table.add(label, means(images.values())[0], std, ranked=True)
        return table

    def defined(self, name: str) -> list[str]:
        """The columns that have a value on a data set: without a truth there is no PSNR against it."""
        rows = [row for images in self.values[name].values() for row in images.values()]
        return [c for c in self.columns if any(math.isfinite(r.get(c, math.nan)) for r in rows)]

    def undefined(self, name: str) -> list[str]:
        """A line for each method and metric that is not defined for some images of a data set."""
        return [
            f"{method}: {metric} is not defined for {counted(left_out, 'image')}"
            for method, images in self.values[name].items()
            for metric, left_out in means(images.values())[1].items()
        ]

    def array(self, name: str, metric: str, methods: Iterable[str]) -> np.ndarray:
        """The values of a metric, (images, methods), of the images where all these methods have one."""
        of_set = self.values[name]
        methods = list(methods)
        names = [n for n in of_set[methods[0]] if all(n in of_set[m] for m in methods)]
        rows = [[of_set[m][n].get(metric, math.nan) for m in methods] for n in names]
        values = np.array(rows, float).reshape(-1, len(methods))
        return values[np.isfinite(values).all(1)]
