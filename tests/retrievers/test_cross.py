"""Retrievers across modalities, in two stages, and with the gold."""

from collections.abc import Callable
from typing import Any

import pytest

from icl.errors import ConfigError, PlanError
from icl.registry import build
from icl.tasks.base import Pool
from icl.types import Example
from retrievers.base import Resources

Make = Callable[..., Any]
X, Y, Z = (1, 0, 0), (0, 1, 0), (0, 0, 1)


def _numbers(at: Any) -> str:
    return " ".join(map(str, at))


@pytest.fixture
def pool(example: Make, pointing: Make) -> Pool:
    """Image, question and answer of each member point in different directions."""
    places = {"xyz": (X, Y, Z), "yzx": (Y, Z, X), "zxy": (Z, X, Y)}
    return Pool(
        tuple(
            example(n, pointing(p, i), _numbers(a), question=_numbers(q))
            for i, (n, (p, q, a)) in enumerate(places.items())
        )
    )


@pytest.mark.parametrize(
    "case",
    [
        ({"name": "knn"}, "xyz"),
        ({"name": "knn", "by": "question"}, "xyz"),
        ({"name": "i2t"}, "yzx"),  # its answer has the direction of the query's image
        ({"name": "i2t", "text": "question"}, "zxy"),
        ({"name": "t2i"}, "yzx"),
    ],
    ids=str,
)
def test_what_is_compared_with_what(case: Any, pool: Pool, example: Make, pointing: Make, number_embedder: Any) -> None:
    node, first = case
    query = example("q", pointing(X, 50), question=_numbers(Y))
    (demos,) = (
        build("retriever", {**node, "embedder": number_embedder}).fit(pool, Resources()).retrieve([query.query], 1)
    )
    assert demos[0].id == first
    assert demos[0].score == pytest.approx(1, abs=0.01)


def test_the_oracle_needs_and_uses_the_gold_answer(pool: Pool, example: Make, number_embedder: Any) -> None:
    oracle = build("retriever", {"name": "oracle", "embedder": number_embedder})
    assert "gold" in oracle.needs
    query_example = example("q", None, _numbers(Y), question=_numbers(X))
    fitted = oracle.fit(pool, Resources())
    assert fitted.retrieve([query_example], 1)[0][0].id == "zxy"
    with pytest.raises(PlanError, match="needs the gold answers, but the queries have none"):
        fitted.retrieve([query_example.query], 1)


@pytest.fixture
def staged(example: Make, pointing: Make) -> Pool:
    """By image: a, b, c, d. By question: d, c, b, a."""
    angles = {"a": (1.0, 0.0, 0.0), "b": (0.9, 0.3, 0.0), "c": (0.8, 0.5, 0.0), "d": (0.2, 0.9, 0.0)}
    return Pool(
        tuple(
            example(name, pointing(at, i), question=f"1 {0.2 * (3 - i)} 0")
            for i, (name, at) in enumerate(angles.items())
        )
    )


@pytest.mark.parametrize(
    "case",
    [("image", 4, "dc"), ("image", 3, "cb"), ("image", 2, "ba"), ("question", 3, "bc"), ("question", 4, "ab")],
)
def test_the_first_stage_keeps_and_the_second_ranks(
    case: tuple[str, int, str], staged: Pool, example: Make, pointing: Make, number_embedder: Any
) -> None:
    first, candidates, ids = case
    node = {"name": "mmices", "first": first, "candidates": candidates, "embedder": number_embedder}
    query = example("q", pointing(X, 50), question="1 0 0")
    (demos,) = build("retriever", node).fit(staged, Resources()).retrieve([query.query], 2)
    assert "".join(one.id for one in demos) == ids


def test_the_number_of_candidates_has_no_default(
    staged: Pool, example: Make, pointing: Make, number_embedder: Any
) -> None:
    with pytest.raises(ConfigError, match=r"candidates: .*required"):
        build("retriever", "mmices")
    assert build("retriever", {"name": "mmices", "preset": "mmices"}).candidates == 200
    assert build("retriever", {"name": "mmices", "preset": "si_q"}).candidates == 32
    two = build("retriever", {"name": "mmices", "candidates": 2, "embedder": number_embedder})
    query = example("q", pointing(X, 50), question="1 0 0")
    with pytest.raises(PlanError, match="keeps 2 candidates, but 3 shots are requested"):
        two.fit(staged, Resources()).retrieve([query.query], 3)


@pytest.mark.parametrize("name", ["i2t", "t2i", "ra_cm3", "mmices"])
def test_an_encoder_of_one_modality_is_an_error(name: str) -> None:
    more = {"candidates": 9} if name == "mmices" else {}
    with pytest.raises(ConfigError, match=r"Histogram.* reads images only"):
        build("retriever", {"name": name, "embedder": "histogram", **more})


def test_stages_are_exact_against_a_plain_sort(clip: Any, noise: Make, example: Make) -> None:
    import numpy as np

    from retrievers.machinery.encoder import Encoder

    words = ["which", "what", "color", "red", "green", "blue", "shape", "count"]
    texts = [f"{a} {b} ?" for a in words for b in words]
    items = [example(f"e{i}", noise(i), question=text) for i, text in enumerate(texts)]
    pool, query = Pool(tuple(items[1:])), items[0]
    encoder = Encoder(str(clip))
    images, questions = encoder.embed_images(items), encoder.embed_texts(texts)
    candidates = np.argsort(-(images[1:] @ images[0]))[:20]
    expected = candidates[np.argsort(-(questions[1:] @ questions[0])[candidates])][:5]
    node = {"name": "mmices", "candidates": 20, "embedder": {"name": "encoder", "path": str(clip)}}
    (demos,) = build("retriever", node).fit(pool, Resources()).retrieve([query.query], 5)
    assert [one.id for one in demos] == [f"e{i + 1}" for i in expected]


def test_i2t_reads_no_gold_of_the_query(pool: Pool, pointing: Make, number_embedder: Any) -> None:
    """The query's own answer changes nothing."""
    fitted = build("retriever", {"name": "i2t", "embedder": number_embedder}).fit(pool, Resources())
    queries = [Example("q", (pointing(X, 50),), _numbers(Y), (answer,)).query for answer in (_numbers(X), _numbers(Z))]
    assert fitted.retrieve(queries[:1], 3) == fitted.retrieve(queries[1:], 3)
