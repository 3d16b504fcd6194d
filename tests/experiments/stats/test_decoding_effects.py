"""The table of controls on frames with known numbers."""

import math
from typing import Any

import pandas as pd
import pytest

from experiments.stats.arm_comparisons import ArmComparison, correct_topics
from experiments.stats.arms import tidy_frame, varying_axes
from experiments.stats.decoding_effects import (
    DecodingEffect,
    Transitions,
    answer_reader,
    answer_shares,
    count_transitions,
    decoding_effects,
    trace_means,
)
from experiments.stats.strategy_verdicts import StrategyVerdict, compare_strategies, judge_strategy

AXES = ("task", "shots", "retriever", "decoding")
CONTROLS = {"vcd": ("mask_only(vcd)", "self_consistency"), "icd": ("sign_flip(icd)", "self_consistency")}


def sample(query: int, decoding: str, right: float, output: str, **more: Any) -> dict[str, Any]:
    return {
        "task": "shapes", "shots": 4, "retriever": "random", "decoding": decoding, "query": f"q{query}", "seed": 0,
        "lenient": right, "strict": right, "output": output, "gold": ["yes"], "options": ["yes", "no"], **more,
    }  # fmt: skip


def effects_of(rows: list[dict[str, Any]], better: str = "higher", **more: Any) -> list[DecodingEffect]:
    frame = tidy_frame(pd.DataFrame(rows), AXES)
    frame.attrs["better"] = {"lenient": better}
    keys = {"metrics": ("strict", "lenient"), "base": "greedy", "controls": CONTROLS, **more}
    own = {key: keys[key] for key in ("base", "controls")}
    comparisons = strategy_comparisons(frame, better, **own)
    return decoding_effects(frame, frame, AXES, "lenient", comparisons=comparisons, **keys)


def strategy_comparisons(frame: pd.DataFrame, better: Any = "higher", **keys: Any) -> list[ArmComparison]:
    settings = [axis for axis in varying_axes(frame, AXES) if axis not in ("shots", "retriever", "decoding")]
    trials = compare_strategies(frame, settings, "lenient", better, **{"base": "greedy", **keys})
    return correct_topics({"Decoding": trials})["Decoding"]


def arm(decoding: str, rights: str, **more: Any) -> list[dict[str, Any]]:
    """One sample per letter: r answers yes and is right, w answers no and is wrong."""
    return [sample(i, decoding, float(r == "r"), "yes" if r == "r" else "no", **more) for i, r in enumerate(rights)]


def test_rows_are_the_reference_shared_controls_and_each_strategy_with_its_controls() -> None:
    names = ("mask_only(vcd)", "vcd", "icd", "self_consistency", "greedy", "sign_flip(icd)")
    effects = effects_of([row for name in names for row in arm(name, "rrww")])
    assert [(row.decoding, row.role, row.of) for row in effects] == [
        ("greedy", "reference", ""),
        ("self_consistency", "control", ""),
        ("vcd", "strategy", ""),
        ("mask_only(vcd)", "control", "vcd"),
        ("icd", "strategy", ""),
        ("sign_flip(icd)", "control", "icd"),
    ]
    assert [row.judgment is not None for row in effects] == [False, False, True, False, True, False]


def test_transitions_and_answer_shares_are_counted() -> None:
    _, row = effects_of([*arm("greedy", "rrrrwwww"), *arm("vcd", "rrwwwrrr")])
    assert row.transitions == Transitions(still_right=2, right_to_wrong=2, wrong_to_right=3, still_wrong=1)
    assert row.scores["lenient"].mean == pytest.approx(5 / 8)
    assert row.reference_answers == {"no": 0.5, "yes": 0.5}
    assert row.answers == pytest.approx({"no": 3 / 8, "yes": 5 / 8})
    assert row.other == pytest.approx(5 / 8)


