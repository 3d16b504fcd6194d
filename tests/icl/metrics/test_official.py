"""Tests of published arithmetic on hand-written rows."""

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from icl.metrics.base import ScoredSample
from icl.metrics.binary import F1, Precision, Recall
from icl.metrics.classification import AUC
from icl.metrics.coco_captions import CIDEr, cider_scores
from icl.metrics.match_probabilities import WinogroundGroup, WinogroundImage, WinogroundText
from icl.metrics.normalize import normalize_vqa
from icl.metrics.published_rules import VLICL, VQA, LinkContextMetric, is_vl_icl_match, truncate_output, vqa_accuracy
from icl.metrics.question_groups import MME, GroupAccuracy
from icl.types import Example, Generation


def cell(metric, rows):
    """The statistic of (generation, example) rows, as a run keeps them."""
    samples = [
        ScoredSample(e.id, metric.score(g, e), e.group, g.text, e.answers, e.options, e.meta)
        for g, e in ((g if isinstance(g, Generation) else Generation(g), e) for g, e in rows)
    ]
    statistic = metric.run_level(samples).statistic
    return None if np.isnan(statistic) else statistic


def yes_no(name, answer, group=None, **meta):
    return Example(name, (), "?", (answer,), ("yes", "no"), group=group, meta=meta)


# 3 right yes, 1 missed yes, 2 wrong yes, 2 right no, and one output that says neither to a yes question
POPE = [
    (answer, yes_no(f"q{i}", gold))
    for i, (answer, gold) in enumerate(
        [("yes", "yes"), ("Yes, there is.", "yes"), ("yes", "yes"), ("no", "yes"), ("yes", "no"), ("Yes.", "no"),
         ("no", "no"), ("No, it is not", "no"), ("perhaps", "yes")]
    )
]  # fmt: skip


def test_precision_recall_and_f1_of_yes_as_pope_computes_them():
    assert cell(Precision(), POPE) == pytest.approx(3 / 5)
    assert cell(Recall(), POPE) == pytest.approx(3 / 5)
    assert cell(F1(), POPE) == pytest.approx(2 * 3 / (5 + 5))


def test_amber_looks_for_no():
    # 3 no said, 2 of them right; 4 no wanted
    assert cell(Precision("no"), POPE) == pytest.approx(2 / 3)
    assert cell(Recall("no"), POPE) == pytest.approx(2 / 4)
    assert cell(F1("no"), POPE) == pytest.approx(2 * 2 / (3 + 4))


def test_precision_without_a_yes_is_none():
    assert cell(Precision(), [("no", yes_no("a", "yes")), ("no", yes_no("b", "no"))]) is None


def test_a_pair_counts_if_both_answers_are_right():
    rows = [("yes", yes_no("a", "yes", "p1")), ("no", yes_no("b", "no", "p1")),
            ("yes", yes_no("c", "yes", "p2")), ("yes", yes_no("d", "no", "p2"))]  # fmt: skip
    assert cell(GroupAccuracy(), rows) == 0.5


def test_an_answer_of_a_pair_is_judged_by_option_scores_if_there_are_any():
    scored = Generation("no", option_scores={"yes": -0.1, "no": -2.0})
    assert cell(GroupAccuracy(), [(scored, yes_no("a", "yes", "p"))]) == 1


def test_mme_sums_accuracy_and_accuracy_plus_a_subtask():
    def two(subtask, image, first, second):
        return [(first, yes_no(f"{image}1", "yes", image, category=subtask)),
                (second, yes_no(f"{image}2", "no", image, category=subtask))]  # fmt: skip

    rows = two("count", "a", "yes", "no") + two("count", "b", "yes", "yes") + two("color", "c", "no", "no")
    # count: accuracy 75, accuracy+ 50; color: 50 and 0
    assert 200 * 2 * cell(MME(), rows) == pytest.approx(75 + 50 + 50 + 0)


