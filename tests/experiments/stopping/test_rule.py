"""The rule that ends comparisons: shares and power as published, Holm, futility, margin, whole-run metrics."""

import numpy as np
import pytest

from experiments.config.keys import StopSpec
from experiments.stats.exchanges import build_strata, differences_at_look, randomization_test
from experiments.stopping.rule import ComparisonTest, LookDesign, LookResult, Standing, between, end_comparisons
from experiments.stopping.sequential import SpentLevel, ladder, lattice, look_sizes, zero_mean_p
from icl.metrics.base import ScoredSample
from icl.metrics.classification import MacroF1
from tests.experiments.stopping.anytime_p import anytime_p


def _result(p: float, time: float = 0.5, z: float = 2.0, side: int = 1, is_equal: bool = False) -> LookResult:
    return LookResult(int(100 * time), time, p, side, z, 0.1, is_equal=is_equal)


def _run(sums: np.ndarray, spec: StopSpec, family: int = 1, looks: int = 20) -> tuple[Standing, float]:
    design = LookDesign(len(sums), looks)
    test, standing = ComparisonTest(design, spec, family), [Standing()]
    for look, n in enumerate(design.sizes, 1):
        result = test.look(sums[:n].astype(float), np.ones(n))
        standing = end_comparisons(standing, {0: result}, look, spec, family)
        if standing[0].end != "running":
            break
    assert standing[0].result is not None
    return standing[0], standing[0].result.time


def _shares(theta: float, spec: StopSpec, family: int, runs: int = 150) -> tuple[float, float]:
    """(mean share of the clusters, share of runs that were decided) of single pairs, 1,000 queries, psi .1."""
    draw, psi, planned = np.random.default_rng(11), 0.1, 1000
    effect = theta * np.sqrt(psi / planned)
    p = [(psi - effect) / 2, 1 - psi, (psi + effect) / 2]
    ends = [_run(draw.choice([-1, 0, 1], planned, p=p), spec, family) for _ in range(runs)]
    return float(np.mean([time for _, time in ends])), float(np.mean([one.end == "decided" for one, _ in ends]))


@pytest.mark.parametrize(
    ("theta", "family", "share", "power"),
    [(0, 1, 0.69, 0.05), (2.8, 1, 0.68, 0.76), (5, 8, 0.50, 0.98), (0, 8, 0.52, 0.005)],
)
def test_share_of_queries_and_power_are_the_published_ones(theta, family, share, power):
    mine = _shares(theta, StopSpec(), family)
    assert mine[0] == pytest.approx(share, abs=0.08)
    assert mine[1] == pytest.approx(power, abs=0.1)


def test_futility_ends_a_null_comparison_early_and_as_open():
    sums = np.tile([1, -1, 0, 0], 50)
    with_futility, time = _run(sums, StopSpec())
    assert with_futility.end == "open"
    assert time < 1
    assert 0 < with_futility.chance < 0.05
    assert _run(sums, StopSpec(futility=None))[1] == 1


def test_an_open_comparison_is_decided_when_others_free_their_level():
    spec, open_one = StopSpec(), Standing(_result(0.04), "open", 3)
    before = [open_one, Standing(_result(0.5), look=3)]
    assert [one.end for one in end_comparisons(before, {1: _result(0.3)}, 4, spec, 2)] == ["open", "running"]
    after = end_comparisons(before, {1: _result(0.02)}, 4, spec, 2)
    assert [one.end for one in after] == ["decided", "decided"]
    assert after[0].look == 3, "its result is that of its own last look"


def test_comparisons_that_left_the_grid_still_count_in_the_family():
    assert end_comparisons([Standing()], {0: _result(0.03)}, 1, StopSpec(), 1)[0].end == "decided"
    assert end_comparisons([Standing()], {0: _result(0.03)}, 1, StopSpec(), 2)[0].end == "running"