def test_an_arm_with_fewer_settings_is_compared_in_the_shared_settings() -> None:
    none, both = {"shots": 0, "retriever": "none"}, [*arm("greedy", "rrrw"), *arm("icd", "rrrr")]
    rows = [*arm("greedy", "wwww", **none), *arm("icd", "wwww", **none), *both, *arm("vcd", "rrww")]
    row = {row.decoding: row for row in effects_of(rows)}
    assert (row["vcd"].over, row["vcd"].against, row["vcd"].reference_answers) == (
        "4 shots",
        ".750",
        {"no": 0.25, "yes": 0.75},
    )
    assert (row["icd"].over, row["icd"].reference_answers) == ("", {"no": 5 / 8, "yes": 3 / 8})
    knn = [*arm("greedy", "rrrr", retriever="knn"), *arm("icd", "wwww", retriever="knn")]
    row = {row.decoding: row for row in effects_of([*both, *knn, *arm("vcd", "rrww")])}
    assert (row["vcd"].over, row["vcd"].against) == ("retriever random", ".750")
    crossed = [{**one, "shots": 8} for one in [*both, *knn]]
    more = [*arm("vcd", "rrww"), *arm("vcd", "rrww", shots=8, retriever="knn")]
    row = {row.decoding: row for row in effects_of([*both, *knn, *crossed, *more])}
    assert (row["vcd"].over, row["vcd"].against) == ("a part of the settings", ".875")


def test_transitions_are_reversed_if_lower_is_better() -> None:
    _, row = effects_of([*arm("greedy", "rrrrwwww"), *arm("vcd", "rrwwwrrr")], better="lower")
    assert row.transitions == Transitions(still_right=1, right_to_wrong=3, wrong_to_right=2, still_wrong=2)


def test_graded_scores_only_rise_and_fall() -> None:
    frames = [
        tidy_frame(pd.DataFrame([{**r, "lenient": v} for r, v in zip(arm("x", "rrr"), values, strict=True)]), AXES)
        for values in ((0.5, 0.5, 0.1), (0.7, 0.5, 0.0))
    ]
    assert count_transitions(*frames, "lenient") == Transitions(1, 1, 1, 0, graded=True)


def test_arms_on_other_queries_are_not_paired() -> None:
    _, row = effects_of([*arm("greedy", "rrrr"), *arm("vcd", "rr")])
    assert row.transitions is None
    assert row.judgment is not None
    assert row.judgment.verdict == "unpaired"
    assert "not compared with greedy" in row.judgment.words


def test_steps_and_forwards_are_means_over_all_steps() -> None:
    rows = [
        sample(0, "vcd", 1, "yes", trace={"plausible_tokens": [1.0, 3.0], "changed": [0.0, 1.0], "entropy": [0.5, 0.1]},
               usage={"new_tokens": 2, "forwards": 4}),
        sample(1, "vcd", 1, "yes", trace={"plausible_tokens": [2.0], "changed": [0.0], "entropy": [0.3]},
               usage={"new_tokens": 2, "forwards": 5}),
    ]  # fmt: skip
    means = trace_means(pd.DataFrame(rows))
    assert means == pytest.approx(
        {"plausible_tokens": 2, "changed": 1 / 3, "entropy": 0.3, "length": 1.5, "forwards": 3}
    )
    scored = trace_means(pd.DataFrame(arm("vcd", "rw", trace={}, usage={"new_tokens": 2, "forwards": 2})))
    assert all(math.isnan(value) for value in scored.values())  # options are scored in no steps


@pytest.mark.parametrize(
    ("options", "golds", "outputs", "expected"),
    [
        ([["yes", "no"]] * 2, ["yes", "no"], ["Yes, it is.", "perhaps"], {"yes": 0.5, "other": 0.5}),
        ([["red", "blue"], ["blue", "red"]], ["red", "blue"], ["Blue.", "blue"], {"blue": 1.0}),
        ([["a1", "b1", "c1", "d1"], ["a2", "b2", "c2", "d2"]], ["a1", "b2"], ["a1", "B2"],
         {"option 1": 0.5, "option 2": 0.5}),
        ([[], []], ["a red circle", "two blue stars"], ["x", "y"], {}),
        ([[str(i) for i in range(20)]] * 2, ["3", "4"], ["3", "4"], {}),
    ],
)  # fmt: skip
def test_answers_are_counted_as_the_task_allows(options: Any, golds: Any, outputs: Any, expected: Any) -> None:
    rows = pd.DataFrame(
        [
            {"output": output, "gold": [gold], "options": own}
            for output, gold, own in zip(outputs, golds, options, strict=True)
        ]
    )
    assert answer_shares(rows, answer_reader(rows)) == expected


def judgment(greedy: str, vcd: str, **others: str) -> str:
    return decided(greedy, vcd, **others).words


