"""Names of parts are parsed as they are written, and other names are rejected."""

import pytest

from icl import spans
from icl.types import Part


def test_what_is_written_is_read_again() -> None:
    for owner, place in ((spans.demo(0), 0), (spans.demo(12), 12), (spans.QUERY, None)):
        for name in (spans.image(owner, 3), spans.question(owner)):
            assert (spans.owner_of(name), spans.demo_index(name)) == (owner, place)
            assert spans.is_query(name) == (place is None)
            assert spans.is_span_name(name)
            assert not spans.is_answer(name)
    assert spans.answer(spans.demo(2)) == "demo[2].answer"
    assert spans.is_answer("demo[2].answer")
    assert spans.is_span_name("demo[2].answer")
    assert spans.question(spans.QUERY) == spans.QUESTION
    assert spans.image(spans.QUERY) == "query.image[0]"
    assert spans.owner_of(spans.INSTRUCTION) == spans.INSTRUCTION


@pytest.mark.parametrize(
    "name", ["", "query", "query.answer", "demo[].question", "demo[0]", "demo[0].question ", "demo"]
)
def test_what_is_no_name_is_none(name: str) -> None:
    assert not spans.is_span_name(name)


def test_a_name_that_only_begins_like_a_demonstrations_is_of_none() -> None:
    for name in ("demo[x].answer", "demo[", "demonstration[0].answer"):
        assert Part("text", name).demo is None
        assert not Part("text", name).within("demos")
        assert not spans.is_answer(name)
    assert Part("text", "query").within("query") is False


def test_a_patch_belongs_to_its_image() -> None:
    name = spans.patch("demo[2].image[0]", 5)
    assert (name, spans.patch_index(name)) == ("demo[2].image[0].patch[5]", ("demo[2].image[0]", 5))
    assert spans.patch_index("demo[2].image[0]") is None
    assert spans.is_span_name(name)
    assert not spans.is_span_name("demo[2].question.patch[5]")
    assert spans.group_of(name) == "demo_images"
