"""Tests of CHAIR, by hand."""

import numpy as np
import pytest

from icl.metrics.base import ScoredSample
from icl.metrics.hallucination import CaptionLength, ChairCorpus, ChairI, ChairRecall, ChairS
from icl.text.object_mentions import mentioned_objects, singular
from icl.types import Example, Generation

NAMES = {"dog": "dog", "puppy": "dog", "hot dog": "hot dog", "bus": "bus"}
EXAMPLE = Example("e", (), "describe.", ("a dog",), secret={"objects": ["dog", "hot dog"], "vocabulary": NAMES})


def published_chair_i(captions):
    """A ratio of sums over a corpus. None if no caption names an object."""
    mentions = [name for caption in captions for name in mentioned_objects(caption, NAMES)]
    return sum(name not in EXAMPLE.secret["objects"] for name in mentions) / len(mentions) if mentions else None


@pytest.mark.parametrize(
    ("word", "one"),
    [
        ("circles", "circle"), ("crosses", "cross"), ("arches", "arch"), ("cross", "cross"), ("boxes", "box"),
        ("puppies", "puppy"), ("pies", "pie"), ("bus", "bus"), ("buses", "bus"), ("men", "man"),
        ("glass", "glass"), ("horses", "horse"), ("red", "red"),
    ],
)  # fmt: skip
def test_the_singular_is_made_by_rule(word, one):
    assert singular(word) == one


def test_the_longest_name_is_the_mention_and_synonyms_are_one_object():
    assert mentioned_objects("A hot dog, two puppies and the dogs.", NAMES) == ["hot dog", "dog", "dog"]
    assert mentioned_objects("nothing at all", NAMES) == []
    assert mentioned_objects("dogged hotdog", NAMES) == []


def score(metric, caption):
    return metric.score(Generation(caption), EXAMPLE)


def test_mentions_are_counted_and_not_distinct_objects():
    assert score(ChairI(), "a dog and a dog and a bus") == pytest.approx(1 / 3)
    assert score(ChairS(), "a dog and a dog and a bus") == 1
    assert score(ChairRecall(), "a dog and a dog and a bus") == 0.5


def test_a_silent_caption_is_clean_and_has_no_share():
    assert score(ChairI(), "") is None
    assert score(ChairS(), "") == 0
    assert score(ChairRecall(), "") == 0


def test_the_corpus_ratio_is_not_the_mean_of_captions():
    assert published_chair_i(["a bus", "a dog, a dog and a hot dog", ""]) == 0.25
    assert published_chair_i([""]) is None


def test_examples_without_objects_have_no_score():
    bare = Example("e", (), "?", ("a",))
    assert [m.score(Generation("a dog"), bare) for m in (ChairI(), ChairS(), ChairRecall())] == [None, None, None]


def test_the_published_share_is_that_of_all_mentions_of_a_cell():
    metric = ChairCorpus()
    captions = ["a bus", "a dog, a dog and a hot dog", ""]
    scores = [metric.score(Generation(text), EXAMPLE) for text in captions]
    samples = [
        ScoredSample(f"q{i}", score, output=text) for i, (score, text) in enumerate(zip(scores, captions, strict=True))
    ]
    parts = metric.run_level(samples)
    assert parts.statistic == pytest.approx(published_chair_i(captions))
    silent = [ScoredSample("q", metric.score(Generation(""), EXAMPLE))]
    assert np.isnan(metric.run_level(silent).statistic)
    assert not metric.run_level([ScoredSample("q", None)]).counted.any()


def test_length_is_a_mean_of_words():
    metric = CaptionLength()
    samples = [
        ScoredSample("a", 0.02, output="a dog"),
        ScoredSample("b", 0.0, output=""),
        ScoredSample("c", None, output="failed here"),
    ]
    assert metric.run_level(samples).numbers().tolist() == pytest.approx([2.0, 0.0, np.nan], nan_ok=True)
    assert metric.score(Generation("x " * 500), EXAMPLE) == 1
