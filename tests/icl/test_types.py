"""Tests of the base types: what a query hides, what a prompt's digest covers, and edits of prompts."""

import dataclasses

import pytest
from PIL import Image as PILImage

from icl.edits import Blank, DiffusionNoise
from icl.errors import DataError
from icl.images import Image
from icl.streams import StreamKey
from icl.tasks.base import Pool
from icl.types import Example, Part, Prompt, Query, Turn


def gray(level: int) -> Image:
    return Image.from_pil(PILImage.new("RGB", (4, 4), (level,) * 3), f"gray {level}")


def prompt(key: StreamKey = StreamKey(0, "q"), *, answer: str = "red", level: int = 9) -> Prompt:
    return Prompt(
        (
            Turn("user", (Part(gray(1), "demo[0].image[0]"), Part("what?", "demo[0].question"))),
            Turn("assistant", (Part(answer, "demo[0].answer"),)),
            Turn("user", (Part(gray(level), "query.image[0]"), Part(" "), Part("what?", "query.question"))),
        ),
        key,
    )


def test_a_query_has_no_gold():
    example = Example(
        "e", (gray(1),), "what?", ("red", "crimson"), ("red", "blue"), "red", "photos", "g", {"a": 1}, {"s": 2}
    )
    assert example.answer == "red"
    query = example.query
    assert {f.name for f in dataclasses.fields(Query)} & {"answers", "label", "secret"} == set()
    for field in dataclasses.fields(Query):
        assert getattr(query, field.name) == getattr(example, field.name)
    assert example.query is query


def test_the_digest_covers_texts_roles_images_and_parts():
    base = prompt()
    moved = dataclasses.replace(base, turns=(*base.turns[:1], Turn("user", base.turns[1].parts), base.turns[2]))
    joined = base.map(lambda part: None if part.content == " " else part)
    others = [prompt(answer="blue"), prompt(level=8), moved, joined, base.edit(Blank())]
    assert len({p.digest for p in (base, *others)}) == 6
    assert prompt(StreamKey(5, "other")).digest == base.digest


def test_the_digest_takes_any_text():
    assert prompt(answer="\ud800").digest != prompt(answer="\U0001f600").digest


def test_an_image_differs_from_its_digest_as_text():
    with_image = Prompt((Turn("user", (Part(gray(1)),)),))
    with_text = Prompt((Turn("user", (Part(gray(1).digest),)),))
    assert with_image.digest != with_text.digest


def test_spans_name_turn_and_part_and_glue_has_none():
    assert prompt().spans == {
        "demo[0].image[0]": (0, 0),
        "demo[0].question": (0, 1),
        "demo[0].answer": (1, 0),
        "query.image[0]": (2, 0),
        "query.question": (2, 2),
    }


def test_text_shows_roles_and_places_of_images():
    assert prompt().text == "[user] <image>what?\n[assistant] red\n[user] <image> what?"


@pytest.mark.parametrize(
    ("where", "changed"), [("all", [True, True]), ("query", [False, True]), ("demos", [True, False])]
)
def test_an_edit_reaches_the_images_it_names(where, changed):
    before, after = prompt().images, prompt().edit(Blank(), where).images
    assert [a != b for a, b in zip(after, before, strict=True)] == changed


def test_each_image_of_a_prompt_gets_its_own_noise_and_the_same_in_any_copy():
    first, second = prompt().edit(DiffusionNoise(500)).images
    assert first.edits != second.edits
    assert prompt().edit(DiffusionNoise(500)).digest == prompt().edit(DiffusionNoise(500)).digest
    assert prompt(StreamKey(1, "q")).edit(DiffusionNoise(500)).digest != prompt().edit(DiffusionNoise(500)).digest


def test_equal_edits_of_a_prompt_are_one_object_and_others_are_not():
    own = prompt()
    noised = own.edit(DiffusionNoise(500))
    assert own.edit(DiffusionNoise(500)) is noised
    assert (
        len({noised.digest, own.edit(DiffusionNoise(499)).digest, own.edit(DiffusionNoise(500), "query").digest}) == 3
    )


def test_turns_without_a_change_are_the_same_objects() -> None:
    image = Image.from_pil(PILImage.new("RGB", (4, 4)))
    whole = Prompt(
        (
            Turn("user", (Part(image, "demo[0].image[0]"), Part("what?", "demo[0].question"))),
            Turn("assistant", (Part("red", "demo[0].answer"),)),
            Turn("user", (Part(image, "query.image[0]"), Part("what?", "query.question"))),
        )
    )
    edited = whole.edit(Blank(), "query")
    assert [a is b for a, b in zip(whole.turns, edited.turns, strict=True)] == [True, True, False]
    assert whole.map(lambda part: part).turns == whole.turns


def test_a_turn_without_parts_is_dropped():
    bare = prompt().map(lambda part: None if part.name.startswith("demo[0]") else part)
    assert [turn.role for turn in bare.turns] == ["user"]
    assert prompt().without_images().images == ()
    assert len(prompt().without_images("demos").images) == 1


def test_a_pool_refuses_an_id_that_stands_twice():
    example = Example("same", (), "?", ("a",))
    with pytest.raises(DataError, match="two examples of the pool have the id 'same'"):
        Pool((example, example))


def test_the_digest_of_a_pool_sees_everything_a_demonstration_shows():
    def digest(**change):
        fields = {"id": "a", "images": (gray(1),), "question": "?", "answers": ("x",)} | change
        return Pool((Example(**fields),)).digest

    changes = [
        {},
        {"id": "b"},
        {"question": "!"},
        {"answers": ("y",)},
        {"options": ("x",)},
        {"label": "x"},
        {"images": ()},
    ]
    pixels = [{"images": (Image.from_pil(PILImage.new("RGB", (4, 4), (i,) * 3)),)} for i in (1, 2)]
    assert len({digest(**change) for change in (*changes, *pixels)}) == 9
    assert digest() == digest()


@pytest.mark.parametrize(
    ("name", "demo", "query"),
    [
        ("demo[0].image[3]", 0, False),
        ("demo[12].answer", 12, False),
        ("query.question", None, True),
        ("instruction", None, False),
        ("", None, False),
        ("queryish", None, False),
    ],
)
def test_a_part_knows_whose_piece_it_is(name: str, demo: int | None, query: bool) -> None:
    part = Part("x", name)
    assert (part.demo, part.within("query"), part.within("demos")) == (demo, query, demo is not None)
    assert part.within("all")
