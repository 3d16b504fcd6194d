"""Rerankers where the right answer is known."""

from collections.abc import Callable
from typing import Any

import pytest

from icl.errors import ConfigError, DataError, PlanError
from icl.registry import build
from icl.tasks.base import Pool
from icl.types import RetrievedExample
from retrievers.base import Resources

Make = Callable[..., Any]


def _rerank(node: Any, pool: Pool, k: int, resources: Resources | None = None, query: Any = None) -> list[str]:
    candidates = tuple(RetrievedExample(e.id, 1 - i / 10) for i, e in enumerate(pool.examples))
    fitted = build("reranker", node).fit(pool, resources or Resources())
    return [one.id for one in fitted.rerank([query or pool.examples[0].query], [candidates], k)[0]]


@pytest.fixture
def skewed(example: Make) -> Pool:
    return Pool(tuple(example(f"{label}{i}", None, label=label) for i, label in enumerate("aaaabbc")))


@pytest.mark.parametrize(
    ("k", "ids"),
    [
        (3, ["a0", "b4", "c6"]),  # one each
        (4, ["a0", "a1", "b4", "b5"]),  # ceil(4 / 3) = 2 each, in rank order
        (6, ["a0", "a1", "b4", "b5", "c6", "a2"]),  # two each leave five; the best of the others follows
        (1, ["a0"]),
    ],
)
def test_label_balance_caps_a_label_and_refills_by_rank(k: int, ids: list[str], skewed: Pool) -> None:
    assert _rerank("label_balance", skewed, k) == ids


def test_the_share_is_of_the_task_s_labels_where_the_options_name_them(skewed: Pool, example: Make) -> None:
    """Four labels, of which the pool lacks one: ceil(4 / 4) each, and the best of the others follows."""
    query = example("q", None, options=("a", "b", "c", "d")).query
    assert _rerank("label_balance", skewed, 4, query=query) == ["a0", "b4", "c6", "a1"]
    other = example("q", None, options=("yes", "no", "a", "b")).query  # no names of the pool's labels
    assert _rerank("label_balance", skewed, 4, query=other) == ["a0", "a1", "b4", "b5"]


def test_the_cap_drops_repetitions_and_never_refills(example: Make, turned: Make, number_embedder: Any) -> None:
    angles = [0, 5, 6, 40, 42, 90]
    pool = Pool(tuple(example(f"at-{a}", None, question=turned(a)) for a in angles))
    node = {"name": "near_duplicate_cap", "threshold": 0.99, "by": "question", "embedder": number_embedder}
    assert _rerank(node, pool, 6) == ["at-0", "at-40", "at-90"]
    assert _rerank(node, pool, 2) == ["at-0", "at-40"]


def test_diversity_reaches_into_the_other_cluster(example: Make, turned: Make, number_embedder: Any) -> None:
    pool = Pool(tuple(example(f"at-{a}", None, question=turned(a)) for a in (0, 1, 2, 80)))
    node = {"name": "diversity", "by": "question", "embedder": number_embedder}
    assert _rerank({**node, "balance": 1}, pool, 2) == ["at-0", "at-1"]
    assert _rerank({**node, "balance": 0.5}, pool, 2) == ["at-0", "at-80"]


def test_reranked_asks_for_candidates_and_gives_the_shots(color: Make, example: Make) -> None:
    pool = Pool(
        tuple(
            example(f"{n}-{i}", color(n, i), n, label=n, question="which color")
            for n in ("red", "blue")
            for i in range(6)
        )
    )
    query = example("q", color("red", 50), question="which color")
    knn = {"name": "knn", "embedder": "histogram"}

    def ids(candidates: int, k: int) -> list[str]:
        node = {"name": "reranked", "of": knn, "rerankers": ["label_balance"], "candidates": candidates}
        return [o.id for o in build("retriever", node).fit(pool, Resources()).retrieve([query.query], k)[0]]

    assert ids(6, 4) == ["red-0", "red-1", "red-2", "red-3"]  # only reds are candidates
    assert ids(50, 4) == ["red-0", "red-1", "blue-0", "blue-1"]  # more than there are: all are
    assert len(ids(50, 12)) == 12


def test_a_chain_passes_on_all_remaining_candidates(example: Make, turned: Make, number_embedder: Any) -> None:
    """The cap is first: three candidates are left, and the balance takes one of each label."""
    places = {"a0": 0, "a1": 1, "a2": 50, "b3": 51, "b4": 90}
    pool = Pool(tuple(example(n, None, label=n[0], question=turned(at)) for n, at in places.items()))
    settings = {"by": "question", "embedder": number_embedder}
    cap = {"name": "near_duplicate_cap", "threshold": 0.99, **settings}
    node = {"name": "reranked", "of": {"name": "knn", **settings}, "rerankers": [cap, "label_balance"]}
    retriever = build("retriever", node)
    (demos,) = retriever.fit(pool, Resources()).retrieve([example("q", None, question=turned(0)).query], 2)
    assert [one.id for one in demos] == ["a0", "b4"]
    assert (retriever.returns_k, retriever.nested, retriever.needs) == (False, False, {"embedder", "labels"})


