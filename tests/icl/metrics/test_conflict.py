"""Tests of knowledge conflict on hand-written rows."""

import numpy as np
import pytest

from icl.metrics.base import ScoredSample
from icl.metrics.conflict import ConflictRate, FlipRate, MisledRate, RecognizedAccuracy
from icl.types import Example, Generation

OPTIONS = ("red", "blue", "green", "black")


def item(name, gold, text, image, recognized="star"):
    """Rows of one item: what was said from text, to the image, and to the question what it shows."""
    rows = [
        ("text", Example(f"{name}t", (), "?", (gold,), OPTIONS, group=name, meta={"mode": "text"}), text),
        ("image", Example(f"{name}s", (), "?", (gold,), OPTIONS, group=name, meta={"mode": "image"}), image),
    ]
    if recognized is not None:
        recognize = Example(f"{name}r", (), "?", ("star",), ("star", "arch"), group=name, meta={"mode": "recognize"})
        rows.append(("recognize", recognize, recognized))
    metric = FlipRate()
    return [
        ScoredSample(e.id, metric.score(Generation(answer), e), name, answer, e.answers, e.options, e.meta)
        for _, e, answer in rows
    ]


# right twice (a, b), text only (c), image only (d), wrong alike (e) and differently (f), no option (g); h: unknown
ITEMS = [
    *item("a", "red", "red", "red"),
    *item("b", "red", "it is red", "Red."),
    *item("c", "red", "red", "blue"),
    *item("d", "red", "blue", "red"),
    *item("e", "red", "blue", "blue"),
    *item("f", "red", "blue", "green"),
    *item("g", "red", "red", "a cloud"),
    *item("h", "red", "blue", "red", recognized="arch"),
]


def rate(metric, rows):
    statistic = metric.run_level(rows).statistic
    return None if np.isnan(statistic) else statistic


def test_rates_are_over_the_recognized_items():
    assert rate(RecognizedAccuracy(), ITEMS) == pytest.approx(3 / 7)
    assert rate(FlipRate(), ITEMS) == pytest.approx(4 / 7)  # c, d, f, g
    # accuracies: text 4/7 (a, b, c, g), image 3/7; the conflict rate is 2 c + d with c = 1/7 (d) and d = 1/7 (f)
    assert rate(ConflictRate(), ITEMS) == pytest.approx(4 / 7 - (4 / 7 - 3 / 7))
    assert rate(ConflictRate(), ITEMS) == pytest.approx(2 / 7 + 1 / 7)


def test_without_a_recognition_question_every_item_counts():
    rows = [row for row in ITEMS if row.meta["mode"] != "recognize"]
    assert rate(FlipRate(), rows) == pytest.approx(5 / 8)


def test_an_item_that_lacks_a_question_or_failed_has_no_part():
    assert rate(FlipRate(), [*ITEMS[:3], ITEMS[4]]) == 0
    failed = [ScoredSample("x", None, "z", None, ("red",), OPTIONS, {"mode": mode}) for mode in ("text", "image")]
    numbers = FlipRate().run_level([*ITEMS[:3], *failed]).numbers()
    assert numbers.tolist() == pytest.approx([0, 0, 0, np.nan, np.nan], nan_ok=True)
    assert rate(FlipRate(), ITEMS[21:]) is None  # nothing was recognized


def test_where_only_scores_are_known_answers_cannot_flip():
    bare = [ScoredSample(r.query, r.score, r.group, None, r.gold, r.options, r.meta) for r in ITEMS]
    assert rate(FlipRate(), bare) is None
    assert rate(RecognizedAccuracy(), bare) == pytest.approx(3 / 7)


def test_who_repeats_the_contradiction_is_misled():
    example = Example("q", (), "?", ("red",), OPTIONS, meta={"mode": "image"}, secret={"contradiction": "blue"})
    assert MisledRate().score(Generation("It is blue."), example) == 1
    assert MisledRate().score(Generation("red"), example) == 0
    assert MisledRate().score(Generation("green"), example) == 0
    scored = Generation("", option_scores={"red": -3.0, "blue": -0.1, "green": -4.0, "black": -5.0})
    assert MisledRate().score(scored, example) == 1
    text = Example("q", (), "?", ("red",), OPTIONS, meta={"mode": "text"}, secret={"contradiction": "blue"})
    assert MisledRate().score(Generation("blue"), text) is None
    assert MisledRate().score(Generation("blue"), Example("q", (), "?", ("red",))) is None
