"""Correspondence and inconsistency: what is marked, what is asked, and the score of MMIR."""

import numpy as np
import pytest

from icl.metrics.published_rules import score_elements
from icl.registry import build
from icl.tasks.generated.drawing import PlacedShapes, cell_box
from icl.testing import check_task
from icl.types import Generation


def task(name: str, **parameters: object):
    return build("task", {"name": name, "queries": 60, "pool_size": 4, **parameters})


def box_of(image, box) -> np.ndarray:
    left, top, right, bottom = (round(64 * value) for value in box)
    return np.asarray(image.open()).astype(int)[top:bottom, left:right]


def test_the_numbered_shape_is_the_shape_in_the_box() -> None:
    for query in task("correspondence").queries:
        one, other = (image.edits[0] for image in query.images)
        first, second = (image.load for image in query.images)
        number = int(query.answer)
        boxed = first.concepts[first.cells.index(cell_of(one.boxes[0]))]
        numbered = second.concepts[second.cells.index(cell_of(other.boxes[other.numbers.index(number)]))]
        assert boxed == numbered == tuple(query.secret["concept"])
        assert first.concepts == second.concepts
        assert "concept" not in query.query.meta


def test_a_cue_of_correspondence_tells_the_shape_in_the_box_from_every_other_one() -> None:
    queries = task("correspondence", objects=4).queries
    for query in queries:
        color, shape = boxed = tuple(query.secret["concept"])
        others = [other for other in query.images[0].load.concepts if other != boxed]
        assert ("color" in query.meta["cues"]) == all(other[0] != color for other in others)
        assert ("shape" in query.meta["cues"]) == all(other[1] != shape for other in others)
    assert {tuple(query.meta["cues"]) for query in queries} == {(), ("color",), ("shape",), ("color", "shape")}


def cell_of(box) -> int:
    return next(cell for cell in range(9) if cell_box(cell) == box)


@pytest.mark.parametrize("name", ["correspondence", "inconsistency"])
def test_it_keeps_the_promises_of_a_task(name: str) -> None:
    check_task(build("task", {"name": name, "queries": 12, "pool_size": 8}))


def test_numbers_are_balanced_and_marks_elsewhere_mark_nothing() -> None:
    answers = [query.answer for query in task("correspondence", objects=4).queries]
    assert {answers.count(str(n)) for n in range(1, 5)} == {15}
    for name in ("correspondence", "inconsistency"):
        for query in task(name, marks="elsewhere").queries[:10]:
            recipe, mark = query.images[-1].load, query.images[-1].edits[0]
            assert not {cell_of(box) for box in mark.boxes} & set(recipe.cells)


def test_a_placed_shape_is_drawn_in_its_cell() -> None:
    image = PlacedShapes(0, "x", (("red", "star"),), (5,)).image
    inside = box_of(image, cell_box(5))
    assert (np.abs(inside - (255, 0, 0)).sum(-1) < 60).sum() > 20
    outside = np.asarray(image.open()).astype(int)[:, :40]
    assert (outside > 220).all()


@pytest.mark.parametrize("wrong", [1, 2])
def test_exactly_the_gold_statements_contradict_the_image(wrong: int) -> None:
    for query in task("inconsistency", wrong=wrong).queries:
        shapes = query.secret["concepts"]
        statements = dict(part.split(": ") for part in query.question.split(". ")[:-1])
        false = {number for number, text in statements.items() if text != shapes[int(number) - 1]}
        assert false == set(query.answer.split(" and "))
        assert len(false) == wrong


@pytest.mark.parametrize("marks", ["objects", "elsewhere"])
@pytest.mark.parametrize("wrong", [1, 2])
def test_every_stated_shape_is_in_the_image_and_stated_once(wrong: int, marks: str) -> None:
    """So neither the shapes in the image without their places, nor a repeated statement, tells which one is false."""
    for query in task("inconsistency", wrong=wrong, marks=marks).queries:
        stated = [part.split(": ")[1] for part in query.question.split(". ")[:-1]]
        assert set(stated) <= set(query.secret["concepts"])
        assert len(set(stated)) == 4


def test_the_score_of_element_numbers() -> None:
    assert [score_elements(set(p), {3}) for p in ((), (3,), (3, 4), (4,), (1, 2, 3))] == [0, 1, 0.5, 0, 0]
    assert [score_elements(set(p), {3, 4}) for p in ((3, 4), (3,), (3, 1), (1, 2))] == [1, 0.5, 0.5, 0]
    query = task("inconsistency", wrong=2).queries[0]
    metric = build("metric", "mmir")
    assert metric.score(Generation(f"I think {query.answer}."), query) == 1
    assert metric.score(Generation("none"), query) == 0