def test_an_empty_chain_is_refused() -> None:
    with pytest.raises(ConfigError, match="rerankers is empty"):
        build("retriever", {"name": "reranked", "of": "random", "rerankers": []})


def test_candidates_follow_the_model_s_description(
    example: Make, describer: Any, number_embedder: Any, pointing: Make
) -> None:
    pool = Pool(tuple(example(f"e{i}", pointing(at, i)) for i, at in enumerate([(1, 0, 0), (0, 1, 0), (0, 0, 1)])))
    node = {"name": "caption", "embedder": number_embedder}
    query = example("q", pointing((1, 1, 1), 9)).query
    model = describer("speaks", "0 0 1")
    model.prompt_digests.clear()
    for _ in range(2):
        assert _rerank(node, pool, 2, Resources(model=model), query)[0] == "e2"
    assert len(model.prompt_digests) == 1
    with pytest.raises(PlanError, match="needs a model that describes"):
        _rerank(node, pool, 2, Resources(), query)


@pytest.mark.parametrize("name", ["near_duplicate_cap", "diversity", "caption"])
def test_a_query_without_candidates_has_no_demonstrations_and_embeds_none(
    name: str, example: Make, number_embedder: Any, describer: Any, pointing: Make
) -> None:
    pool = Pool((example("e", pointing((1, 0, 0)), question="1 0 0"),))
    node = {"name": name, "embedder": number_embedder, **({"balance": 0.5} if name == "diversity" else {})}
    fitted = build("reranker", node).fit(pool, Resources(model=describer("silent", "1 0 0")))
    query, one = example("q", pointing((0, 1, 0), 5)).query, RetrievedExample("e", 0.5)
    nothing, demos = fitted.rerank([query, query], [(), (one,)], 3)
    assert (nothing, [demo.id for demo in demos]) == ((), ["e"])
    assert list(fitted.rerank([], [], 3)) == []


def test_candidates_by_caption_have_the_cosine_as_score_and_keep_their_mark(
    example: Make, describer: Any, number_embedder: Any, pointing: Make
) -> None:
    """The description is a sum of two axes: their images have a cosine of 1/sqrt(2), and the first comes first."""
    places = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    pool = Pool(tuple(example(f"e{i}", pointing(at, i)) for i, at in enumerate(places)))
    model = describer("sum", "0 1 1")
    fitted = build("reranker", {"name": "caption", "embedder": number_embedder}).fit(pool, Resources(model=model))
    candidates = [RetrievedExample(f"e{i}", 0.1 * i, f"mark {i}") for i in range(3)]
    (demos,) = fitted.rerank([example("q", pointing((1, 1, 1), 9)).query], [candidates], 3)
    assert [(demo.id, demo.mark) for demo in demos] == [("e1", "mark 1"), ("e2", "mark 2"), ("e0", "mark 0")]
    assert [demo.score for demo in demos] == pytest.approx([0.5**0.5, 0.5**0.5, 0.0], abs=0.01)
    assert [demo.score for demo in demos] == [round(demo.score, 6) for demo in demos]  # noise of a float makes no rank
    (demos,) = fitted.rerank([example("q", pointing((1, 1, 1), 9)).query], [candidates], 1)
    assert [demo.id for demo in demos] == ["e1"]


def test_a_caption_needs_an_image_and_an_embedder_of_both(example: Make, describer: Any, number_embedder: Any) -> None:
    with pytest.raises(ConfigError, match=r"reads texts and images; .* does not read both"):
        build("reranker", {"name": "caption", "embedder": "pixels"})
    fitted = build("reranker", {"name": "caption", "embedder": number_embedder}).fit(
        Pool((example("e", None),)), Resources(model=describer())
    )
    with pytest.raises(DataError, match="'q' has no image to describe"):
        fitted.rerank([example("q", None).query], [()], 1)


def test_no_label_of_one_is_over_its_share(example: Make) -> None:
    pool = Pool(tuple(example(f"a{i}", None, label="a") for i in range(3)))
    assert _rerank("label_balance", pool, 2) == ["a0", "a1"]
    assert build("reranker", "label_balance").fit(Pool(()), Resources()).rerank([pool.examples[0].query], [()], 2) == [
        ()
    ]


@pytest.mark.parametrize("node", [{"name": "near_duplicate_cap"}, {"name": "diversity", "balance": 0.5}])
def test_vectors_need_an_embedder_of_what_is_compared(node: dict[str, Any]) -> None:
    build("reranker", {**node, "by": "image", "embedder": "pixels"})
    for by in ("question", "both"):
        with pytest.raises(ConfigError, match=f"by is '{by}', and its embedder .* reads images only"):
            build("reranker", {**node, "by": by, "embedder": "pixels"})
