"""Differences under exchange patterns of clusters."""

import numpy as np
import pytest

from experiments.stats.exchange_looks import exchange_differences
from experiments.stats.run_statistic_tests import swapped_differences
from experiments.stats.run_statistics import build_strata
from icl.metrics.run_level import ratio
from icl.metrics.sufficient_statistics import statistics_of


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