def test_a_margin_ends_equal_arms_as_equal_and_tests_without_steps():
    sums = np.tile([1, -1, *[0] * 18], 150)  # 3,000 queries, one pair in ten differs, no difference
    one, time = _run(sums, StopSpec(margin=0.05))
    assert one.end == "equal"
    assert time < 0.5
    assert one.result is not None
    assert -0.05 < one.result.low < one.result.high < 0.05
    narrow, time = _run(sums[:1000], StopSpec(margin=0.02))
    assert (narrow.end, time) == ("open", 1)
    two = [Standing(), Standing()]
    stepped = end_comparisons(two, {0: _result(0.001), 1: _result(0.04)}, 1, StopSpec(), 2)
    unstepped = end_comparisons(two, {0: _result(0.001), 1: _result(0.04)}, 1, StopSpec(margin=0.05), 2)
    assert [one.end for one in stepped] == ["decided", "decided"]
    assert unstepped[1].end == "running"


def test_p_and_interval_agree_about_zero_at_every_look():
    draw = np.random.default_rng(12)
    for _ in range(60):
        sums = draw.choice([-1.0, 0, 1], 200, p=[0.1, 0.7, 0.2])
        test = ComparisonTest(LookDesign(200, 20), StopSpec(), 4)
        for n in look_sizes(200, 20):
            result = test.look(sums[:n], np.ones(n))
            outside = result.low >= 0 if result.side > 0 else result.high <= 0
            assert outside == (result.p <= 0.05)


def test_seeds_and_groups_wait_until_many_clusters_differ():
    sums = np.full(100, 3.0)
    for seeds, group, least in ((3, 1, 20), (1, 4, 50), (1, 1, 0)):
        design = LookDesign(100, 20, seeds=seeds, group=group)
        assert design.least_differing == least
        test = ComparisonTest(design, StopSpec(), 1)
        first = next(n for n in look_sizes(100, 20) if test.look(sums[:n], np.full(n, 3.0)).p < 1)
        assert first >= max(least, 15)
    late = ComparisonTest(LookDesign(30, 5, group=2), StopSpec(), 1)
    p = [late.look(sums[:n], np.full(n, 3.0)).p for n in look_sizes(30, 5)]
    assert p[:-1] == [1] * 4
    assert p[-1] < 1, "the last look is always taken"


def test_the_null_of_means_is_tested_by_its_own_p():
    draw = np.random.default_rng(13)
    sums = draw.choice([1.0, 0, -1], 500, p=[0.35, 0.5, 0.15])
    one, _ = _run(sums, StopSpec(null="mean"))
    assert one.end == "decided"
    skewed = np.tile([9.0] + [-1.0] * 9, 20)
    test = ComparisonTest(LookDesign(200, 20, seeds=3, group=3), StopSpec(null="mean"), 1)
    assert min(test.look(skewed[:n], np.ones(n)).p for n in look_sizes(200, 20)) > 0.05


def test_graded_scores_are_tested_on_their_grid():
    draw = np.random.default_rng(14)
    sums = draw.normal(0.06, 0.2, 300)
    results = []
    for scale in (1.0, 1e-3):
        test = ComparisonTest(LookDesign(300, 20, whole=False), StopSpec(), 1)
        results.append([test.look(scale * sums[:n], np.ones(n)).p for n in look_sizes(300, 20)])
    assert results[0] == results[1]
    assert results[0][-1] <= 0.05


def _decided(test: SpentLevel, differences: np.ndarray, time: float) -> float:
    """The least level that has rejected the first row, else 1."""
    sizes = np.where(np.isnan(differences), np.inf, abs(differences))
    test.reject(np.round(sizes, 12), time)
    return next((float(one) for one, row in zip(test.levels, test.alive, strict=True) if row[0] == 0), 1.0)


def _cells(draw: np.random.Generator, n: int, right: float, labels: int = 3, reference: float = 0.6):
    """The answers of two arms of which these shares are right."""
    gold = draw.integers(0, labels, n)
    arms = [np.where(draw.random(n) < share, gold, draw.integers(0, labels, n)) for share in (reference, right)]
    names = ("red", "green", "blue")[:labels]
    return tuple(
        [
            ScoredSample(f"q{i}", float(a == b), None, names[a], (names[b],), names)
            for i, (a, b) in enumerate(zip(own, gold, strict=True))
        ]
        for own in arms
    )


def _differences(cells, rows: int, seed: int):
    return differences_at_look(MacroF1(), [cells], [one.query for one in cells[0]], rows, seed)


