"""Which of two inputs: exactly one has the property, whatever its modality."""

import pytest

from icl.registry import build
from icl.testing import check_task


def task(**parameters: object):
    return build("task", {"name": "discrimination", "queries": 40, "pool_size": 8, **parameters})


@pytest.mark.parametrize("inputs", ["images", "text", "mixed"])
@pytest.mark.parametrize("by", ["color", "shape"])
def test_the_answer_alone_has_the_property(inputs: str, by: str) -> None:
    texts = 0
    for query in task(inputs=inputs, by=by).queries:
        value = query.question.split("which input is ")[1].rstrip("?").split()[-1]
        first, second = (concept[by == "shape"] == value for concept in query.secret["concepts"])
        assert (first, second) == ((True, False) if query.answer == "first" else (False, True))
        drawings = [[image.load.color, image.load.shape] for image in query.images]
        in_words = [f"{' '.join(concept)}." in query.question for concept in query.secret["concepts"]]
        assert drawings == [one for one, is_text in zip(query.secret["concepts"], in_words, strict=True) if not is_text]
        texts += sum(in_words)
    assert texts == {"images": 0, "text": 80, "mixed": 40}[inputs]


def test_both_inputs_of_the_control_have_it_and_answers_are_balanced() -> None:
    for evidence in ("one", "both"):
        queries = task(evidence=evidence).queries
        assert sum(query.answer == "first" for query in queries) == 20
        same = [query.secret["concepts"][0][0] == query.secret["concepts"][1][0] for query in queries]
        assert set(same) == {evidence == "both"}
    mixed = [query.question.startswith("first input: an image") for query in task().queries]
    assert 5 < sum(mixed) < 35
    check_task(task())
