"""Ranks of methods, and whether their differences are significant.

The tests are those of J. Demsar, "Statistical Comparisons of Classifiers over Multiple Data Sets" (JMLR
7, 2006): Friedman's test of all methods, then Wilcoxon's signed-rank test of each method against the best
with Holm's correction, and Nemenyi's critical difference of mean ranks. The samples are the pairs of
images. Pairs of one video, or of one scene, are not independent: the p-values are then too small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from jfusion.errors import counted
from jfusion.metrics.table import Table
from jfusion.report.comparison import Comparison

ALPHA = 0.05
ALL = "all metrics"


def ranks(values: np.ndarray, higher_is_better: bool = True) -> np.ndarray:
    """The ranks of the methods on each image: 1 is the best, equal values share the mean of their ranks.

    values: (images, methods), no NaN.
    """
    rows = map(_ranks_of_row, -values if higher_is_better else values)
    return np.array(list(rows)).reshape(values.shape)


def _ranks_of_row(row: np.ndarray) -> np.ndarray:
    """The ranks from the lowest value on. SciPy's `rankdata` gives the same, after a second of importing."""
    ordered = np.sort(row)
    return (np.searchsorted(ordered, row) + np.searchsorted(ordered, row, "right") + 1) / 2


def friedman(values: np.ndarray) -> tuple[float, float]:
    """Friedman's chi-square and its p-value, of values or ranks (images, methods).

    NaN for fewer than three methods or two images, and where all methods are equal on every image.
    """
    from scipy.stats import friedmanchisquare

    if values.shape[1] < 3 or len(values) < 2 or (values == values[:, :1]).all():
        return math.nan, math.nan
    result = friedmanchisquare(*values.T)
    return float(result.statistic), float(result.pvalue)


