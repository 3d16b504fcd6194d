"""Comparisons with unread outputs: significant only if every reading of them is, and today's where all are read."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments.stats.arm_comparisons import ArmComparison, compare_arms, correct_topics
from experiments.stats.arms import tidy_frame
from experiments.stats.bounds import bound_arm, unread_text
from experiments.stats.compare import BOUND_COLUMNS, compare, verdicts
from experiments.stats.summary import estimate_arm
from icl import DataFrame
from icl.metrics.accuracy import Lenient
from icl.metrics.reading import unread_metrics
from icl.text.json_text import fold
from icl.types import Example, Generation

COLORS = ("red", "blue", "green", "white")


def frame(scores: Sequence[float], texts: Sequence[str] = (), **columns: Any) -> DataFrame:
    """An arm: a score per query, and the text of each unread output."""
    rows = pd.DataFrame({"query": [f"q{i}" for i in range(len(scores))], "seed": 0, "lenient": list(scores), **columns})
    return tidy_frame(rows.assign(**({"unread:lenient": list(texts)} if len(texts) else {})), ())


def compared(reference: DataFrame, arm: DataFrame) -> ArmComparison:
    return compare_arms("task", "arm", "reference", (reference, arm), "lenient")


def read_frame(outputs: Sequence[str], golds: Sequence[str], options: tuple[str, ...] = ()) -> DataFrame:
    """An arm with the scores and the unread outputs of these texts."""
    scores, texts = [], []
    for output, gold in zip(outputs, golds, strict=True):
        example, generation = Example("q", (), "?", (gold,), options=options), Generation(output)
        score = Lenient().score(generation, example) or 0.0
        is_unread = unread_metrics({"lenient": Lenient()}, {"lenient": score}, generation, example, frozenset())
        scores.append(score)
        texts.append(fold(output) if is_unread else "")
    return frame(scores, texts)


def random_arms(draw: np.random.Generator, n: int, share: float) -> list[DataFrame]:
    texts = [[f"text {i} {arm}" if draw.random() < share else "" for i in range(n)] for arm in range(2)]
    return [frame(draw.integers(0, 2, n), own, group=[f"g{i // 2}" for i in range(n)]) for own in texts]


def test_without_an_unread_output_every_number_is_that_of_a_frame_without_marks() -> None:
    draw = np.random.default_rng(0)
    for n in (5, 40, 301):
        scores = [draw.integers(0, 2, n).astype(float) for _ in range(2)]
        plain = compared(*(frame(own) for own in scores))
        marked = compared(*(frame(own, [""] * n) for own in scores))
        assert marked.bounds is None
        assert (marked.result, marked.p, marked.numbers, marked.means) == (
            plain.result, plain.p, plain.numbers, plain.means
        )  # fmt: skip
        ends = [correct_topics({"Decoding": [one, one]})["Decoding"] for one in (plain, marked)]
        assert [one.result for one in ends[0]] == [one.result for one in ends[1]]


def test_each_end_is_the_comparison_with_the_unread_outputs_filled_in() -> None:
    draw = np.random.default_rng(1)
    for _ in range(20):
        reference, arm = random_arms(draw, 60, 0.2)
        filled = [
            [own.assign(lenient=own["lenient"].where(own["unread:lenient"] == "", value)) for value in (0.0, 1.0)]
            for own in (reference, arm)
        ]
        for own in itertools.chain.from_iterable(filled):
            del own["unread:lenient"]
        one = compared(reference, arm)
        low, high = compared(filled[0][1], filled[1][0]).result, compared(filled[0][0], filled[1][1]).result
        assert one.bounds
        assert one.result
        assert low
        assert high
        assert (one.bounds.low, one.bounds.high) == (low.difference, high.difference)
        assert one.bounds.low <= one.result.difference <= one.bounds.high
        assert (one.result.low, one.result.high) == (low.low, high.high)
        assert one.p == (low.p if low.difference > 0 else high.p if high.difference < 0 else 1.0)


def test_a_significant_comparison_is_so_under_every_reading_of_the_unread_outputs() -> None:
    draw = np.random.default_rng(2)
    certain = 0
    for _ in range(30):
        scores = (draw.random((2, 14)) < np.array([[0.1], [0.95]])).astype(float)
        marks = draw.random((2, 14)) < 0.1
        arms = [frame(own, ["x" if m else "" for m in flags]) for own, flags in zip(scores, marks, strict=True)]
        arms[1]["unread:lenient"] = arms[1]["unread:lenient"].str.replace("x", "y")
        one = compared(*arms)
        if one.verdict not in ("better", "worse"):
            continue
        certain += 1
        places = np.argwhere(marks)
        for values in itertools.product((0.0, 1.0), repeat=len(places)):
            filled = scores.copy()
            filled[tuple(places.T)] = values
            assert compared(*map(frame, filled)).verdict == one.verdict
    assert certain >= 5


def test_swapping_the_arms_swaps_the_ends() -> None:
    reference, arm = random_arms(np.random.default_rng(3), 80, 0.3)
    one, turned = compared(reference, arm), compared(arm, reference)
    assert one.bounds
    assert turned.bounds
    assert one.result
    assert turned.result
    assert (turned.bounds.low, turned.bounds.high) == (-one.bounds.high, -one.bounds.low)
    assert (turned.result.low, turned.result.high) == pytest.approx((-one.result.high, -one.result.low))
    assert turned.p == one.p
    assert turned.bounds.arm == one.bounds.reference


def test_the_same_text_in_both_arms_has_the_same_score() -> None:
    texts = ["it may be red", "it may be blue", *[""] * 8]
    same = compared(frame([0] * 10, texts), frame([0] * 10, texts))
    assert same.bounds
    assert (same.bounds.low, same.bounds.high, same.bounds.unread, same.identical) == (0, 0, 0.2, True)
    assert same.verdict == "open"
    other = compared(frame([0] * 10, texts), frame([0] * 10, ["perhaps red", *texts[1:]]))
    assert other.bounds
    assert (other.bounds.low, other.bounds.high) == (-0.1, 0.1)


def test_a_few_unread_outputs_leave_a_true_gain() -> None:
    texts = [*["no telling"] * 3, *[""] * 197]
    gain = compared(frame([0] * 120 + [1] * 80), frame([0] * 60 + [1] * 140, texts))
    assert gain.verdict == "better"
    assert gain.numbers.startswith("+.300 [")
    assert gain.numbers.endswith(", p < .001, n = 200; 3 of 400 outputs unread")
    more = compared(frame([0] * 120 + [1] * 80), frame([0] * 60 + [1] * 140, [*["no telling"] * 20, *[""] * 180]))
    assert more.verdict == "better"
    assert more.numbers.startswith("+.300 to +.400 [")
    assert more.means == ".700–.800 against .400"


GOLDS = [COLORS[i % 4] for i in range(200)]
RIGHT = [i % 10 < 7 for i in range(200)]
CHOSEN = [gold if right else COLORS[(i + 1) % 4] for i, (gold, right) in enumerate(zip(GOLDS, RIGHT, strict=True))]
PROSE = {  # the answers of one truth in words that phrase rules misread
    "options": (
        [f"I compare it with {COLORS[(i + 2) % 4]} and {own}. It is the latter." for i, own in enumerate(CHOSEN)],
        CHOSEN, GOLDS, COLORS,
    ),
    "counts": (
        [f"Image {3 + i % 4} has 2 pears and {7 + i % 3 + (not right)} apples" for i, right in enumerate(RIGHT)],
        [str(7 + i % 3 + (not right)) for i, right in enumerate(RIGHT)],
        [str(7 + i % 3) for i in range(200)], (),
    ),
    "refusals": (
        ["Sorry, there is no image attached." if i % 3 else "yes" for i in range(200)],
        ["no" if i % 6 < 3 else "yes" for i in range(200)],
        ["no" if i % 2 else "yes" for i in range(200)], (),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", PROSE)
def test_wording_alone_decides_nothing(kind: str) -> None:
    prose, bare, golds, options = PROSE[kind]
    arms = read_frame(prose, golds, options), read_frame(bare, golds, options)
    assert compared(*(own.drop(columns="unread:lenient") for own in arms)).verdict in ("better", "worse")
    one = compared(*arms)
    assert one.bounds
    assert one.bounds.low < 0 < one.bounds.high
    assert one.verdict == "undecided"
    assert one.numbers.startswith(one.size)
    assert (
        f"{round(400 * one.bounds.unread)} of 400 outputs unread; `icl label` settles it with labels of about 60 "
        "queries" in one.numbers
    )


def test_bare_answers_lose_nothing() -> None:
    outputs = [chosen if i % 3 else COLORS[(i + 2) % 4] for i, chosen in enumerate(CHOSEN)]
    one = compared(read_frame(outputs, GOLDS, COLORS), read_frame(CHOSEN, GOLDS, COLORS))
    assert (one.bounds, one.verdict) == (None, "better")


def test_the_bounds_of_an_arm_are_its_means_with_the_unread_outputs_wrong_and_right() -> None:
    _, arm = random_arms(np.random.default_rng(4), 90, 0.25)
    bounds = bound_arm(arm, "lenient")
    assert bounds
    ends = [
        estimate_arm(arm.assign(lenient=arm["lenient"].where(arm["unread:lenient"] == "", value)), "lenient")
        for value in (0.0, 1.0)
    ]
    assert (bounds.low, bounds.high) == (ends[0].mean, ends[1].mean)
    assert (bounds.ci_low, bounds.ci_high) == (ends[0].low, ends[1].high)
    assert bounds.high - bounds.low == pytest.approx(bounds.unread)
    assert bound_arm(frame([0, 1, 1]), "lenient") is None


def test_a_table_of_comparisons_has_bounds_only_with_unread_outputs() -> None:
    draw = np.random.default_rng(5)
    reference, arm = random_arms(draw, 200, 0.0)
    texts = ["no telling" if draw.random() < 0.3 else "" for _ in range(200)]
    both = pd.concat([reference.assign(shots=0), arm.assign(shots=4)], ignore_index=True)
    plain = compare(both, {"shots": 0}, "lenient", axes=("shots",))
    assert not set(BOUND_COLUMNS) & set(plain)
    marked = both.assign(**{"unread:lenient": [""] * 200 + texts})
    table = compare(marked, {"shots": 0}, "lenient", axes=("shots",))
    one = compared(reference, arm.assign(**{"unread:lenient": texts}))
    assert one.bounds
    assert table.loc[0, BOUND_COLUMNS[:3]].tolist() == [one.bounds.low, one.bounds.high, one.bounds.unread]
    assert verdicts(table) == [one.verdict] == ["undecided"]
    corrected = correct_topics({"ICL gain": [one]})["ICL gain"][0].result
    assert corrected
    assert table.loc[0, ["low", "high"]].tolist() == [corrected.low, corrected.high]


def test_the_same_unread_text_is_the_same_truth_only_for_the_same_gold_and_options() -> None:
    golds, orders = (["A"] * 100, ["B"] * 100), (("A", "B"), ("B", "A"))
    for other_gold, other_order in itertools.product((0, 1), repeat=2):
        sides = ((golds[0], orders[0]), (golds[other_gold], orders[other_order]))
        texts = [[unread_text("I would go for B", [gold], order) for gold in own] for own, order in sides]
        one = compared(frame([0.0] * 100, texts[0]), frame([1.0] * 50 + [0.0] * 50, [""] * 50 + texts[1][50:]))
        is_same = not other_gold and not other_order
        assert one.bounds is not None
        assert (one.bounds.low, one.bounds.high) == ((0.0, 0.5) if is_same else (-0.5, 1.0))
    assert unread_text("I would go for B ", ["A"], None) == unread_text("i would go for B", ("A",), ())
