"""Comparisons of two arms in words, and the correction over topics, on frames with known numbers."""

import math

import numpy as np
import pandas as pd
import pytest

from experiments.stats.arm_comparisons import ArmComparison, compare_arms, correct_topics, verdict_of
from experiments.stats.arms import EQUIVALENCE, tidy_frame
from experiments.stats.pairs import PairedTestResult


def result(difference: float = 0.1, p: float = 0.01, *, identical: bool = False) -> PairedTestResult:
    return PairedTestResult(difference, -0.05, 0.25, p, 40, 40, "mcnemar", 1, 5, 0, identical)


def comparison(p: float = 0.03, difference: float = 0.1, **more: object) -> ArmComparison:
    return ArmComparison("t", "a", "b", result(difference), p=p, n="n = 40", mean=0.6, reference_mean=0.5, **more)


def frames(arm, *more: dict, scores=((1, 0, 0, 0), (1, 1, 1, 0))) -> tuple:
    columns = more or ({}, {})
    return tuple(tidy_frame(arm(list(own), **extra), ()) for own, extra in zip(scores, columns, strict=True))


@pytest.mark.parametrize(
    ("p", "difference", "better", "verdict"),
    [
        (0.05, 0.1, "higher", "better"),
        (0.0501, 0.1, "higher", "open"),
        (0.01, -0.1, "higher", "worse"),
        (0.01, -0.1, "lower", "better"),
        (0.01, 0.1, "lower", "worse"),
        (0.01, 0.1, "neither", "differs"),
        (0.01, 0.0, "higher", "open"),
        (math.nan, 0.1, "higher", "open"),
    ],
)
def test_a_verdict_needs_a_small_p_and_a_difference(p, difference, better, verdict):
    assert verdict_of(p, difference, better) == verdict


def test_the_numbers_name_the_family_and_the_topics_only_where_there_are_several():
    assert comparison().numbers == "+.100 [−.050, +.250], p = .030, n = 40"
    assert comparison(family=4).numbers == "+.100 [−.050, +.250], p = .030 (Holm over 4), n = 40"
    assert comparison(family=2, topics=3).numbers == "+.100 [−.050, +.250], p = .030 (Holm over 2, 3 topics), n = 40"
    assert comparison(topics=2, better="lower").numbers.endswith("(2 topics), n = 40; lower is better")
    assert comparison(math.nan).numbers == ""
    refused = ArmComparison("t", "a", "b", None, refused="not paired")
    assert (refused.numbers, refused.short, refused.verdict) == ("", "not paired", "unpaired")
    assert not refused.identical
    assert not refused.by_construction


def test_a_comparison_in_words():
    one = comparison()
    assert (one.means, one.side, one.short, one.verdict) == (".600 against .500", "above", "+.100, p = .030", "better")
    assert (comparison(difference=-0.1).side, comparison(difference=0.0).side) == ("below", "below")
    assert comparison(math.nan).short == "the same by construction"
    assert comparison(math.nan).by_construction
    assert ArmComparison("t", "a", "b", result(0.0, identical=True)).identical


def test_arms_that_nothing_can_tell_apart_are_not_tested_and_others_are(arm):
    same, other = {EQUIVALENCE: "x"}, {EQUIVALENCE: "y"}
    equal = compare_arms("t", "b", "a", frames(arm, same, same), "lenient")
    assert equal.by_construction
    tested = compare_arms("t", "b", "a", frames(arm, same, other), "lenient", pooled=" over 2 shots")
    assert tested.p == 0.5
    assert (tested.mean, tested.reference_mean) == (0.75, 0.25)
    assert tested.decided == ((frozenset({(0, "x")}), frozenset({(0, "y")})), " over 2 shots")
    with_vote = compare_arms(
        "t", "b", "a", frames(arm, same, {**same, "vote": 0}), "lenient", reference_metric="lenient"
    )
    assert not with_vote.by_construction, "the vote of an arm is not its answers"
    unknown = compare_arms("t", "b", "a", frames(arm, same, {}), "lenient")
    assert unknown.decided != compare_arms("t", "b", "a", frames(arm, same, {}), "lenient").decided


def test_the_units_name_groups_and_seeds_where_there_are_any(arm):
    plain = frames(arm)
    assert compare_arms("t", "b", "a", plain, "lenient").n == "n = 4"
    seeds = tuple(tidy_frame(arm([[1, 0], [1, 1]], seeds=2), ()) for _ in range(2))
    assert compare_arms("t", "b", "a", seeds, "lenient").n == "n = 2 x 2 seeds"
    grouped = tuple(tidy_frame(arm([1, 0, 1], groups={0: "g", 1: "g"}), ()) for _ in range(2))
    assert compare_arms("t", "b", "a", grouped, "lenient").n == "n = 3 in 2 groups"


def test_the_second_metric_is_a_difference_of_means_and_never_the_metric_itself(arm):
    left, right = frames(arm, {"strict": 0.25}, {"strict": 1.0})
    assert compare_arms("t", "b", "a", (left, right), "lenient", also="strict").also == 0.75
    assert compare_arms("t", "b", "a", (left, right), "lenient", also="lenient").also is None
    assert compare_arms("t", "b", "a", (left, right), "lenient", also="missing").also is None


def test_an_unpaired_comparison_is_refused_with_its_reason(arm):
    left, right = frames(arm, scores=((1, 0), (1, 0, 1)))
    refused = compare_arms("t", "b", "a", (left, right), "lenient", better="lower")
    assert refused.result is None
    assert "not paired" in refused.refused
    assert refused.better == "lower"


