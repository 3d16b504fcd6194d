"""Options that an answer chooses by their letters."""

import pytest

from icl.metrics.accuracy import Lenient
from icl.metrics.machinery.option_letters import chosen_by_place
from icl.types import Example, Generation

LETTERS = ("A", "B", "C", "D")
SEVERAL = (
    *("A or B", "A, B", "A/B", "B and A", "Both A and B", "(A) or (B)", "A & B", "A and/or B", "The answer is A or B."),
    *("Answer: B, A", "Either A or B", "Neither A nor B", "Options A and B", "**A** or **B**", "A,B"),
)
ONE = (
    *("B", "(B)", "b", "Option B", "option b", "The answer is B.", "**B**", "B, because A has no wheels.", "B, (B)"),
    *("A or B? B.", "Of A and B, B is right.", "Between A and C, I choose B.", "A and C are wrong, so B."),
    "The letter b",
)


def score(output: str, answer: str, options: tuple[str, ...]) -> float | None:
    return Lenient().score(Generation(output), Example("q", (), "Which one?", (answer,), options))


@pytest.mark.parametrize("options", [LETTERS, ()], ids=["options", "letters in the question"])
@pytest.mark.parametrize("output", SEVERAL)
def test_several_joined_letters_choose_none(output: str, options: tuple[str, ...]) -> None:
    assert [score(output, answer, options) for answer in LETTERS] == [0.0] * 4


@pytest.mark.parametrize("options", [LETTERS, ()], ids=["options", "letters in the question"])
@pytest.mark.parametrize("output", ONE)
def test_one_letter_chooses_its_option_alone(output: str, options: tuple[str, ...]) -> None:
    assert [score(output, answer, options) for answer in LETTERS] == [0.0, 1.0, 0.0, 0.0]


def test_a_pair_with_the_article_is_as_wrong_as_any_other_pair() -> None:
    pairs = [f"{one} or {other}" for one in LETTERS for other in LETTERS if one != other]
    assert {score(pair, answer, LETTERS) for pair in pairs for answer in LETTERS} == {0.0}


def test_a_letter_is_the_place_of_an_option_with_a_name() -> None:
    assert chosen_by_place("(B)", ("cat", "dog")) == "dog"
    assert chosen_by_place("A or B", ("cat", "dog")) is None
    assert chosen_by_place("the second one", ("cat", "dog")) == "dog"
