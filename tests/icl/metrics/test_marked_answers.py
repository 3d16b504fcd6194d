"""Answers in tags, in JSON and after labels."""

import pytest

from icl.metrics.machinery.marked_answers import (
    bold_texts,
    boxed_text,
    clean_output,
    first_line,
    first_sentence,
    json_answer,
    labeled_answer,
    last_line,
    strip_markup,
    tagged_answer,
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>red</answer>", "red"),
        ("<answer>blue</answer> no, <answer>red", "red"),
        ("<|begin_of_box|>red<|end_of_box|>", "red"),
        ("<answer><|begin_of_box|>red<|end_of_box|></answer>", "red"),
        ("red", None),
    ],
)
def test_the_last_tag_has_the_answer(text: str, answer: str | None) -> None:
    assert tagged_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('{"answer": "red"}', "red"),
        ('{"reason": "paint", "final_answer": {"label": "red"}}', "red"),
        ('{"color": "red"}', "red"),
        ('{"answer": true}', "yes"),
        ('{"answer": ["red"]}', "red"),
        ('{"color": "red", "size": 3}', None),
        ('{"answer": "red", "why": "the', "red"),
        ("red", None),
    ],
)
def test_a_json_object_has_the_answer_under_its_key(text: str, answer: str | None) -> None:
    assert json_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("It is dark.\nAnswer: red", "red"),
        ("Answer: blue\nFinal answer: red", "red"),
        ("The answer is red because of the paint", "red"),
        ("The answer is not A. The answer is B.", "B"),
        ("I'd go with red.", "red"),
        ("| Item | Answer |\n|---|---|\n| car | red |", "red"),
        ("## Answer\nred", "red"),
        ("It is red", None),
    ],
)
def test_the_last_label_is_followed_by_the_answer(text: str, answer: str | None) -> None:
    value = labeled_answer(text)
    assert (None if value is None else value.strip()) == answer


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("[B]", "B"),
        ("(B)", "(B)"),
        ("(dark red)", "dark red"),
        ("**red**.", "red"),
        ('"red"', "red"),
        ("`red`", "red"),
        ("$7$", "7"),
        ("\\text{red}", "red"),
        ("_red_", "red"),
        ("- red", "red"),
        ("", ""),
    ],
)
def test_markup_around_an_answer_is_removed(text: str, plain: str) -> None:
    assert strip_markup(text) == plain


def test_roles_invisible_letters_and_struck_text_are_removed() -> None:
    assert clean_output("Assistant: ~~blue~~ re\u200bd").strip() == "red"


def test_lines_sentences_and_boxes_are_found() -> None:
    text = "\n**\nIt is red. I see it.\n\\boxed{\\frac{1}{2}}\n--\n"
    assert first_line(text) == "It is red. I see it."
    assert first_sentence(first_line(text)) == "It is red"
    assert last_line("red\nblue\n**") == "blue"
    assert boxed_text(text) == "\\frac{1}{2}"
    assert boxed_text("red") is None
    assert bold_texts("**Answer:** it is **red** and __blue__") == {"red", "blue"}
