"""Named parts of demonstrations and queries."""

from typing import Any

import pytest
from PIL import Image as PILImage

from icl.errors import ConfigError
from icl.images import Image
from icl.streams import StreamKey
from icl.types import Context, Demo, Example, Part
from prompts import pieces
from prompts.pieces import INSTRUCTIONS


def _image(name: str) -> Image:
    return Image.from_pil(PILImage.new("RGB", (2, 2)), name)


IMAGES = _image("a"), _image("b")
DEMO = Demo(Example("e", IMAGES, "what?", ("one", "uno")), 0.5, 0)


@pytest.mark.parametrize(("level", "own", "text"), [
    ("none", None, ""), ("short", None, INSTRUCTIONS["short"]), ("long", None, INSTRUCTIONS["long"]),
    ("none", "Be brief.", "Be brief."), ("none", "", ""),
])  # fmt: skip
def test_an_instruction_is_a_part_and_a_line_break(level: Any, own: str | None, text: str) -> None:
    expected = (Part(text, "instruction"), Part("\n")) if text else ()
    assert pieces.instruction(level, own) == expected


def test_a_level_and_a_text_of_the_instruction_exclude_each_other() -> None:
    for level, own in (("none", "x"), ("short", None), ("none", None)):
        pieces.check_instruction(level, own, "chat")  # type: ignore[arg-type]  # a str that is a level
    with pytest.raises(ConfigError, match="composer 'chat': instruction is 'short' and instruction_text is set too"):
        pieces.check_instruction("short", "x", "chat")


def test_parts_have_the_names_of_their_owner() -> None:
    query = DEMO.example.query
    assert [part.name for part in pieces.images(DEMO, "demo[1]")] == ["demo[1].image[0]", "demo[1].image[1]"]
    assert [part.image for part in pieces.images(query, "query")] == list(IMAGES)
    assert pieces.question(DEMO, "demo[1]") == (Part("what?", "demo[1].question"),)
    assert pieces.question(query, "query") == (Part("what?", "query.question"),)
    assert pieces.question(Example("e", (), "", ("a",)).query, "query") == ()
    assert pieces.answer(DEMO, "demo[1]") == Part("one", "demo[1].answer")
    context = Context(query, (DEMO, DEMO), StreamKey(0, "q"))
    assert pieces.named(context) == [("demo[0]", DEMO), ("demo[1]", DEMO)]
