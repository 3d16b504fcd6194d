"""Answers that name options in prose."""

import pytest

from icl.metrics.accuracy import Lenient
from icl.types import Example, Generation

COLORS = ("red", "blue", "green", "yellow")


def chosen(output: str) -> list[str]:
    """The options for which the output is right."""
    examples = [Example("q", (), "Which color?", (color,), COLORS) for color in COLORS]
    return [one.answers[0] for one in examples if Lenient().score(Generation(output), one)]


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("To answer, I compare it with blue and red. The closest is red.", "red"),
        ("The options are red, blue, green and yellow. Looking at the car, it is blue.", "blue"),
        ("It looks close to green at first, but compared with yellow it is green.", "green"),
        ("Comparing red with blue, the closest is red.", "red"),
        ("The shape could be mistaken for blue. However, it is red.", "red"),
        ("I considered red, blue and green. I would say green.", "green"),
        ("It is red. Blue would be darker.", "red"),
        ("It is red. Blue does not match.", "red"),
        ("Blue is wrong. Green is wrong. Red.", "red"),
        ("Red, since blue is clearly incorrect.", "red"),
        ("Red and blue are both plausible, yet the sign is clearly red.", "red"),
    ],
)
def test_prose_that_names_several_options_gives_the_one_that_its_last_clause_states(output: str, answer: str) -> None:
    assert chosen(output) == [answer]


@pytest.mark.parametrize(
    "output",
    [
        *("It is red or blue.", "Red and blue.", "The car is red and the truck is blue.", "red, blue", "red, or blue"),
        *("It could be red or blue. Hard to say, red and blue.", "I see red, blue and green."),
        *("It is not red or blue.", "It is red. Or is it blue?"),
        *("A. red or B. green", "A: red, B: green", "Red is wrong."),
        *("I compare red and blue. I am not sure whether it is red.", "It is not red. It is not blue either."),
    ],
)
def test_prose_that_commits_to_no_option_gives_none(output: str) -> None:
    assert chosen(output) == []


def test_a_number_gives_an_option_only_if_each_option_has_one_number() -> None:
    def score(options: tuple[str, ...]) -> float | None:
        return Lenient().score(Generation("3"), Example("q", (), "What is there?", ("3 dogs",), options))

    assert score(("3 dogs", "2 cats")) == 1
    assert score(("3 dogs", "3 dogs and 2 cats")) == 0


def test_a_british_spelling_of_one_option_does_not_accept_a_second_one() -> None:
    colors = ("gray", "blue")
    examples = [Example("q", (), "Which color?", (color,), colors) for color in colors]
    assert [Lenient().score(Generation("A, grey or blue."), one) for one in examples] == [0, 0]