def test_one_look_at_a_run_level_metric_is_the_randomization_test():
    cells = _cells(np.random.default_rng(15), 80, 0.75)
    strata = build_strata([(np.arange(80), *(MacroF1().run_level(own) for own in cells))], np.arange(80))
    differences, expected = _differences(cells, 8_000, 0), randomization_test(strata, np.ones(80)).p
    assert np.mean(np.abs(differences) >= abs(differences[0])) == pytest.approx(expected, abs=0.02)
    assert np.array_equal(_differences(cells, 8_000, 0), differences)


def test_run_level_comparisons_are_decided_when_they_differ_and_rarely_when_not():
    looks = {"equal": 0, "differ": 0}
    for name, right, runs in (("equal", 0.6, 60), ("differ", 0.9, 8)):
        for run in range(runs):
            rows = _differences(_cells(np.random.default_rng(run), 100, right), 400, run)
            looks[name] += _decided(SpentLevel([0.05], 2.0, 400), rows, 1.0) <= 0.05
    assert looks["differ"] == 8
    assert looks["equal"] <= 8  # 3 expected


def test_rows_die_in_the_order_of_levels_and_within_the_spent_level():
    draw = np.random.default_rng(16)
    test, rows = SpentLevel([0.01, 0.02, 0.05], 2.0, 4000), np.zeros(4000)
    for time in (0.25, 0.5, 0.75, 1.0):
        rows = rows + draw.normal(0, 1, 4000)
        test.reject(abs(rows), time)
        dead = (test.alive == 0).sum(axis=1)
        assert (dead <= 4000 * np.array([0.01, 0.02, 0.05]) * time**2 + 1e-9).all()
        assert (test.alive[:-1] >= test.alive[1:]).all()
    assert dead[-1] > 150


def test_the_test_of_a_run_level_metric_looks_at_growing_prefixes():
    cells = _cells(np.random.default_rng(17), 200, 0.85, 2, 0.1)

    def differences(n, rows):
        return _differences([own[:n] for own in cells], rows, 0)

    test = ComparisonTest(LookDesign(200, 4), StopSpec(), 1)
    p = [test.look_at_run(n, n, differences).p for n in (50, 100, 150, 200)]
    assert p == sorted(p, reverse=True)
    assert p[-1] <= 0.05
    late = ComparisonTest(LookDesign(200, 4), StopSpec(), 1)
    assert [late.look_at_run(n, n, differences).p for n in (100, 200)] == p[1::2], "a missed look is taken later"


def test_a_run_level_metric_without_any_difference_has_no_standardized_one():
    result = ComparisonTest(LookDesign(20, 2), StopSpec(), 1).look_at_run(10, 8, lambda clusters, rows: np.zeros(rows))
    assert (result.z, result.p, result.side, result.difference, result.time) == (0, 1, 0, 0, 0.5)
    assert (result.clusters, result.pairs) == (10, 8)


def test_graded_sums_have_the_grid_of_the_first_look():
    """Later sums are larger. With their grid the sums of the first look would be rounded in another way."""
    draw = np.random.default_rng(14)
    sums = np.r_[draw.normal(0.02, 0.05, 10), draw.normal(0.3, 1.0, 90)]
    design = LookDesign(100, 10, whole=False)
    test = ComparisonTest(design, StopSpec(), 8)
    p = [test.look(sums[:n], np.ones(n)).p for n in design.sizes]
    assert p == anytime_p(lattice(sums, 10), design.sizes, 100, ladder(8)).tolist()
    assert p[-1] < 0.05
    late = ComparisonTest(design, StopSpec(), 8)
    assert [late.look(sums[:n], np.ones(n)).p for n in design.sizes[2::3]] == p[2::3], "missed looks are taken later"


def test_the_mean_rule_bets_on_clusters_of_the_largest_size():
    """Sums of three pairs lie in [-3, 3], and the e-process needs values in [-1, 1]."""
    sums = np.random.default_rng(15).choice([-1.0, 1, 2, 3], 60)
    test = ComparisonTest(LookDesign(60, 3, seeds=3), StopSpec(null="mean"), 1)
    p = [test.look(sums[:n], np.full(n, 3.0)).p for n in (20, 40, 60)]
    assert p == [zero_mean_p(sums[:n] / 3)[-1] for n in (20, 40, 60)]


