"""What a notebook shows of examples, contexts and prompts."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image as PILImage

import icl
from icl.edits import Blank
from icl.images import Image
from icl.text.notebook_html import MAX_CHARACTERS, MAX_IMAGES, THUMBNAIL_SIDE
from icl.types import Context, Demo, Example, Part, Prompt, Turn

HOSTILE = '<script>alert("1")</script>\x1b[31m'


def example(name: str = "q", color: str = "red", question: str = "what?") -> Example:
    return Example(name, (Image.from_pil(PILImage.new("RGB", (300, 200), color)),), question, ("yes",))


def thumbnails(html: str) -> list[PILImage.Image]:
    data = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [PILImage.open(io.BytesIO(base64.b64decode(one))) for one in data]


def test_a_prompt_has_its_texts_and_small_images_in_order() -> None:
    demo, query = example("d", "blue"), example("q", "red")
    prompt = icl.compose("chat", Context(query.query, (Demo(demo),)))
    html = prompt._repr_html_()
    images = thumbnails(html)
    assert [image.getpixel((0, 0)) for image in images] == [(0, 0, 255), (255, 0, 0)]
    assert all(max(image.size) == THUMBNAIL_SIDE for image in images)
    assert html.index("base64") < html.index("yes") < html.rindex("base64")
    assert "demo[0].image[0]" in html
    edited = prompt.edit(images=Blank(9, 9, 9), where="query")._repr_html_()
    assert [image.getpixel((0, 0)) for image in thumbnails(edited)] == [(0, 0, 255), (9, 9, 9)]
    assert "blank" in edited


def test_a_context_lists_demonstrations_in_prompt_order_and_then_the_query() -> None:
    context = Context(example("q").query, (Demo(example("a", "blue"), 0.25, 1), Demo(example("b"), 0.75, 0)))
    html = context._repr_html_()
    assert html.index(">a<") < html.index(">b<") < html.index(">q<")
    assert "0.250" in html
    assert "similarity" not in Context(example().query, (Demo(example("a")),))._repr_html_()


@pytest.mark.parametrize("where", ["id", "question", "answers", "meta", "role", "provenance"])
def test_text_cannot_become_markup(where: str) -> None:
    hostile = {"answers": (HOSTILE,), "meta": {HOSTILE: HOSTILE}}.get(where, HOSTILE)
    one = replace(example(), **{where: hostile}) if where in ("id", "question", "answers", "meta") else example()
    context = Context(one.query, (Demo(one),), provenance=(HOSTILE,))
    prompt = Prompt((Turn("user", (Part(HOSTILE, HOSTILE), Part(Image.from_bytes(b"x", HOSTILE)))),))
    for html in (one._repr_html_(), one.query._repr_html_(), context._repr_html_(), prompt._repr_html_()):
        assert "<script" not in html
        assert "\x1b" not in html


def test_an_unreadable_image_is_a_sentence_and_the_rest_is_shown(tmp_path: Path) -> None:
    broken = replace(example(), images=(Image.from_path(tmp_path / "gone.png"),))
    html = broken._repr_html_()
    assert "gone.png does not exist" in html
    assert "what?" in html


def test_many_images_and_long_texts_stay_small() -> None:
    many = replace(example(), images=example().images * (MAX_IMAGES + 5), question="x" * (MAX_CHARACTERS + 9))
    html = many._repr_html_()
    assert html.count("<img") == MAX_IMAGES
    assert "5 further images are left out" in html
    assert "x" * MAX_CHARACTERS + " … (" in html
    assert len(html) < 200_000
