import numpy as np
import pytest

from experiments.stats.arms import tidy_frame
from experiments.stats.intervals import wilson
from experiments.stats.pairs import Pairs, UnpairedError, align_pairs, corrected_tests, paired_test


def test_rows_are_aligned_by_query_and_seed_whatever_their_order(arm):
    a, b = arm([[1, 0, 1], [0, 0, 1]], seeds=2), arm([[1, 1, 0], [0, 1, 1]], seeds=2)
    straight = align_pairs(tidy_frame(a, ()), tidy_frame(b, ()), "lenient")
    shuffled = align_pairs(tidy_frame(a, ()), tidy_frame(b.sample(frac=1, random_state=3), ()), "lenient")
    assert list(straight.differences) == [0, 1, -1, 0, 1, 0] == list(shuffled.differences)
    assert len(set(straight.clusters)) == 3


@pytest.mark.parametrize("swapped", [False, True])
def test_arms_with_other_queries_are_refused_with_a_remedy(arm, swapped):
    frames = [tidy_frame(arm([1, 0, 1]), ()), tidy_frame(arm([1, 0]), ())]
    with pytest.raises(UnpairedError, match=r"1 of 3 samples of .* have no counterpart .* query q2, seed 0.*icl run"):
        align_pairs(*(frames[::-1] if swapped else frames), "lenient", names=("greedy", "vcd"))


def test_arms_with_other_seeds_are_refused(arm):
    with pytest.raises(UnpairedError, match="not paired"):
        align_pairs(tidy_frame(arm([1, 0], seeds=2), ()), tidy_frame(arm([1, 0]), ()), "lenient")


def test_an_arm_that_mixes_settings_is_refused(arm):
    import pandas as pd

    twice = tidy_frame(pd.concat([arm([1, 0]), arm([0, 0])], ignore_index=True), ())
    with pytest.raises(UnpairedError, match="more than once"):
        align_pairs(tidy_frame(arm([1, 0]), ()), twice, "lenient")


def test_a_failed_sample_drops_its_pair_and_is_counted(arm):
    pairs = align_pairs(tidy_frame(arm([1, None, 1]), ()), tidy_frame(arm([0, 1, None]), ()), "lenient")
    assert (list(pairs.differences), pairs.dropped_pairs) == ([-1], 2)


def test_no_pair_left_is_refused(arm):
    pairs = align_pairs(tidy_frame(arm([None, None]), ()), tidy_frame(arm([1, 1]), ()), "lenient")
    with pytest.raises(UnpairedError, match="2 dropped"):
        paired_test(pairs)


def test_binary_scores_use_mcnemar_with_its_counts():
    pairs = Pairs(np.array([1, 1, 0, 0, 0, 1.0]), np.array([1, 0, 1, 1, 1, 1.0]), np.arange(6))
    result = paired_test(pairs)
    assert (result.test, result.right_to_wrong, result.wrong_to_right) == ("mcnemar", 1, 3)
    assert (result.pairs, result.clusters, result.dropped_pairs) == (6, 6, 0)
    assert result.difference == pytest.approx(2 / 6)
    assert result.p == pytest.approx(2 * (1 + 4) / 16)
    assert result.low < result.difference < result.high


def test_graded_scores_use_sign_flips_for_p_and_interval():
    draw = np.random.default_rng(0)
    before, more = draw.random(200), draw.normal(0.1, 0.2, 200)
    result = paired_test(Pairs(before, before + more, np.arange(200)))
    assert result.test == "randomization"
    half = 1.96 * more.std() / np.sqrt(200)
    assert (result.low, result.high) == pytest.approx((more.mean() - half, more.mean() + half), abs=0.002)
    assert result.p < 0.001


def test_identical_arms_have_an_interval_from_the_number_of_queries():
    same = np.ones(50)
    result = paired_test(Pairs(same, same, np.arange(50)))
    assert (result.difference, result.p) == (0, 1)
    assert (-result.low, result.high) == (pytest.approx(wilson(0, 50)[1]),) * 2


def test_groups_are_the_units_if_present(arm):
    groups = {0: "a", 1: "a", 2: "b"}
    pairs = align_pairs(
        tidy_frame(arm([1, 0, 1, 1], groups=groups), ()), tidy_frame(arm([0, 0, 1, 0], groups=groups), ()), "lenient"
    )
    assert paired_test(pairs).clusters == 3


def test_a_constant_difference_has_an_interval_from_the_number_of_queries():
    result = paired_test(Pairs(np.ones(20), np.zeros(20), np.arange(20)))
    assert (result.low, result.high) == pytest.approx((-1, 1 - 2 * 0.025 ** (1 / 20)))  # Clopper and Pearson
    assert not result.is_identical


def test_pairs_marked_as_graded_do_not_use_mcnemar():
    ones = np.array([1.0, 1.0, 0.0])
    assert paired_test(Pairs(ones, ones[::-1], np.arange(3), is_graded=True)).test == "randomization"


def test_queries_and_groups_of_two_tasks_are_never_one_unit(arm):
    import pandas as pd

    for groups in (None, {0: "a", 1: "a"}):
        both = pd.concat([arm([1, 0], groups=groups, task=name) for name in "ab"], ignore_index=True)
        units = tidy_frame(both, ("task",))["unit"]
        assert not set(units[:2]) & set(units[2:])


@pytest.mark.parametrize("swapped", [False, True])
def test_an_arm_without_samples_is_refused(arm, swapped):
    frames = [tidy_frame(arm([1, 0]), ()), tidy_frame(arm([1, 0]).iloc[:0], ())]
    with pytest.raises(UnpairedError, match="2 of 2 samples of"):
        align_pairs(*(frames[::-1] if swapped else frames), "lenient")


def test_graded_differences_beyond_one_widen_the_interval_and_never_leave_it():
    """A score outside [0, 1] may differ by more than 1: the interval ends at the largest difference that occurred."""
    result = paired_test(Pairs(np.zeros(3), np.array([5.0, 5.0, 4.0]), np.arange(3)))
    assert (result.low, result.high) == (-5, 5)
    within = paired_test(Pairs(np.zeros(3), np.array([0.5, 0.5, 0.4]), np.arange(3)))
    assert (within.low, within.high) == (-1, 1)


def test_the_intervals_of_several_tests_agree_with_their_corrected_p():
    """Seven of seven discordant pairs: p = .0156 alone, and .0156 times the number of tests after Holm."""
    clusters = np.arange(60)
    pairs = Pairs(np.zeros(60), np.array([1.0] * 7 + [0.0] * 53), clusters)
    (alone,), many = corrected_tests([pairs]), corrected_tests([pairs] * 4)
    assert (alone.p, alone.low > 0) == (pytest.approx(2**-6), True)
    for one in many:
        assert (one.p, one.low <= 0) == (pytest.approx(4 * 2**-6), True)
        assert one.high > alone.high
