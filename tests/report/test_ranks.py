"""Ranks and tests, against SciPy and an example computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from jfusion.report import ranks
from jfusion.report.comparison import Comparison

# Three methods on four images. Ranks by hand (higher is better): 1 2 3, 1 2 3, 2 1 3, 1 2.5 2.5.
VALUES = np.array([[9.0, 5, 1], [8, 6, 2], [4, 7, 3], [5, 2, 2]])


def test_ranks_of_an_example_by_hand():
    expected = [[1, 2, 3], [1, 2, 3], [2, 1, 3], [1, 2.5, 2.5]]
    assert ranks.ranks(VALUES).tolist() == expected
    assert ranks.ranks(-VALUES, higher_is_better=False).tolist() == expected
    assert ranks.ranks(VALUES).mean(0).tolist() == [1.25, 1.875, 2.875]


def test_friedman_of_an_example_by_hand():
    # 12 n / (k (k + 1)) * sum (R - (k + 1) / 2)^2 = 4 * (.75^2 + .125^2 + .875^2) = 5.375; one tie of two
    # among n k = 12 ranks: divided by 1 - (2^3 - 2) / (n (k^3 - k)) = 1 - 6 / 96
    chi_square, p = ranks.friedman(VALUES)
    assert chi_square == pytest.approx(5.375 / (1 - 6 / 96))
    assert p == pytest.approx(math.exp(-chi_square / 2))  # chi-square with two degrees of freedom
    assert (chi_square, p) == pytest.approx(tuple(stats.friedmanchisquare(*VALUES.T)))


def test_friedman_needs_three_methods_that_differ():
    assert all(map(math.isnan, ranks.friedman(VALUES[:, :2])))
    assert all(map(math.isnan, ranks.friedman(np.ones((4, 3)))))


def test_holm_of_an_example_by_hand():
    assert ranks.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert ranks.holm([0.5, 0.9]) == [1.0, 1.0] and ranks.holm([]) == []


def test_wilcoxon_by_hand_and_of_equal_values():
    x, y = np.arange(1.0, 7), np.zeros(6)
    assert ranks.wilcoxon(x, y) == pytest.approx(2 / 2**6)  # the extreme of 64 signs, on both sides
    assert ranks.wilcoxon(x, x) == 1
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 40))
    assert ranks.wilcoxon(x, y) == stats.wilcoxon(x, y).pvalue


@pytest.mark.parametrize(("k", "q"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)])
def test_critical_differences_are_those_of_demsar(k, q):
    # the quantiles of table 5a of Demsar 2006
    assert ranks.critical_difference(k, 14) == pytest.approx(
        q * math.sqrt(k * (k + 1) / 84), rel=5e-4
    )
    assert math.isnan(ranks.critical_difference(1, 14))


def comparison(**values):
    """Two metrics of methods whose values are given per set: MSE is the negative of EN."""
    sets = {
        name: {
            method: {str(i): {"EN": v, "MSE": -v} for i, v in enumerate(column)}
            for method, column in zip("xyz", table.T, strict=True)
        }
        for name, table in values.items()
    }
    return Comparison("film", ["EN", "MSE"], sets)


def test_a_comparison_ranks_by_direction_set_and_over_all():
    result = ranks.compare(comparison(S=VALUES, T=VALUES[:, ::-1]))
    assert result.by_set["S"]["x"] == {"EN": 1.25, "MSE": 1.25, ranks.ALL: 1.25}
    assert result.by_set["T"]["x"]["EN"] == 2.875
    first, _, overall = result.tests
    assert first.images == 8 and first.mean_ranks["x"] == pytest.approx((1.25 + 2.875) / 2)
    assert overall.metric == ranks.ALL and overall.best == "y"
    assert set(first.p_holm) == {"x", "y", "z"} - {first.best}


def test_the_ranks_over_all_metrics_are_ranks_again():
    data = comparison(S=VALUES)
    for row in data.values["S"]["y"].values():
        row["MSE"] = -99.0  # y is the best in MSE, and the second or first in EN
    result = ranks.compare(data)
    by_image = ranks.by_image(data, "S", "xyz")
    assert by_image["0"].tolist() == [1.5, 1.5, 3] and by_image["2"].tolist() == [2, 1, 3]
    over_all = {m: result.by_set["S"][m][ranks.ALL] for m in "xyz"}
    assert over_all == result.tests[-1].mean_ranks and sum(over_all.values()) == 6


def test_a_clear_winner_is_called_significant_and_equals_are_not():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(20, 3)) * 0.1 + [2.0, 0.0, 0.0]
    (line, *_) = ranks.lines(ranks.compare(comparison(S=table)))
    assert line.startswith("EN (20 pairs): Friedman chi2") and "best x, better than y, z" in line
    table[:, 1] = table[:, 0]
    (line, *_) = ranks.lines(ranks.compare(comparison(S=table)))
    assert "not significantly better than y (p 1.000)" in line


def test_methods_without_a_set_are_not_ranked_and_undefined_images_are_left_out():
    data = comparison(S=VALUES, T=VALUES)
    del data.values["T"]["z"]
    data.values["S"]["x"]["0"]["EN"] = math.nan
    result = ranks.compare(data)
    assert result.methods == ["x", "y"]
    assert [test.images for test in result.tests] == [7, 8, 8]


@pytest.mark.parametrize("seed", range(3))
def test_ranks_are_those_of_scipy(seed):
    values = np.random.default_rng(seed).integers(-3, 4, (5, 9)) / 2
    values[0, :2] = -np.inf
    assert (ranks.ranks(values, higher_is_better=False) == stats.rankdata(values, axis=1)).all()
    assert (ranks.ranks(values) == stats.rankdata(-values, axis=1)).all()