def test_mme_leaves_out_a_pair_of_which_one_failed_and_weighs_questions_alike():
    def judged(name, score, group):
        return ScoredSample(name, score, group, "", ("yes",), ("yes", "no"), {"category": "count"})

    samples = [judged("b1", 0.0, "b"), judged("b2", 1.0, "b"), judged("c1", 1.0, "c")]
    parts = MME().run_level([judged("a1", 1.0, "a"), judged("a2", None, "a"), *samples]).numbers()
    assert np.isnan(parts[:2]).all()
    assert parts[2:].tolist() == MME().run_level(samples).numbers().tolist()
    # a subtask with a pair and a single question: accuracy 2/3, accuracy+ 1/2
    assert np.mean(parts[2:]) == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_a_caption_without_references_scores_nothing():
    assert CIDEr().run_level([ScoredSample("a", 0.0, None, "a red star", (), (), {})]).numbers().tolist() == [0.0]


def test_the_area_is_the_share_of_ordered_pairs():
    def scored(yes):
        return Generation("", option_scores={"yes": math.log(yes), "no": math.log(1 - yes)})

    rows = [(scored(0.9), yes_no("a", "yes")), (scored(0.4), yes_no("b", "yes")), (scored(0.4), yes_no("c", "no")),
            (scored(0.1), yes_no("d", "no"))]  # fmt: skip
    assert cell(AUC(), rows) == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert AUC().score(scored(0.9), yes_no("a", "yes")) == pytest.approx(0.9)


def test_generated_answers_have_an_area_of_three_values():
    rows = [("yes", yes_no("a", "yes")), ("no", yes_no("b", "yes")), ("perhaps", yes_no("c", "no"))]
    assert cell(AUC(), rows) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("probabilities", "text", "image"),
    [
        ((0.9, 0.2, 0.1, 0.8), 1, 1),
        ((0.9, 0.95, 0.1, 0.98), 1, 0),  # image 1 is the surer one of both captions
        ((0.9, 0.2, 0.95, 0.98), 0, 1),  # caption 1 is the surer one of both images
        ((0.5, 0.5, 0.5, 0.5), 0, 0),  # a tie is wrong, whichever it is
        ((0.5, 0.2, 0.5, 0.9), 0, 1),
        ((0.9, 0.6, 0.1, 0.6), 0, 1),
        ((0.6, 0.6, 0.1, 0.9), 1, 0),
        ((0.9, 0.1, 0.8, 0.8), 1, 0),
    ],
)
def test_winoground_is_strictly_greater_in_both_directions(probabilities, text, image):
    places = [(0, 0), (0, 1), (1, 0), (1, 1)]
    rows = [
        (
            Generation("", option_scores={"yes": math.log(p), "no": math.log(1 - p)}),
            yes_no(f"i{c}{i}", "yes" if c == i else "no", "item", caption=c, image=i),
        )
        for (c, i), p in zip(places, probabilities, strict=True)
    ]
    assert (cell(WinogroundText(), rows), cell(WinogroundImage(), rows), cell(WinogroundGroup(), rows)) == (
        text,
        image,
        text and image,
    )
    assert cell(WinogroundText(), rows[:3]) is None