def decided(greedy: str, vcd: str, **others: str) -> StrategyVerdict:
    rows = [*arm("greedy", greedy), *arm("vcd", vcd)]
    rows += [row for name, rights in others.items() for row in arm(f"{name}(vcd)", rights)]
    controls = {"vcd": tuple(f"{name}(vcd)" for name in others)}
    frame = tidy_frame(pd.DataFrame(rows), AXES)
    trials = strategy_comparisons(frame, controls=controls)
    assert {t.family for t in trials} == {1 + len(others)}
    return judge_strategy(trials)


GOOD, BAD = "r" * 40, "w" * 40


def test_the_verdict_is_yes_only_if_the_reference_and_every_control_are_beaten() -> None:
    assert judgment(BAD, GOOD, mask_only=BAD, sign_flip=BAD) == "yes: beats greedy and all its 2 controls"
    assert judgment(BAD, GOOD, mask_only=BAD) == "yes: beats greedy and its one control"
    assert (
        judgment(BAD, GOOD, mask_only=GOOD, sign_flip=BAD)
        == "no: beats greedy; does not beat mask_only (1 of 2 beaten)"
    )
    assert (
        judgment(GOOD, GOOD, mask_only=GOOD)
        == "no: always scores the same as greedy; does not beat mask_only, its one control"
    )
    assert judgment(GOOD, BAD, mask_only=BAD) == "no: is worse than greedy; does not beat mask_only, its one control"
    assert judgment(GOOD, GOOD, mask_only=BAD) == "no: beats its one control, but always scores the same as greedy"
    assert judgment(BAD, GOOD) == "beats greedy; no control was run"


def test_equal_numbers_of_transitions_are_not_equal_scores() -> None:
    assert judgment("rwrw", "wrwr") == "is not distinguishable from greedy; no control was run"
    assert judgment("rwrw", "rwrw") == "always scores the same as greedy; no control was run"


def test_a_refused_control_does_not_change_the_family() -> None:
    rows = [*arm("greedy", BAD), *arm("vcd", GOOD), *arm("mask_only(vcd)", BAD[:-1])]
    frame = tidy_frame(pd.DataFrame([*rows, *arm("icd", GOOD)]), AXES)
    trials = strategy_comparisons(frame, controls=CONTROLS)
    assert judge_strategy([t for t in trials if t.arm == "vcd"]).family == 2


def test_controls_that_were_not_beaten_are_named_up_to_a_limit() -> None:
    four = judgment(BAD, GOOD, a=GOOD, b=GOOD, c=GOOD, d=GOOD, e=BAD)
    assert four == "no: beats greedy; does not beat a, b, c and d (1 of 5 beaten)"
    five = judgment(BAD, GOOD, a=GOOD, b=GOOD, c=GOOD, d=GOOD, e=GOOD, f=BAD)
    assert five == "no: beats greedy; does not beat a, b, c and 2 more (1 of 6 beaten)"


def test_a_control_better_than_its_strategy_or_the_reference_is_named() -> None:
    assert judgment(GOOD, BAD, sign_flip=GOOD, mask_only=BAD) == (
        "no: is worse than greedy; beats none of its 2 controls; sign_flip is better than it"
    )
    rows = [*arm("greedy", BAD), *arm("vcd", "w" * 20 + "r" * 20), *arm("mask_only(vcd)", BAD)]
    verdict = verdict_of_vcd([*rows, *arm("self_consistency", GOOD)])
    assert verdict == (
        "no: beats greedy; does not beat self_consistency (1 of 2 beaten); self_consistency is better than it; "
        "self_consistency beats greedy (Holm over 2)"
    )
    one = verdict_of_vcd([*arm("greedy", BAD), *arm("vcd", GOOD), *arm("mask_only(vcd)", GOOD)])
    assert one == "no: beats greedy; does not beat mask_only, its one control; mask_only beats greedy"
    assert "mask_only" not in verdict_of_vcd([*arm("greedy", GOOD), *arm("vcd", GOOD), *arm("mask_only(vcd)", BAD)])


def test_controls_against_the_reference_are_a_separate_family() -> None:
    rows = [*arm("greedy", BAD), *arm("vcd", GOOD), *arm("mask_only(vcd)", GOOD), *arm("self_consistency", BAD)]
    assert [row.judgment.family for row in effects_of(rows) if row.judgment] == [3]


def verdict_of_vcd(rows: list[dict[str, Any]]) -> str:
    return next(row.judgment.words for row in effects_of(rows) if row.decoding == "vcd" and row.judgment)


