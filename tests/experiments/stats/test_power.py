import math

import numpy as np
import pytest
from scipy.stats import norm

from experiments.stats.power import smallest_detectable_difference
from experiments.stats.significance import mcnemar_p


@pytest.mark.parametrize(("n", "psi"), [(100, 0.2), (1000, 0.05), (3000, 0.5)])
def test_the_difference_solves_the_stated_formula(n, psi):
    delta = smallest_detectable_difference(n, psi)
    za, zb = norm.ppf(0.975), norm.ppf(0.8)
    assert math.sqrt(n) * delta == pytest.approx(za * math.sqrt(psi) + zb * math.sqrt(psi - delta**2))


def test_mcnemar_detects_that_difference_with_80_percent_power():
    n, psi = 600, 0.2
    delta = smallest_detectable_difference(n, psi)
    draw = np.random.default_rng(0)
    counts = draw.multinomial(n, [(psi - delta) / 2, (psi + delta) / 2, 1 - psi], 3000)
    power = np.mean([mcnemar_p(int(b), int(c)) <= 0.05 for b, c, _ in counts])
    assert power == pytest.approx(0.8, abs=0.05)


def test_more_pairs_detect_smaller_differences():
    differences = [smallest_detectable_difference(n) for n in (50, 200, 1000, 10_000)]
    assert differences == sorted(differences, reverse=True)
    assert differences[-1] < 0.02


def test_a_difference_is_at_most_the_share_of_differing_pairs():
    rare = smallest_detectable_difference(100, 0.01)
    za, zb = norm.ppf(0.975), norm.ppf(0.8)
    assert 10 * rare == pytest.approx(za * math.sqrt(rare) + zb * math.sqrt(rare - rare**2), abs=0.002)


def test_two_pairs_detect_no_difference():
    assert smallest_detectable_difference(2) == math.inf


@pytest.mark.parametrize(("pairs", "discordance"), [(0, 0.2), (10, 0), (10, 1.5)])
def test_impossible_designs_are_refused(pairs, discordance):
    with pytest.raises(ValueError, match="needs at least one pair"):
        smallest_detectable_difference(pairs, discordance)


def test_the_difference_of_rare_discordance_is_the_first_detected_on_a_grid_of_a_ten_thousandth():
    rare = smallest_detectable_difference(100, 0.01)
    za, zb = norm.ppf(0.975), norm.ppf(0.8)

    def is_detected(d):
        return 10 * d >= za * math.sqrt(d) + zb * math.sqrt(d - d * d)

    assert rare == round(rare * 10_000) / 10_000
    assert is_detected(rare)
    assert not is_detected(rare - 1e-4)


def test_the_fewest_pairs_that_detect_anything_detect_a_difference_of_one():
    """At psi = delta = 1 the formula is sqrt(n) = z: four pairs, since z is 1.96."""
    assert [smallest_detectable_difference(n) == math.inf for n in (3, 4)] == [True, False]
    assert smallest_detectable_difference(4, 1.0) <= 1