def test_the_number_of_patterns_is_200_for_each_level():
    for level, m, rows in ((0.05, 1, 4000), (0.05, 8, 32_000), (0.3, 1, 667)):
        assert ComparisonTest(LookDesign(9, 3), StopSpec(level=level), m).rows.total == rows


def test_the_last_look_removes_as_many_extremes_as_the_level_allows():
    """Of 20 rows a level of .1 removes the two largest at time 1: the data are decided exactly if among them."""
    for place, level in ((18, 0.1), (17, 1.0)):
        differences = np.arange(1.0, 21.0)
        differences[[0, place]] = differences[[place, 0]]
        assert _decided(SpentLevel([0.1], 2.0, 20), differences, 1.0) == level


def test_ties_are_removed_together_or_not_at_all():
    tied = np.array([20.0, 20.0, 20.0, *np.arange(1.0, 18.0)])
    assert _decided(SpentLevel([0.1], 2.0, 20), tied, 1.0) == 1.0
    assert _decided(SpentLevel([0.15], 2.0, 20), tied, 1.0) == 0.15
    nearly = tied + np.array([0, 1e-14, -1e-14, *np.zeros(17)])
    assert _decided(SpentLevel([0.1], 2.0, 20), nearly, 1.0) == 1.0, "rounding errors are ties"


def test_an_undefined_difference_is_the_most_extreme_and_zero_is_never_removed():
    undefined = np.array([np.nan, *np.arange(1.0, 20.0)])
    assert _decided(SpentLevel([0.05], 2.0, 20), undefined, 1.0) == 0.05
    assert _decided(SpentLevel([0.5], 2.0, 4), np.zeros(4), 1.0) == 1.0
    assert _decided(SpentLevel([0.05], 2.0, 20), -undefined, 1.0) == 0.05


def test_the_level_is_spent_by_time_to_the_power_rho():
    rows, first = 100, np.arange(100.0, 0, -1)  # the data are the largest
    assert [_decided(SpentLevel([0.04], rho, rows), first, 0.5) for rho in (2.0, 3.0)] == [0.04, 1.0]
    test = SpentLevel([0.04], 2.0, rows)
    second = np.roll(first, 1)  # the data are the smallest, the largest are others
    assert _decided(test, second, 0.5) == 1.0
    assert test.alive.sum() == 99
    assert _decided(test, first, 1.0) == 0.04
    assert test.alive.sum() == 96, "in all, 4 of 100 rows"
    assert _decided(test, second, 1.0) == 0.04, "what was decided stays decided"


def test_a_lower_level_never_decides_later_than_a_higher_one():
    draw = np.random.default_rng(0)
    test, least = SpentLevel([0.02, 0.05, 0.2], 2.0, 200), 1.0
    for k in range(1, 6):
        result = _decided(test, draw.normal(size=200), k / 5)
        assert result <= least
        least = result
        assert np.array_equal(test.alive, np.minimum.accumulate(test.alive, axis=0))
    assert (test.alive == 0).sum(axis=1).tolist() == [4, 10, 40]


def test_unread_outputs_can_delay_a_verdict_and_never_make_one():
    draw, sides = np.random.default_rng(5), []
    for unread in (0.0, 0.02, 0.3):
        tests = [ComparisonTest(LookDesign(200, 10), StopSpec(), 1) for _ in range(3)]
        truth = draw.choice([-1.0, 0.0, 1.0], 200, p=[0.05, 0.65, 0.3])
        flags = draw.random(200) < unread
        low, high = np.where(flags, -1.0, truth), np.where(flags, 1.0, truth)
        for n in look_sizes(200, 10):
            plain, *ends = (
                test.look(sums[:n], np.ones(n)) for test, sums in zip(tests, (truth, low, high), strict=True)
            )
            both = between(*ends)
            assert (both.low, both.high) == (ends[0].low, ends[1].high)
            assert both.p >= plain.p
            assert both.p == 1 or both.side == 1
            if not unread:
                assert both == plain
            if low[:n].sum() <= 0 <= high[:n].sum():
                assert (both.p, both.side, both.difference) == (1.0, 0, 0.0)
        sides.append(both.side)
    assert sides == [1, 1, 0]