def test_only_a_strategy_that_beats_all_its_controls_is_better() -> None:
    assert decided(BAD, GOOD, mask_only=BAD, sign_flip=BAD).verdict == "better"
    assert decided(BAD, GOOD, mask_only=GOOD, sign_flip=BAD).verdict == "open"
    assert decided(BAD, GOOD, mask_only=GOOD).verdict == "open"
    assert decided(BAD, GOOD).verdict == "open"  # no control was run
    assert decided(GOOD, BAD, mask_only=BAD).verdict == "worse"


def test_the_correction_is_over_every_comparison_of_every_strategy() -> None:
    """Eight equal differences have p = .0078: significant alone, but not among eight comparisons (.0625)."""
    alone = [*arm("greedy", "w" * 8), *arm("vcd", "r" * 8)]
    more = [row for i in range(7) for row in arm(f"other{i}", "w" * 4 + "r" * 4)]
    families = []
    for rows in (alone, [*alone, *more]):
        frame = tidy_frame(pd.DataFrame(rows), AXES)
        trials = strategy_comparisons(frame, controls={})
        families.append((len(trials), judge_strategy([t for t in trials if t.arm == "vcd"]).words))
    assert families == [
        (1, "beats greedy; no control was run"),
        (8, "is not distinguishable from greedy; no control was run"),
    ]


def test_a_task_without_scores_has_no_rows() -> None:
    captions = [{**row, "task": "captions", "lenient": None} for name in ("greedy", "vcd") for row in arm(name, "rw")]
    rows = [*captions, *arm("greedy", "rrww"), *arm("vcd", "rwww")]
    assert {row.subject for row in effects_of(rows)} == {"shapes"}


def test_forwards_are_reported_if_every_answer_reports_them() -> None:
    rows = [
        {"trace": {"plausible_tokens": [2.0, 1.0]}, "usage": {"forwards": 4}},
        {"trace": {"plausible_tokens": [1.0, 1.0]}},
    ]
    assert math.isnan(trace_means(pd.DataFrame(rows))["forwards"])
    rows[1]["usage"] = {"forwards": 2}
    assert trace_means(pd.DataFrame(rows))["forwards"] == 6 / 4


def test_other_answers_are_last() -> None:
    rows = pd.DataFrame([{"output": output, "gold": ["yes"]} for output in ("yes", "maybe", "no", "no")])
    assert list(answer_shares(rows, answer_reader(rows)).items()) == [("no", 0.5), ("yes", 0.25), ("other", 0.25)]


def test_golds_that_are_not_all_yes_or_no_are_read_by_their_options() -> None:
    rows = pd.DataFrame([{"gold": [gold], "options": ["yes", "red"], "output": gold} for gold in ("yes", "red")])
    assert answer_shares(rows, answer_reader(rows)) == {"red": 0.5, "yes": 0.5}


def test_answers_are_compared_after_normalization() -> None:
    rows = [*arm("greedy", "rr"), *(row | {"output": "Yes."} for row in arm("vcd", "rr"))]
    assert next(row for row in effects_of(rows) if row.decoding == "vcd").other == 0


def test_the_first_of_several_answers_to_a_query_counts() -> None:
    rows = [*arm("greedy", "rr"), *arm("vcd", "rw"), *arm("vcd", "ww")]
    (row,) = [row for row in effects_of(rows) if row.decoding == "vcd"]
    assert row.transitions is None
    assert row.other == 0.5


def test_an_arm_without_a_shared_setting_has_no_pairs_and_no_part_to_name() -> None:
    rows = [*arm("greedy", "rrrw"), *arm("vcd", "rrww", shots=8)]
    row = {row.decoding: row for row in effects_of(rows)}["vcd"]
    assert (row.over, row.transitions, row.samples) == ("", Transitions(0, 0, 0, 0), 4)
    assert row.against == ""
    assert math.isnan(row.other)


def test_arms_with_unread_outputs_have_bounds_and_no_count_of_changes() -> None:
    rows = [{**one, "unread:lenient": ""} for one in [*arm("greedy", "rrrw"), *arm("vcd", "rrww")]]
    plain = {row.decoding: row for row in effects_of(rows)}["vcd"]
    assert plain.transitions is not None
    assert not plain.bounds
    rows[-1]["unread:lenient"] = "text"
    vcd = {row.decoding: row for row in effects_of(rows)}["vcd"]
    (bounds,) = vcd.bounds.values()
    assert (vcd.transitions, bounds.low, bounds.high, bounds.unread) == (None, 0.5, 0.75, 0.25)