def wilcoxon(x: np.ndarray, y: np.ndarray) -> float:
    """The two-sided p-value of Wilcoxon's signed-rank test of paired values; 1 where all are equal."""
    from scipy.stats import wilcoxon as signed_rank

    if len(x) == 0 or (x == y).all():
        return 1.0
    return float(signed_rank(x, y).pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's correction: the i-th smallest of m p-values times m - i + 1, never falling, at most 1."""
    corrected, largest = [0.0] * len(p), 0.0
    for i, at in enumerate(sorted(range(len(p)), key=lambda at: p[at])):
        largest = max(largest, min(1.0, (len(p) - i) * p[at]))
        corrected[at] = largest
    return corrected


def critical_difference(methods: int, images: int, alpha: float = ALPHA) -> float:
    """Nemenyi's critical difference of mean ranks; NaN for fewer than two methods or no image.

    q sqrt(k (k + 1) / (6 n)), q the quantile of the studentized range over sqrt(2).
    """
    from scipy.stats import studentized_range

    if methods < 2 or not images:
        return math.nan
    q = studentized_range.ppf(1 - alpha, methods, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(methods * (methods + 1) / (6 * images)))


@dataclass(frozen=True)
class MetricTest:
    """The tests of one metric over the images of all data sets, or of the ranks over all metrics (`ALL`).

    For these, the mean ranks of the methods on each image are ranked again.
    mean_ranks, p_holm: by method; p_holm has every method but the best, the one of the best mean rank.
    """

    metric: str
    images: int
    mean_ranks: dict[str, float]
    chi_square: float
    p: float
    critical_difference: float
    best: str
    p_holm: dict[str, float]


@dataclass(frozen=True)
class Ranks:
    """Mean ranks by data set, method and metric (with `ALL`), and the tests over all data sets."""

    methods: list[str]
    by_set: dict[str, dict[str, dict[str, float]]]
    tests: list[MetricTest]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        tests = [asdict(test) for test in self.tests]
        return {"alpha": ALPHA, "mean_ranks": self.by_set, "tests": tests}


def compare(comparison: Comparison) -> Ranks:
    """Ranks the methods that have values of every data set, and tests their differences."""
    methods = comparison.complete_methods()
    pooled: dict[str, list[np.ndarray]] = {}
    by_set: dict[str, dict[str, dict[str, float]]] = {}
    for name in comparison.values:
        arrays = {c: comparison.array(name, c, methods) for c in comparison.columns}
        for metric, values in arrays.items():
            pooled.setdefault(metric, []).append(values)
        rows = {c: ranks(v, c not in comparison.lower) for c, v in arrays.items() if len(v)}
        overall = _over_metrics(comparison, name, methods)
        rows[ALL] = ranks(overall, higher_is_better=False) if len(overall) else overall
        by_set[name] = {
            m: {c: float(r[:, i].mean()) for c, r in rows.items() if len(r)}
            for i, m in enumerate(methods)
        }
    tests = []
    for metric, parts in pooled.items():
        values = np.concatenate(parts)
        if len(values):
            tests.append(_test(metric, values, metric not in comparison.lower, methods))
    overall = np.concatenate([_over_metrics(comparison, n, methods) for n in comparison.values])
    if len(overall):
        tests.append(_test(ALL, overall, False, methods))
    return Ranks(methods, by_set, tests)


def by_image(comparison: Comparison, name: str, methods: Sequence[str]) -> dict[str, np.ndarray]:
    """Image -> rank of each method, the mean over the metrics that are defined for all of them.

    Images where no metric is defined are left out.
    """
    of_set = comparison.values[name]
    result = {}
    for image in of_set[methods[0]]:
        if not all(image in of_set[m] for m in methods):
            continue
        rows = [
            [
                (-1.0 if c not in comparison.lower else 1.0) * of_set[m][image].get(c, math.nan)
                for m in methods
            ]
            for c in comparison.columns
        ]
        defined = np.array(rows)[np.isfinite(rows).all(1)]
        if len(defined):
            result[image] = ranks(defined, higher_is_better=False).mean(0)
    return result


def _over_metrics(comparison: Comparison, name: str, methods: Sequence[str]) -> np.ndarray:
    """The ranks of `by_image` as (images, methods)."""
    rows = list(by_image(comparison, name, methods).values())
    return np.array(rows).reshape(-1, len(methods))


def _test(metric: str, values: np.ndarray, higher: bool, methods: list[str]) -> MetricTest:
    mean_ranks = ranks(values, higher).mean(0)
    best = int(mean_ranks.argmin())
    others = [i for i in range(len(methods)) if i != best]
    p = holm([wilcoxon(values[:, best], values[:, i]) for i in others])
    return MetricTest(
        metric,
        len(values),
        dict(zip(methods, map(float, mean_ranks), strict=True)),
        *friedman(values),
        critical_difference(len(methods), len(values)),
        methods[best],
        dict(zip((methods[i] for i in others), p, strict=True)),
    )


def tables(result: Ranks, columns: Sequence[str], several: bool) -> list[tuple[str, Table]]:
    """Titles and tables of the mean ranks: of each data set, and where there are several, of all pairs."""
    shown = [*columns, ALL]
    parts = [
        (
            f"mean ranks, {name} (1 is best)" if several else "mean ranks (1 is best)",
            _ranked(rows, shown),
        )
        for name, rows in result.by_set.items()
    ]
    if several:
        over_all = {
            m: {test.metric: test.mean_ranks[m] for test in result.tests} for m in result.methods
        }
        parts.append(
            ("mean ranks, the pairs of all data sets (1 is best)", _ranked(over_all, shown))
        )
    return parts


def _ranked(rows: Mapping[str, Mapping[str, float]], columns: Sequence[str]) -> Table:
    table = Table(columns, lower=columns)
    for method, values in rows.items():
        table.add(method, values, ranked=True)
    return table


def lines(result: Ranks) -> list[str]:
    """One line for each test, for a reader."""
    return [_line(test) for test in result.tests]


def _line(test: MetricTest) -> str:
    alike = [m for m, p in test.p_holm.items() if p >= ALPHA]
    worse = [m for m, p in test.p_holm.items() if p < ALPHA]
    text = f"{test.metric} ({counted(test.images, 'pair')}): "
    if math.isfinite(test.p):
        text += f"Friedman chi2 {test.chi_square:.1f}, p {_p(test.p)}; "
    text += f"best {test.best}"
    if worse:
        text += f", better than {', '.join(worse)} (Wilcoxon, Holm, p < {ALPHA:g})"
    if alike:
        shown = ", ".join(f"{m} (p {_p(test.p_holm[m])})" for m in alike)
        text += f", not significantly better than {shown}"
    return f"{text}; critical difference {test.critical_difference:.2f}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
