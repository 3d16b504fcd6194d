"""Options listed after the question, rotated."""

from collections.abc import Callable

import pytest

from icl.errors import ConfigError
from icl.types import Context

Make = Callable[..., Context]
OPTIONS = ("red", "green", "blue")


def test_every_shift_is_another_order_of_the_same_options(transformed: Make) -> None:
    def listed(shift: int) -> str:
        return transformed(
            {"name": "option_list", "shift": shift, "text": " {options}"}, ["red"], OPTIONS
        ).query.question

    orders = ["which? red, green, blue", "which? green, blue, red", "which? blue, red, green"]
    assert [listed(shift) for shift in range(3)] == orders
    assert listed(4) == listed(1)


def test_letters_follow_the_shift_and_are_the_options_and_the_answers(transformed: Make) -> None:
    done = transformed({"name": "option_list", "shift": 1, "letters": True}, ["red", "blue"], OPTIONS)
    listed = "\nA. green\nB. blue\nC. red\nAnswer with the option's letter from the given choices directly."
    assert done.query.question == f"which?{listed}"
    assert [(d.example.answers, d.example.options) for d in done.demos] == [
        (("B", "blue"), ("A", "B", "C")),
        (("C", "red"), ("A", "B", "C")),
    ]
    assert done.query.options == ("A", "B", "C")


def test_questions_of_demonstrations_and_query_list_them_and_answers_stay(transformed: Make) -> None:
    done = transformed({"name": "option_list", "shift": 1}, ["red"], OPTIONS)
    assert done.query.question == "which?\nOptions: green, blue, red."
    assert done.demos[0].example.question == "q0?\nOptions: green, blue, red."
    assert (done.demos[0].example.answer, done.query.options) == ("red", OPTIONS)
    assert done.provenance == ("option_list: shift 1",)
    alone = transformed(
        {"name": "option_list", "where": "query", "text": " ({options})", "between": "/"}, ["red"], OPTIONS
    )
    assert (alone.query.question, alone.demos[0].example.question) == ("which? (red/green/blue)", "q0?")


def test_without_options_nothing_is_listed(transformed: Make) -> None:
    assert transformed({"name": "option_list"}, ["red"]).provenance == ()


def test_the_text_has_a_place_for_them() -> None:
    from icl.registry import build

    with pytest.raises(ConfigError, match=r"text must have \{options\} once"):
        build("transform", {"name": "option_list", "text": "Options:"})
