"""Removal of the markup around answers."""

import pytest

from icl.metrics.answer_markup import (
    bold_texts,
    boxed_text,
    clean_output,
    first_line,
    first_sentence,
    last_line,
    strip_markup,
)


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
