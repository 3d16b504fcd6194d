"""Tests of the yes/no rules."""

import pytest

from icl.metrics.accuracy import Lenient
from icl.metrics.binary import F1
from icl.metrics.machinery.yes_no import Pope, UnparsedRate, YesRatio, parse_pope, parse_yes_no
from icl.types import Example, Generation

ASKS = Example("e", (), "is there a dog?", ("no",), ("yes", "no"))
OPEN = Example("e", (), "what is it?", ("a dog",))


@pytest.mark.parametrize(
    ("output", "ours", "popes"),
    [
        ("Yes, there is.", "yes", "yes"),
        ("no", "no", "no"),
        ("No, there is nothing", "no", "no"),  # commas go
        ("NO", "no", "yes"),  # the released rule knows No, no and not alone
        ("no!", "no", "yes"),
        ("", None, "yes"),
        ("a cat", None, "yes"),
        ("There is not a dog", "no", "no"),
        ("There is a cat. No dog.", "no", "yes"),  # the released rule reads the first sentence
        ("yes and no", None, "no"),
        ("it could be yes, it could be no", None, "no"),
    ],
)
def test_the_two_rules_differ_as_published_figures_do(output, ours, popes):
    assert parse_yes_no(output) == ours
    assert parse_pope(output) == popes


def test_metrics_apply_to_yes_no_questions_alone():
    answer = Generation("perhaps")
    assert [m.score(answer, ASKS) for m in (YesRatio(), UnparsedRate(), Pope())] == [0, 1, 0]
    assert [m.score(answer, OPEN) for m in (YesRatio(), UnparsedRate(), Pope())] == [None, None, None]


def test_yes_ratio_counts_the_answers_and_not_the_gold():
    assert YesRatio().score(Generation("Yes."), ASKS) == 1
    assert YesRatio().score(Generation("no"), ASKS) == 0
    assert UnparsedRate().score(Generation("no"), ASKS) == 0


def test_every_score_of_yes_and_no_reads_the_answer_behind_the_reasoning():
    output = Generation("<think>No cat at first sight. No.</think>\n\nThe answer is **yes**.")
    example = Example("e", (), "?", ("yes",), ("yes", "no"))
    scores = [metric.score(output, example) for metric in (Lenient(), F1(), YesRatio(), UnparsedRate())]
    assert scores == [1.0, 1.0, 1.0, 0.0]


REFUSALS = (
    *("Sorry, there is no image attached.", "I cannot answer: no image was provided.", "I don't see any image."),
    *("No image is visible to me.", "I'm unable to view images.", "I can't see the image you are referring to."),
    *("I cannot determine whether there is a dog in the image.", "It is unclear whether a dog is visible."),
    *("It is not possible to determine whether a dog is present.", "The image is too blurry to tell."),
)
CAPTIONS = (
    *("The image shows a cat on a sofa.", "There is a cat on the sofa.", "The photo depicts a woman with an umbrella."),
    *("A cat is clearly visible.", "This is a photo of a cat."),
)


@pytest.mark.parametrize("output", [*REFUSALS, *CAPTIONS])
@pytest.mark.parametrize("question", ["Is there a dog?", "Is there a dog in the image?"])
def test_a_refusal_and_a_caption_say_neither(output: str, question: str) -> None:
    example = Example("q", (), question, ("no",), ("yes", "no"))
    assert UnparsedRate().score(Generation(output), example) == 1
    assert Lenient().score(Generation(output), example) == 0
    assert YesRatio().score(Generation(output), example) == 0


@pytest.mark.parametrize("output", [REFUSALS[0], REFUSALS[2], REFUSALS[3], CAPTIONS[0]])
def test_a_sentence_about_the_image_itself_says_neither_if_the_question_is_unknown(output: str) -> None:
    assert parse_yes_no(output) is None


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("There is no dog in the image.", "no"),
        ("I don't see any dogs in the image.", "no"),
        ("The image does not contain a dog.", "no"),
        ("I can not see a dog anywhere. The image is dark.", "no"),
        ("There isn't one.", "no"),
        ("No, the image shows a cat.", "no"),
        ("The image shows a cat, not a dog.", "no"),
        ("There is a lawn without any dogs.", "no"),
        ("Nope, just a cat.", "no"),
        ("Yep, a brown one.", "yes"),
        ("The image shows a dog, not a cat.", "yes"),
        ("The image shows a dog lying on a bed.", "yes"),
        ("A dog is clearly visible.", "yes"),
        ("A small brown dog is present near the door.", "yes"),
        ("There are two dogs in the picture.", "yes"),
        ("It does.", "yes"),
        ("The image shows a cat on a sofa. Of course, a dog would bark.", None),  # the second sentence opens no answer
    ],
)
def test_a_statement_about_what_the_question_asks_answers_it(output: str, answer: str | None) -> None:
    assert parse_yes_no(output, "Is there a dog in the image?") == answer