def test_equal_hypotheses_count_once_and_untested_ones_not_at_all():
    pair = comparison(0.02, decided="x")
    topics = {
        "ICL gain": [pair, pair, comparison(0.04), comparison(math.nan)],
        "Vote": [ArmComparison("t", "a", "b", None, refused="no")],
    }
    corrected = correct_topics(topics)
    gain = corrected["ICL gain"]
    assert [one.p for one in gain[:3]] == [0.04, 0.04, 0.04]
    assert math.isnan(gain[3].p)
    assert [(one.family, one.topics) for one in gain] == [(2, 1)] * 4
    assert (corrected["Vote"][0].p, corrected["Vote"][0].family) == (1.0, 1)
    assert [one.family for one in correct_topics({"Vote": topics["Vote"]})["Vote"]] == [1]
    two = correct_topics({"Vote": [comparison(0.02)], "Retrieval": [comparison(0.5)]})
    assert (two["Vote"][0].p, two["Vote"][0].topics) == (0.04, 2)


def test_a_frame_without_every_digest_decides_nothing():
    from experiments.stats.arms import deciding_digests

    rows = pd.DataFrame({"seed": [0, 0, 1], EQUIVALENCE: ["x", "x", "y"]})
    assert deciding_digests(rows) == {(0, "x"), (1, "y")}
    assert deciding_digests(rows.assign(**{EQUIVALENCE: ["x", "", "y"]})) is None
    assert deciding_digests(rows.drop(columns=EQUIVALENCE)) is None


def with_failures() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Twelve queries in four groups. The other arm answers all but the three that the reference cannot solve."""
    rows = [{"query": f"q{i}", "seed": 0, "group": f"g{i // 3}", "strict": 0.0, "lenient": 1.0} for i in range(12)]
    reference = pd.DataFrame(rows).assign(lenient=[0.0] * 3 + [1.0] * 9, strict=[0.0] * 3 + [1.0] * 9)
    arm = pd.DataFrame(rows).assign(lenient=[math.nan] * 3 + [1.0] * 9, strict=[math.nan] * 3 + [1.0] * 9)
    return tidy_frame(reference, ()), tidy_frame(arm, ())


def test_the_second_score_and_the_units_are_those_of_the_pairs():
    one = compare_arms("t", "b", "a", with_failures(), "lenient", also="strict")
    assert (one.result.difference, one.mean, one.reference_mean) == (0, 1, 1)
    assert one.also == 0
    assert one.n == "n = 9 in 3 groups"


def random_pair(draw, kind: str, clusters: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two arms with a random difference: right/wrong or graded scores, alone or in groups, or a constant shift."""
    size = 3 if kind == "groups" else 1
    gain = draw.choice([0, 0.2, 0.5])
    if kind == "graded":
        left = draw.random(clusters * size) * 0.5
        right = left + draw.normal(gain * 0.3, 0.2, clusters * size).clip(-0.4, 0.4)
    elif kind == "shift":
        left, right = np.full(clusters, 0.25), np.full(clusters, 0.25 + gain)
    else:
        number = draw.random(clusters * size)
        left, right = (number < 0.4).astype(float), ((number + draw.normal(0, 0.2, len(number))) < 0.4 + gain) * 1.0
    frame = {
        "query": [f"q{i}" for i in range(len(left))],
        "seed": 0,
        "group": [f"g{i // size}" for i in range(len(left))],
    }
    return tuple(tidy_frame(pd.DataFrame({**frame, "lenient": score}), ()) for score in (left, right))


@pytest.mark.parametrize("kind", ["single", "groups", "graded", "shift"])
@pytest.mark.parametrize("family", [1, 7, 40])
def test_an_interval_leaves_out_zero_exactly_if_the_corrected_p_is_small(kind, family):
    draw = np.random.default_rng([family, len(kind)])
    tried = [
        compare_arms("t", f"{i}", "a", random_pair(draw, kind, draw.integers(8, 40)), "lenient") for i in range(family)
    ]
    half = (family + 1) // 2
    corrected = correct_topics({"Decoding": tried[:half], "Retrieval": tried[half:]})
    every = [one for own in corrected.values() for one in own]
    for one in every:
        assert (one.result.low > 0 or one.result.high < 0) == (one.p <= 0.05)
        assert one.result.low <= one.result.difference <= one.result.high
    if family > 7:
        assert {one.p <= 0.05 for one in every} == {True, False}


def test_an_interval_is_wider_where_more_is_compared():
    pair = with_failures()[0], with_failures()[0].assign(lenient=1.0)
    one = compare_arms("t", "b", "a", pair, "lenient")
    alone, many = (correct_topics({"Vote": [one, *more]})["Vote"][0].result for more in ([], [comparison(0.9)] * 9))
    assert many.high - many.low > alone.high - alone.low
    assert (many.p, many.difference) == (alone.p, alone.difference)


def test_the_second_score_pairs_rows_in_whatever_order_they_are():
    reference, arm = with_failures()
    arm = arm.assign(strict=np.linspace(0, 1, 12)).iloc[::-1].reset_index(drop=True)
    one = compare_arms("t", "b", "a", (reference, arm), "lenient", also="strict")
    assert one.also == pytest.approx(np.linspace(0, 1, 12)[3:].mean() - 1)


def test_an_interval_whose_p_is_cut_at_one_is_corrected_for_the_tests_of_all_topics():
    left, right = with_failures()[0], with_failures()[0].assign(lenient=[1.0] * 6 + [0.0, 1.0] * 3)
    one = compare_arms("t", "b", "a", (left, right), "lenient")
    assert one.p > 0.5
    alone = correct_topics({"Vote": [one]})["Vote"][0].result
    other = correct_topics({"Vote": [one], "Retrieval": [comparison(0.9)]})["Vote"][0]
    assert (other.p, other.family, other.topics) == (1, 1, 2)
    assert other.result.high - other.result.low > alone.high - alone.low
