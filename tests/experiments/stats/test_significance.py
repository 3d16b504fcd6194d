""""""

import itertools
import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_of_statsmodels
from statsmodels.stats.multitest import multipletests

from experiments.stats.significance import (
    SIGNIFICANCE_LEVEL,
    exact_sign_flip_p,
    holm,
    level_of_test,
    mcnemar_p,
    smallest_detectable_difference,
)


def test_mcnemar_of_one_and_nine_by_hand():
    assert mcnemar_p(1, 9) == pytest.approx(2 * (1 + 10) / 1024)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 5), (3, 3), (10, 21), (400, 460)])
def test_mcnemar_agrees_with_statsmodels_and_is_symmetric(b, c):
    table = [[7, b], [c, 9]]
    expected = mcnemar_of_statsmodels(table, exact=True).pvalue if b + c else 1.0
    assert mcnemar_p(b, c) == pytest.approx(expected) == mcnemar_p(c, b)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 10))
@settings(max_examples=60, deadline=None)
def test_one_pair_per_cluster_is_mcnemar(b, c, ties):
    assert exact_sign_flip_p([-1] * b + [1] * c + [0] * ties) == pytest.approx(mcnemar_p(b, c))


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
@settings(max_examples=80, deadline=None)
def test_clustered_test_is_the_share_of_all_sign_flips(sums):
    flips = [
        abs(sum(s * x for s, x in zip(signs, sums, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(sums))
    ]
    brute = np.mean([flip >= abs(sum(sums)) for flip in flips])
    single = [np.sign(x) for x in sums for _ in range(abs(x))]
    clusters = [i for i, x in enumerate(sums) for _ in range(abs(x))]
    if single:
        assert exact_sign_flip_p(single, clusters) == pytest.approx(brute)


def test_three_equal_seeds_are_no_more_evidence_than_one():
    differences = np.array([1, 1, 1, 1, -1, 0, 1, 1, 0, 1])
    assert exact_sign_flip_p(np.tile(differences, 3), np.tile(np.arange(10), 3)) == pytest.approx(
        exact_sign_flip_p(differences)
    )
    assert exact_sign_flip_p(np.tile(differences, 3)) < exact_sign_flip_p(differences) / 10


def test_clustered_test_keeps_its_level_unlike_counting_samples():
    draw, ours, naive = np.random.default_rng(0), 0, 0
    for _ in range(300):
        effect = draw.normal(0, 0.35, 40)[np.repeat(np.arange(40), 8)]
        d = (draw.random(320) < 0.5 + effect).astype(int) - (draw.random(320) < 0.5 - effect).astype(int)
        ours += exact_sign_flip_p(d, np.repeat(np.arange(40), 8)) <= 0.05
        naive += mcnemar_p(int((d < 0).sum()), int((d > 0).sum())) <= 0.05
    assert ours / 300 < 0.085
    assert naive / 300 > 0.2


def test_large_clustered_test_agrees_with_drawn_flips():
    draw = np.random.default_rng(1)
    sums = draw.integers(-3, 4, 400) + (draw.random(400) < 0.08)
    sampled = np.abs((draw.choice([-1, 1], (20_000, 400)) * sums).sum(1)) >= abs(sums.sum())
    p = exact_sign_flip_p(sums, np.arange(400))
    assert p == pytest.approx(sampled.mean(), abs=0.012)
    assert 0 < p < 1


def test_p_is_at_most_one_despite_rounding():
    assert max(exact_sign_flip_p([1, -1] * n) for n in range(1, 300)) == 1


def test_exact_test_refuses_fractions():
    with pytest.raises(ValueError, match="graded"):
        exact_sign_flip_p([0.5, 1])


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=12, deadline=None)
def test_holm_agrees_with_statsmodels(p):
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def test_holm_of_no_values_is_empty():
    assert len(holm([])) == 0


def closed_test(p, topics):
    """The definition: a hypothesis has the largest p of all sets that contain it, each with its own weights."""
    adjusted = np.zeros(len(p))
    for size in range(1, len(p) + 1):
        for members in combinations(range(len(p)), size):
            present = {topics[i] for i in members}
            sizes = {t: sum(topics[i] == t for i in members) for t in present}
            joint = min(1.0, *(p[i] * sizes[topics[i]] * len(present) for i in members))
            for i in members:
                adjusted[i] = max(adjusted[i], joint)
    return adjusted


def test_topics_that_share_a_level_are_a_closed_test():
    draw = np.random.default_rng(11)
    for topics in ("aabbbc", "abcd", "aaaa", "abbbbb"):
        for _ in range(20):
            p = draw.random(len(topics)) ** 4
            assert holm(p, list(topics)) == pytest.approx(closed_test(p, topics))
    assert list(holm([0.01, 0.04, 0.03])) == list(holm([0.01, 0.04, 0.03], ["a"] * 3))
    assert len(holm([])) == 0


@pytest.mark.parametrize("family", range(1, 200))
def test_the_level_of_a_test_lies_on_the_side_of_p_that_the_correction_says_at_its_edge(family):
    for p in SIGNIFICANCE_LEVEL / family * np.array([1 - 1e-15, 1, 1 + 1e-15, 1 + 1e-12]):
        corrected = min(1.0, float(p) * family)
        assert (p < level_of_test(p, corrected, family)) == (corrected <= SIGNIFICANCE_LEVEL)


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
