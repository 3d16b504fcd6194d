"""The Monte Carlo test at several looks, on differences by hand."""

import numpy as np
import pytest

from experiments.stats.exchange_looks import ExchangeLooks, exchange_differences, num_patterns
from experiments.stats.run_statistic_tests import swapped_differences
from experiments.stats.run_statistics import build_strata
from icl.metrics.run_level import ratio
from icl.metrics.sufficient_statistics import statistics_of


def test_the_number_of_patterns_is_200_for_each_level():
    assert [num_patterns(m, 0.05) for m in (1, 8)] == [4000, 32_000]
    assert num_patterns(1, 0.3) == 667


def test_the_last_look_removes_as_many_extremes_as_the_level_allows():
    """Of 20 rows a level of .1 removes the two largest at time 1: the data are decided exactly if among them."""
    for place, level in ((18, 0.1), (17, 1.0)):
        differences = np.arange(1.0, 21.0)
        differences[[0, place]] = differences[[place, 0]]
        assert ExchangeLooks([0.1], 2.0, 20).look(differences, 1.0) == level


def test_ties_are_removed_together_or_not_at_all():
    tied = np.array([20.0, 20.0, 20.0, *np.arange(1.0, 18.0)])
    assert ExchangeLooks([0.1], 2.0, 20).look(tied, 1.0) == 1.0
    assert ExchangeLooks([0.15], 2.0, 20).look(tied, 1.0) == 0.15
    nearly = tied + np.array([0, 1e-14, -1e-14, *np.zeros(17)])
    assert ExchangeLooks([0.1], 2.0, 20).look(nearly, 1.0) == 1.0, "rounding errors are ties"


def test_an_undefined_difference_is_the_most_extreme_and_zero_is_never_removed():
    undefined = np.array([np.nan, *np.arange(1.0, 20.0)])
    assert ExchangeLooks([0.05], 2.0, 20).look(undefined, 1.0) == 0.05
    assert ExchangeLooks([0.5], 2.0, 4).look(np.zeros(4), 1.0) == 1.0
    assert ExchangeLooks([0.05], 2.0, 20).look(-undefined, 1.0) == 0.05


def test_the_level_is_spent_by_time_to_the_power_rho():
    rows, first = 100, np.arange(100.0, 0, -1)  # the data are the largest
    assert [ExchangeLooks([0.04], rho, rows).look(first, 0.5) for rho in (2.0, 3.0)] == [0.04, 1.0]
    test = ExchangeLooks([0.04], 2.0, rows)
    second = np.roll(first, 1)  # the data are the smallest, the largest are others
    assert test.look(second, 0.5) == 1.0
    assert test.alive.sum() == 99
    assert test.look(first, 1.0) == 0.04
    assert test.alive.sum() == 96, "in all, 4 of 100 rows"
    assert test.look(second, 1.0) == 0.04, "what was decided stays decided"


def test_a_lower_level_never_decides_later_than_a_higher_one():
    draw = np.random.default_rng(0)
    test, least = ExchangeLooks([0.02, 0.05, 0.2], 2.0, 200), 1.0
    for k in range(1, 6):
        result = test.look(draw.normal(size=200), k / 5)
        assert result <= least
        least = result
        assert np.array_equal(test.alive, np.minimum.accumulate(test.alive, axis=0))
    assert (~test.alive).sum(axis=1).tolist() == [4, 10, 40]


@pytest.mark.parametrize("rows", [2000, 2001, 4003])
def test_patterns_belong_to_clusters_and_the_first_row_is_the_data(rows):
    a, b = np.array([1.0, 0, 0, 1, 0]), np.array([1.0, 1, 1, 0, 1])
    sides = (statistics_of(ratio(side, np.ones(5))) for side in (a, b))
    strata = build_strata([(np.arange(5), *sides)], np.arange(5))
    names = ["q0", "q1", "q2", "q3", "q4"]
    differences = exchange_differences(strata, names, rows, 7)
    assert len(differences) == rows
    assert differences[0] == swapped_differences(strata, np.zeros((1, 5)))[0] == pytest.approx(0.4)
    assert abs(differences.mean()) < 0.05
    assert set(np.round(differences * 5)) == {-4, -2, 0, 2, 4}
    assert np.array_equal(differences, exchange_differences(strata, names, rows, 7))
    assert not np.array_equal(differences, exchange_differences(strata, names, rows, 8))
    one = statistics_of(ratio(a[:1], np.ones(1))), statistics_of(ratio(1 - a[:1], np.ones(1)))
    alone = exchange_differences(build_strata([(np.arange(1), *one)], np.arange(1)), ["q3"], rows, 7)
    assert set(alone) == {-1.0, 1.0}
    longer = exchange_differences(build_strata([(np.arange(1), *one)], np.arange(1)), ["q3"], rows + 8, 7)
    assert np.array_equal(longer[:rows], alone), "more rows leave the first ones as they are"