@pytest.mark.parametrize(("same", "share"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_vqa_accuracy_leaves_each_annotator_out(same, share):
    votes = ["cat"] * same + [f"other {i}" for i in range(10 - same)]
    assert vqa_accuracy("The cat.", votes) == pytest.approx(share)


def test_the_official_normalization_waits_for_disagreement():
    assert vqa_accuracy("2", ["two"] * 10) == 1
    assert vqa_accuracy("2", ["two"] * 10, "official") == 0
    assert vqa_accuracy("2", ["two"] * 9 + ["three"], "official") == 1


def test_official_vqa_compares_as_written_where_annotators_agree():
    assert vqa_accuracy("Yes", ["yes"] * 10, "official") == 0
    assert vqa_accuracy("yes", ["yes"] * 10, "official") == 1
    assert vqa_accuracy("Yes", ["yes"] * 9 + ["no"], "official") == 1
    assert vqa_accuracy("Yes", ["yes"] * 10) == 1
    assert vqa_accuracy("fire truck", ["fire\ttruck"] * 10, "official") == 1


def test_official_vqa_is_that_of_the_official_script():
    file = Path(__file__).parents[1] / "golden/vqa_official.jsonl"
    cases = [json.loads(line) for line in file.read_text().splitlines()]
    scores = [vqa_accuracy(case["output"], case["votes"], "official") for case in cases]
    assert scores == pytest.approx([case["accuracy"] for case in cases])
    assert [normalize_vqa(case["output"]) for case in cases] == [case["normalized"] for case in cases]
    assert len(cases) >= 370


def test_answers_without_annotators_have_no_vqa_accuracy():
    assert VQA().score(Generation("a"), Example("e", (), "?", ("a",))) is None
    voted = Example("e", (), "?", ("a",), secret={"votes": ["a"] * 5 + ["b"] * 5})
    assert VQA().score(Generation("b"), voted) == 1
    assert VQA().score(Generation("foo"), replace(voted, answers=("foo",))) is None  # renamed; the votes are not


def by_definition(caption, references, corpus):
    """CIDEr-D with dense vectors over all n-grams of one order at a time."""

    def grams(text, n):
        words = text.split()
        return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]

    total = 0.0
    for reference in references:
        for n in range(1, 5):
            space = sorted({g for text in (caption, reference) for g in grams(text, n)})
            df = [sum(any(g in grams(text, n) for text in each) for each in corpus) for g in space]
            idf = np.array([math.log(len(corpus)) - math.log(max(1, d)) for d in df])
            c, s = (np.array([Counter(grams(text, n))[g] for g in space]) * idf for text in (caption, reference))
            norm = np.linalg.norm(c) * np.linalg.norm(s)
            gap = (len(caption.split()) - 1) - (len(reference.split()) - 1)
            total += (np.minimum(c, s) @ s / norm if norm else 0) * math.exp(-(gap**2) / 72)
    return 10 * total / 4 / len(references)


CORPUS = [
    ["a dog runs on the grass", "the dog is running"],
    ["two cats sleep on a bed", "a bed with two cats on the bed"],
    ["a red bus on the street", "the bus is red and the bus is old"],
]
CAPTIONS = ["a dog runs on grass", "two cats on the bed on the bed", "a dog is on the street"]


def test_cider_is_as_its_definition_gives_it():
    scores = cider_scores(CAPTIONS, CORPUS)
    assert scores == pytest.approx([by_definition(c, r, CORPUS) for c, r in zip(CAPTIONS, CORPUS, strict=True)])
    assert scores[0] > scores[2] > 0
    rows = [(c, Example(f"e{i}", (), "?", tuple(r))) for i, (c, r) in enumerate(zip(CAPTIONS, CORPUS, strict=True))]
    assert cell(CIDEr(), rows) == pytest.approx(np.mean(scores))


def test_a_caption_that_is_its_only_reference_has_ten():
    assert cider_scores(["a dog runs on the grass", "two cats sleep here"], [["a dog runs on the grass"], ["x y z w"]])[
        0
    ] == (pytest.approx(10))


@pytest.mark.parametrize(
    ("output", "expected"),
    [(" dax. It is", "dax"), ("dax\nwug. x", "dax"), ("3.5", "3"), (".5", ".5"), ("a. b\nc", "a. b"), ("", "")],
)
def test_vl_icl_cuts_an_output_at_a_line_break_or_a_full_stop(output, expected):
    assert truncate_output(output) == expected


def test_vl_icl_scores_as_released_faults_included():
    assert is_vl_icl_match("Dax.", "dax", "exact")
    assert not is_vl_icl_match("a dax", "dax", "exact")
    assert is_vl_icl_match("it is -3", "3", "number")
    assert not is_vl_icl_match("-3", "-3", "number")
    assert is_vl_icl_match("no idea", "no", "yes_no")
    assert is_vl_icl_match("maybe", "no", "yes_no")
    assert is_vl_icl_match("oh yes", "yes", "yes_no")
    assert VLICL().score(Generation("the answer is 12"), Example("e", (), "?", ("12",))) == 1
    assert VLICL("exact").score(Generation("the answer is 12"), Example("e", (), "?", ("12",))) == 0


@pytest.mark.parametrize(
    ("output", "right"),
    [
        ("It is a WILDCAT.", 1),  # the name goes first, so it does not also say cat; the output is lower-cased too
        ("a wildcat, not a cat", 0),
        ("a cat", 0),
        ("wildcats", 1),  # found inside a word
        ("", 0),
    ],
)
def test_link_context_takes_the_right_name_out_before_it_looks_for_the_other(output, right):
    example = Example("e", (), "?", ("Wildcat",), ("Wildcat", "cat"))
    assert LinkContextMetric().score(Generation(output), example) == right
    assert LinkContextMetric().score(Generation(output), Example("e", (), "?", ("cat",))) is None
