"""Tests of strict, lenient and option accuracy."""

import math

import pytest

from icl.metrics.accuracy import Lenient, OptionAccuracy, Strict
from icl.types import Example, Generation


def example(*answers: str, options: tuple[str, ...] = ()) -> Example:
    return Example("e", (), "?", answers, options)


def lenient(output: str, *answers: str, options: tuple[str, ...] = ()) -> float | None:
    return Lenient().score(Generation(output), example(*answers, options=options))


def strict(output: str, *answers: str) -> float | None:
    return Strict().score(Generation(output), example(*answers))


def test_strict_wants_the_whole_output():
    assert strict(" Red. ", "red") == 1
    assert strict("it is red", "red") == 0
    assert strict("red\nblue", "red") == 0
    assert strict("couch", "sofa", "Couch") == 1
    assert strict("2", "two") == 0
    assert strict("", "red") == 0


def test_lenient_cuts_to_the_first_line_that_says_something():
    assert lenient("\n\n Answer: red\nQuestion: what else?", "red") == 1
    assert lenient("blue\nred", "red") == 0


@pytest.mark.parametrize(
    "output", ["red", "Red.", "a red", "it is red", "It's red", "The answer is: red", "red, I think"]
)
def test_lenient_takes_the_answer_out_of_its_wrapping(output):
    assert lenient(output, "red") == lenient(output, "blue", "red") == 1


@pytest.mark.parametrize("output", ["not red", "redder", "blue", "blue and red", "I am not sure, maybe red", ""])
def test_lenient_does_not_search_the_whole_line_without_options(output):
    assert lenient(output, "red") == 0


def test_lenient_compares_numbers_with_their_sign():
    assert lenient("three", "3") == 1
    assert lenient("There are 3 dogs.", "3") == 1
    assert lenient("3", "three") == 1
    assert lenient("-3", "-3") == 1
    assert lenient("3", "-3") == 0
    assert lenient("-3", "3") == 0
    assert lenient("3.5", "3.5") == 1
    assert lenient("3.5", "3") == 0
    assert lenient("2 or 3", "3") == 0
    assert lenient("none", "0", "none") == 1
    assert lenient("-3", "3", options=("1", "2", "3")) == 0


def test_lenient_says_yes_or_no_three_ways():
    for output, answer in [
        ("Yes.", "yes"),
        ("no, there is not", "no"),
        ("I would say yes", "yes"),
        ("There is no dog", "no"),
    ]:
        assert lenient(output, answer, options=("yes", "no")) == 1
        assert lenient(output, "no" if answer == "yes" else "yes", options=("yes", "no")) == 0
    for output in ("", "perhaps", "it is yes or no", "nothing here"):
        assert lenient(output, "yes") == lenient(output, "no") == 0


def test_with_options_the_answer_must_be_named_and_no_other():
    options = ("cat", "dog", "wildcat", "hot dog")
    assert lenient("I believe it is a cat", "cat", options=options) == 1
    assert lenient("a cat or a dog", "cat", options=options) == 0
    assert lenient("a wildcat", "cat", options=options) == 0
    assert lenient("a wildcat", "wildcat", options=options) == 1
    assert lenient("a hot dog", "hot dog", options=options) == 1
    assert lenient("a hot dog", "dog", options=options) == 0
    assert lenient("a hot dog and a dog", "dog", options=options) == 0
    for names in (("hot", "hot dog", "dog"), ("hot dog", "dog", "hot")):  # one begins another
        assert lenient("I believe it is a hot dog", "hot dog", options=names) == 1
        assert lenient("I believe it is a hot dog", "hot", options=names) == 0
    assert lenient("puppy", "dog", "puppy", options=options) == 1


def test_option_needs_the_answer_alone_at_the_top():
    def score(**scores):
        return OptionAccuracy().score(Generation("", option_scores=scores), example("red", options=("red", "blue")))

    assert score(red=-0.1, blue=-3.0) == 1
    assert score(red=-3.0, blue=-0.1) == 0
    assert score(red=-1.0, blue=-1.0) == 0
    assert score(red=math.nan, blue=-1.0) == 0
    assert score(Red=-0.1, blue=-math.inf) == 1
    assert OptionAccuracy().score(Generation("red"), example("red")) is None
