"""Answers in tags, in JSON and after labels."""

import pytest

from icl.metrics.marked_answers import json_answer, labeled_answer, tagged_answer


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
