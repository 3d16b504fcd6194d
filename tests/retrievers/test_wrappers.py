"""Retrievers around other retrievers."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from icl.errors import ConfigError, PlanError
from icl.registry import build
from icl.tasks.base import Pool
from icl.types import Query
from retrievers.base import Resources, declared
from retrievers.machinery.conformance import sample_pool, sample_queries
from retrievers.wrappers import FittedQueryDropout

Make = Callable[..., Any]
COLORS = ("red", "lime", "blue")


@pytest.fixture
def pool(color: Make, example: Make) -> Pool:
    """Each color four times in two domains; the label is the color."""
    return Pool(
        tuple(
            example(f"{name}-{domain}-{i}", color(name, 10 * d + i), name, label=name, domain=domain)
            for name in COLORS
            for d, domain in enumerate(("ink", "oil"))
            for i in range(4)
        )
    )


def _ids(node: dict[str, Any], pool: Pool, query: Any, k: int) -> list[str]:
    return [one.id for one in build("retriever", node).fit(pool, Resources()).retrieve([query.query], k)[0]]


KNN = {"name": "knn", "embedder": "histogram"}


@pytest.mark.parametrize(("domain", "expected"), [("same", {"ink"}), ("other", {"oil"}), ("any", {"ink", "oil"})])
def test_filter_by_domain(domain: str, expected: set[str], pool: Pool, color: Make, example: Make) -> None:
    query = example("q", color("red", 90), domain="ink")
    ids = _ids({"name": "filtered", "of": KNN, "domain": domain}, pool, query, 8)
    assert {i.split("-")[1] for i in ids} == expected
    assert ids[0].startswith("red")


def test_filter_by_label_and_its_error_with_counts(pool: Pool, color: Make, example: Make) -> None:
    query = example("q", color("red", 90), domain="ink")
    node = {"name": "filtered", "of": KNN, "labels": ["blue"], "domain": "other"}
    assert _ids(node, pool, query, 4) == [f"blue-oil-{i}" for i in range(4)]
    with pytest.raises(PlanError, match=r"Use at most 4 shots.*\(Filters left 4 of the pool's 24.\)"):
        _ids(node, pool, query, 5)


def test_near_duplicates_of_the_query_are_dropped(pool: Pool, color: Make, example: Make) -> None:
    query = example("q", color("red", 90))
    node = {"name": "filtered", "of": KNN, "max_similarity": 0.9, "embedder": "histogram"}
    assert not any(i.startswith("red") for i in _ids(node, pool, query, 16))
    assert _ids({**node, "max_similarity": 1}, pool, query, 4)[0].startswith("red")


def test_a_quota_is_that_of_the_filtered_pool(pool: Pool, color: Make, example: Make) -> None:
    """A filter after retrieval would remove members of the set; this one keeps it complete and balanced."""
    node = {"name": "filtered", "of": "balanced", "labels": ["red", "blue"]}
    ids = _ids(node, pool, example("q", color("lime", 90)), 6)
    assert sorted(i.split("-")[0] for i in ids) == ["blue"] * 3 + ["red"] * 3


def test_a_pool_without_domains_is_an_error(color: Make, example: Make) -> None:
    pool = Pool((example("e", color("red")),))
    with pytest.raises(ConfigError, match="domain is 'other', and no example of the pool has one"):
        _ids({"name": "filtered", "of": KNN, "domain": "other"}, pool, example("q", color("blue")), 1)


def test_a_filter_keeps_members_with_the_same_question_or_group(color: Make, example: Make) -> None:
    members = [replace(example(f"e{i}", color("red", i)), question=f"q{i % 2}", group=f"g{i // 3}") for i in range(6)]
    pool, query = Pool(tuple(members)), replace(example("q", color("blue")), question="q1", group="g0")
    for same, expected in (("question", {"e1", "e3", "e5"}), ("group", {"e0", "e1", "e2"})):
        node = {"name": "filtered", "of": "random", "same": same}
        assert set(_ids(node, pool, query, 3)) == expected
        with pytest.raises(PlanError, match=r"\(Filters left 3 of the pool's 6.\)"):
            _ids(node, pool, query, 4)
    alone = Pool((example("e", color("red")),))
    with pytest.raises(ConfigError, match="same is 'group', and no example of the pool has one"):
        _ids({"name": "filtered", "of": "random", "same": "group"}, alone, query, 1)


def test_a_wrapper_has_the_needs_and_properties_of_the_retriever_inside() -> None:
    oracle = build("retriever", {"name": "query_dropout", "of": {"name": "filtered", "of": "oracle"}})
    assert oracle.needs == {"embedder", "gold"}
    assert build("retriever", {"name": "filtered", "of": "stratified"}).nested is False
    assert build("retriever", {"name": "filtered", "of": "none"}).returns_k is False


def test_dropout_searches_with_fewer_words_and_is_off_by_default() -> None:
    words = [f"w{i}" for i in range(10)]
    query = Query("q", (), " ".join(words))
    questions: list[str] = []

    class Spy:
        def retrieve(self, queries: Any, k: int, policy: Any) -> Any:
            questions.extend(one.question for one in queries)
            return [() for _ in queries]

    for share, left in ((0.0, 10), (0.2, 8), (0.25, 8), (1.0, 1)):
        FittedQueryDropout(Spy(), share, 0).retrieve([query, query], 1)
        one, two = (question.split() for question in questions[-2:])
        assert one == two
        assert len(one) == left
        assert one == [word for word in words if word in one]  # in order
    assert query.question == " ".join(words)
    FittedQueryDropout(Spy(), 0.5, 0).retrieve([query], 1)
    FittedQueryDropout(Spy(), 0.5, 1).retrieve([query], 1)
    assert questions[-1] != questions[-2]


def test_with_leaks_returns_the_query_and_its_image_with_marks(cache: Any) -> None:
    pool, query = sample_pool(), sample_queries()[0].query
    knn = {"name": "knn", "embedder": "histogram"}
    plain = build("retriever", knn).fit(pool, Resources()).retrieve([query], 8)[0]
    demos = build("retriever", {"name": "with_leaks", "of": knn}).fit(pool, Resources()).retrieve([query], 10)[0]
    marked = {one.id for one in demos if one.mark == f"leak: {one.id} is the query or has its image"}
    assert marked == {query.id, f"copy-{query.id}"}
    assert [one for one in demos if one.id not in marked] == list(plain)
    assert {one.mark for one in build("retriever", knn).fit(pool, Resources()).retrieve([query], 8)[0]} == {""}


def test_only_the_wrapper_allows_leaks(cache: Any) -> None:
    pool, query = sample_pool(), sample_queries()[0].query
    leaking = build("retriever", {"name": "with_leaks", "of": "random"}).fit(pool, Resources())
    with pytest.raises(PlanError, match=f"{len(pool) + 1} demonstrations .* {len(pool)} are left"):
        leaking.retrieve([query], len(pool) + 1)
    left = len(pool) - 3
    assert len(build("retriever", "random").fit(pool, Resources()).retrieve([query], left)[0]) == left
    with pytest.raises(PlanError, match=f"{left} are left"):
        build("retriever", "random").fit(pool, Resources()).retrieve([query], left + 1)


@pytest.mark.parametrize(
    "node",
    [
        {"name": "reranked", "rerankers": ["label_balance"]},
        {"name": "query_dropout"},
        {"name": "filtered"},
        {"name": "with_leaks"},
        {"name": "neighbor_swap", "embedder": "histogram"},
    ],
)
def test_a_wrapper_needs_a_retriever_that_takes_the_policy(node: Any) -> None:
    class OldSignature:
        needs: frozenset[str] = frozenset()

        def fit(self, pool: Pool, resources: Resources) -> Any:
            return self

        def retrieve(self, queries: Any, k: int) -> Any:
            return [() for _ in queries]

    retriever, pool = build("retriever", {**node, "of": "random"}), sample_pool()
    object.__setattr__(retriever, "of", OldSignature())
    with pytest.raises(PlanError, match=r"OldSignature\.retrieve does not take the leak policy\. Define"):
        retriever.fit(pool, Resources()).retrieve([sample_queries()[0].query], 1)


def test_an_optional_attribute_is_read_by_its_name_or_its_default() -> None:
    assert declared(build("retriever", "none"), "returns_k") is False
    assert declared(object(), "returns_k") is True
    with pytest.raises(KeyError):
        declared(object(), "exact")
