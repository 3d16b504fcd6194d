"""`as_text` writes the facts of images, and `other_support` takes demonstrations from another task."""

import pytest

from icl.errors import DataError
from icl.images import Image
from icl.registry import build
from icl.tasks.generated.drawing import Drawing, PlacedShapes
from icl.tasks.generated.world import ShapeGroup
from icl.tasks.wrappers import words_of
from icl.testing import check_task


def as_text(of, **more):
    return build("task", {"name": "as_text", "of": {"queries": 6, **of}, **more})


def test_the_text_has_what_the_image_shows_and_everything_else_stays() -> None:
    for name in ("operators", "interleaved_operators", "binding", "attribute", "counting"):
        text, image = (as_text({"name": name}, form=form) for form in ("text", "image"))
        check_task(text)
        for a, b in zip(text.queries, image.queries, strict=True):
            assert (a.id, a.answers, a.options) == (b.id, b.answers, b.options)
            assert b.images
            assert not a.images
            assert a.question.endswith(b.question)
            assert not any(e.images for e in text.pool(a.id).examples)
            if name == "operators":
                assert f"image: {a.secret['left']} ? {a.secret['right']}. " in a.question
    assert text.pool(a.id) is text.pool(a.id)


def test_each_kind_of_image_in_words() -> None:
    red = Drawing(0, "x", "single", color="red", shape="star", texture="striped", size="large", place="top left")
    assert words_of(red.image) == "a large striped red star at the top left"
    count = Drawing(0, "y", "count", color="teal", shape="arch", texture="solid", count=3)
    assert words_of(count.image) == "three solid teal arches"
    scene = Drawing(0, "z", "scene", groups=(ShapeGroup("red", "star", 2), ShapeGroup("blue", "cross", 1)))
    assert words_of(scene.image) == "there are two red stars and one blue cross in the picture"
    placed = PlacedShapes(0, "p", (("orange", "arch"), ("red", "star")), (0, 5))
    assert words_of(placed.image) == "an orange arch at the top left, a red star at the right"


def test_one_side_alone_becomes_text_and_a_photo_is_refused(tmp_path) -> None:
    task = as_text({"name": "operators"}, where="demos")
    query = task.queries[0]
    assert query.images
    assert not task.pool(query.id).examples[0].images
    with pytest.raises(DataError, match="has no facts to write in words"):
        words_of(Image.from_path(tmp_path / "photo.png"))


@pytest.mark.parametrize("support", ["attribute", "existence"])
def test_demonstrations_come_from_the_other_task(support) -> None:
    task = build("task", {"name": "other_support", "of": {"name": "binding", "queries": 5},
                          "support": {"name": support, "queries": 3}})  # fmt: skip
    check_task(task)
    of, other = build("task", {"name": "binding", "queries": 5}), build("task", {"name": support, "queries": 3})
    assert [q.id for q in task.queries] == [q.id for q in of.queries]
    for place, query in enumerate(task.queries):
        expected = other.pool(other.queries[place % 3].id).examples
        assert [e.question for e in task.pool(query.id).examples] == [e.question for e in expected]
        assert all(e.id.startswith("support-") for e in task.pool(query.id).examples)
    assert task.pool_size == other.pool_size
    with pytest.raises(DataError, match="has no query"):
        task.pool("binding-99999")
