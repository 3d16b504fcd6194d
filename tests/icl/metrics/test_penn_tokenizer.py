"""Tests of the tokenizer of captions against tokens of the released one."""

import json
from pathlib import Path

import pytest

from icl.metrics.machinery.penn_tokenizer import tokenize, words

GOLDEN = [
    json.loads(line) for line in (Path(__file__).parents[1] / "golden/penn_tokens.jsonl").read_text().splitlines()
]


@pytest.mark.parametrize("group", sorted({case["group"] for case in GOLDEN}))
def test_tokens_are_those_of_the_released_evaluation(group):
    cases = [case for case in GOLDEN if case["group"] == group]
    different = [case["caption"] for case in cases if list(tokenize(case["caption"])) != case["tokens"]]
    assert different == []
    assert len(cases) >= 20


def test_the_golden_captions_are_many():
    assert len(GOLDEN) >= 500


def test_a_fraction_is_one_token_and_two_words():
    assert tokenize("2 1/2 cups") == ("2\xa01/2", "cups")
    assert words("2 1/2 cups") == ["2", "1/2", "cups"]


def test_an_empty_caption_has_no_words():
    assert words("") == words(" . ") == words("\U0001f600") == []


def test_a_caption_does_not_depend_on_the_line_behind_it():
    assert words("vitamin C.") == ["vitamin", "c."]
    assert words("vitamin C. The end") == ["vitamin", "c", "the", "end"]
