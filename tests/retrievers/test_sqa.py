"""Questions with answers, where the right neighbor is known. `NumberEmbedder` reads a text as the numbers in it."""

from collections.abc import Callable
from typing import Any

import pytest

from icl.errors import PlanError
from icl.registry import build
from icl.tasks.base import Pool
from retrievers.base import Resources
from retrievers.machinery.conformance import check_retriever

Make = Callable[..., Any]


@pytest.fixture
def pool(example: Make, pointing: Make) -> Pool:
    """A question is two numbers, its answer the third: (1, 0 | 1), (1, 0 | -1), (0, 1 | 1)."""
    texts = [("1 0", "1"), ("1 0", "-1"), ("0 1", "1")]
    vectors = [(0, 0, 1), (0, 1, 0), (1, 0, 0)]
    return Pool(
        tuple(
            example(f"e{i}", pointing(at, i), answer, question=question)
            for i, ((question, answer), at) in enumerate(zip(texts, vectors, strict=True))
        )
    )


def _ids(node: dict[str, Any], pool: Pool, query: Any, number_embedder: Any, model: Any = None) -> list[str]:
    retriever = build("retriever", {"name": "sqa", "embedder": number_embedder, **node})
    source_query = query if "gold" in retriever.needs else query.query
    return [one.id for one in retriever.fit(pool, Resources(model=model)).retrieve([source_query], 3)[0]]


def test_the_model_s_answer_and_the_gold_have_other_neighbors(
    pool: Pool, example: Make, pointing: Make, number_embedder: Any, describer: Any
) -> None:
    query = example("q", pointing((1, 1, 1), 9), "-1", question="1 0")
    model = describer("guess", "1")
    assert _ids({}, pool, query, number_embedder, model)[0] == "e0"
    assert _ids({"preset": "oracle_sqa"}, pool, query, number_embedder)[0] == "e1"
    count = len(model.prompt_digests)
    _ids({}, pool, query, number_embedder, model)
    assert len(model.prompt_digests) == count  # the first guess is cached


def test_the_image_weighs_in(pool: Pool, example: Make, pointing: Make, number_embedder: Any, describer: Any) -> None:
    """By text e0 (cosine 1) before e2 (.5); e2 has the query's image, and the image of e0 is orthogonal to it."""
    query = example("q", pointing((1, 0, 0), 9), question="1 0")
    model = describer("looks", "1")
    assert _ids({}, pool, query, number_embedder, model) == ["e0", "e2", "e1"]
    assert _ids({"preset": "iqpr"}, pool, query, number_embedder, model)[0] == "e2"


def test_retriever_conformance(clip: Any, cache: Any, describer: Any) -> None:
    embedder = {"name": "encoder", "path": str(clip)}
    for preset in ("sqa", "oracle_sqa", "iqpr"):
        retriever = build("retriever", {"name": "sqa", "preset": preset, "embedder": embedder})
        check_retriever(retriever, resources=Resources(cache=str(cache), model=describer("kept")))


def test_a_missing_model_is_an_error(pool: Pool, number_embedder: Any) -> None:
    with pytest.raises(PlanError, match="needs a model for a first answer"):
        build("retriever", {"name": "sqa", "embedder": number_embedder}).fit(pool, Resources())
