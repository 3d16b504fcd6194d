"""Tests of knowledge conflict: questions, images, and the scores of fake models."""

import numpy as np
import pytest

import icl
from icl.errors import ConfigError
from icl.models.base import Request
from icl.tasks.generated.conflict import ConflictTask
from icl.tasks.generated.drawing import print_word, width
from icl.tasks.generated.world import COLORS


def by_mode(task):
    queries = {mode: [q for q in task.queries if q.meta["mode"] == mode] for mode in task.modes}
    assert len({len(examples) for examples in queries.values()}) == 1
    return queries


@pytest.mark.parametrize("by", ["color", "shape"])
def test_an_item_asks_the_same_thing_from_text_and_from_its_image(by):
    queries = by_mode(ConflictTask(by=by, query_limit=60))
    for text, image, recognize in zip(*queries.values(), strict=True):
        assert text.group == image.group == recognize.group
        assert text.answers == image.answers
        assert text.options == image.options
        assert len(set(image.options)) == 4
        assert {image.answer, image.secret["contradiction"]} <= set(image.options)
        assert not text.images
        assert text.question.endswith(image.question)
        assert f"{' '.join(text.secret['concept'])}. " in text.question
        assert recognize.answer in text.secret["concept"]
        assert recognize.answer != image.answer
        assert recognize.images == image.images


def test_the_true_option_has_no_place_of_its_own():
    places = [q.options.index(q.answer) for q in ConflictTask(query_limit=600).queries]
    assert all(100 < places.count(place) < 210 for place in range(4))


def test_what_contradicts_is_a_printed_word_or_a_statement_or_nothing():
    printed, stated, none = (
        by_mode(ConflictTask(against=against, query_limit=30))["image"] for against in ("printed", "statement", "none")
    )
    for a, b, c in zip(printed, stated, none, strict=True):
        assert a.question == c.question == b.question.split(". ")[1]
        assert f" {b.secret['contradiction']} " in b.question
        assert b.images == c.images
        assert a.images[0].load.word == a.secret["contradiction"] != a.answer
        assert np.any(np.asarray(a.images[0].open()) != np.asarray(c.images[0].open()))
        assert a.answers == b.answers == c.answers


def test_pools_are_without_contradiction_and_of_the_kind_of_the_question():
    task = ConflictTask(query_limit=6, support=20)
    for query in task.queries:
        for example in task.pool(query.id).examples:
            assert example.meta == {"mode": query.meta["mode"], "against": "none"}
            assert example.secret["contradiction"] is None
            assert bool(example.images) == bool(query.images)


def test_a_printed_word_is_dark_strokes_on_a_white_label():
    from PIL import Image as PILImage

    plain = PILImage.new("RGB", (64, 64), (90, 140, 200))
    printed = np.asarray(print_word(plain, "red", (10, 20), 2.0, (220, 0, 0))).astype(int)
    label = printed[20:28, 10 : 10 + round(width("red", 2.0))]
    assert (label.sum(-1) > 600).mean() > 0.15
    assert (label.sum(-1) < 150).mean() > 0.1
    assert np.all(printed[:12] == (90, 140, 200))
    assert (np.abs(printed - (220, 0, 0)).sum(-1) < 60).sum() > 20
    with pytest.raises(KeyError):
        print_word(plain, "a1", (0, 0), 2.0)


def test_wrong_modes_are_refused():
    with pytest.raises(ConfigError, match="each once"):
        ConflictTask(modes=("image", "image"))


def reader(request: Request) -> str:
    """Reads text and printed words, sees shapes, and sees a color only where no word is printed."""
    image = next((p for p in reversed(request.prompt.images)), None)
    question = next(p.text for p in request.prompt.parts() if p.name == "query.question")
    if image is None:
        return next(word for word in question.replace(".", "").split() if word in COLORS)
    recipe = image.load
    drawing = getattr(recipe, "drawing", recipe)
    if "shape is in" in question:
        return drawing.shape
    return getattr(recipe, "word", drawing.color)


def sober(request: Request) -> str:
    """Says what the text says, and else what is drawn."""
    recipe = request.prompt.images[-1].load if request.prompt.images else None
    drawing = getattr(recipe, "drawing", recipe)
    question = next(p.text for p in request.prompt.parts() if p.name == "query.question")
    if drawing is None:
        return next(word for word in question.replace(".", "").split() if word in COLORS)
    return drawing.shape if "shape is in" in question else drawing.color


@pytest.mark.parametrize(
    ("says", "against", "scores"),
    [("reader", "printed", (0, 1, 0, 1)), ("reader", "none", (1, 0, 0, None)), ("sober", "printed", (1, 0, 0, 0))],
)
def test_fakes_score_as_they_must(tmp_path, says, against, scores):
    accuracy, flips, conflict, misled = scores
    config = {
        "name": "t",
        "task": {"name": "conflict", "against": against, "queries": 30},
        "model": {"name": "fake-scripted", "answer": f"{__file__}:{says}"},
        "metrics": ["lenient", "recognized_accuracy", "flip_rate", "conflict_rate", "misled_rate"],
    }
    run = icl.run(config, runs=tmp_path, quiet=True)
    means = run.samples()[["recognized_accuracy", "flip_rate", "conflict_rate"]].mean()
    assert list(means) == [accuracy, flips, conflict]
    if misled is not None:
        assert run.samples()["misled_rate"].mean() == misled
    (row,) = run.analyze("conflict").to_dict("records")
    assert (row["flip"], row["conflict"], row["items"], row["asked"]) == (flips, conflict, 10, 10)
    assert row["text_only"] == (1 if flips else 0)
    scored = icl.run({**config, "name": "o", "answer_mode": "options"}, runs=tmp_path, quiet=True)
    (row,) = scored.analyze("conflict").to_dict("records")
    assert row["shift"] == pytest.approx(abs(np.log((0.1 / 3) / 0.9)) if flips else 0)  # the fakes are sure to .9
    assert row["flip"] == flips
