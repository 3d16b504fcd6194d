"""Options listed after the question, rotated."""

from collections.abc import Callable

import pytest

from icl.errors import ConfigError
from icl.types import Context
from prompts.transforms.option_list import rotate

Make = Callable[..., Context]
OPTIONS = ("red", "green", "blue")


def test_every_shift_is_another_order_of_the_same_options() -> None:
    orders = {rotate(OPTIONS, shift) for shift in range(3)}
    assert orders == {("red", "green", "blue"), ("green", "blue", "red"), ("blue", "red", "green")}
    assert rotate(OPTIONS, 4) == rotate(OPTIONS, 1)


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
