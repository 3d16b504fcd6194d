"""Shared parts of retrievers: vectors by modality, candidate sets, wrappers, preflight, and checks of embedders."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from icl.errors import ConfigError, DataError, PlanError
from icl.registry import build
from icl.tasks.base import Pool
from icl.types import Example, Query, RetrievedExample
from retrievers.base import Resources, RetrieverWrapper, mean_per_item, run_preflight
from retrievers.machinery.embeddings import check_modalities
from retrievers.machinery.similarity import embed_by_modality
from retrievers.machinery.trained_heads import load_head, save_head

UNIT = np.eye(3, dtype=np.float32)


class Source:
    """A source whose image vectors are the first axis, and whose text vectors are the second."""

    def embed_images(self, items: Any) -> Any:
        return np.repeat(UNIT[:1], len(items), 0)

    def embed_texts(self, texts: Any) -> Any:
        return np.repeat(UNIT[1:2], len(texts), 0)


def test_both_modalities_are_weighted_by_their_shares_of_the_cosine() -> None:
    source: Any = Source()
    items = [Example("e", (), "?", ())]
    assert np.array_equal(embed_by_modality(items, source, "image"), UNIT[:1])
    assert np.array_equal(embed_by_modality(items, source, "question"), UNIT[1:2])
    (both,) = embed_by_modality(items, source, "both", 0.25)
    assert np.allclose(both[:3], 0.5 * UNIT[0])
    assert np.allclose(both[3:], 0.75**0.5 * UNIT[1])


def test_the_vector_of_several_images_is_their_normalized_mean() -> None:
    item: Any = lambda count: SimpleNamespace(images=(None,) * count)  # noqa: E731
    rows = UNIT[[0, 1, 2, 2, 0]]
    means = mean_per_item([item(2), item(1), item(2)], rows)
    half = 0.5**0.5
    assert np.allclose(means, [[half, half, 0], [0, 0, 1], [half, 0, half]])
    assert mean_per_item([item(1)] * 5, rows) is rows


def test_a_missing_modality_is_named() -> None:
    check_modalities(build("embedder", "pixels"), frozenset({"image"}))
    with pytest.raises(ConfigError, match=r"^by is 'question', and its embedder .* reads images only\. .* reads text"):
        check_modalities(build("embedder", "pixels"), frozenset({"text"}), "by is 'question', and ")
    with pytest.raises(ConfigError, match="reads texts only"):
        check_modalities(build("embedder", "minilm"), frozenset({"image"}))
    with pytest.raises(ConfigError, match=r"max_similarity compares images, and .* reads texts only"):
        build("retriever", {"name": "filtered", "of": "random", "max_similarity": 0.5, "embedder": "minilm"})


@dataclass(frozen=True)
class Inner:
    """A retriever that records calls of `prepare`."""

    calls: list[Any]
    needs = frozenset({"labels"})

    def prepare(self, items: Any, resources: Any) -> None:
        self.calls.append((items, resources))

    def fit(self, pool: Pool, resources: Resources) -> Any:
        return SimpleNamespace(retrieve=lambda queries, k: [])


@dataclass(frozen=True)
class Wrapper(RetrieverWrapper):
    """A wrapper without a change."""

    of: Any


def test_a_wrapper_hands_prepare_on_and_refuses_a_retriever_without_a_policy() -> None:
    calls: list[Any] = []
    wrapper = Wrapper(Inner(calls))
    wrapper.prepare(["item"], Resources(3))  # type: ignore[list-item]  # any object
    assert calls == [(["item"], Resources(3))]
    Wrapper(build("retriever", "random")).prepare([], Resources())
    with pytest.raises(PlanError, match="does not take the leak policy"):
        wrapper.fit_inner(Pool(()), Resources())


def test_a_swap_needs_an_embedder_besides_the_needs_inside() -> None:
    node = {"name": "neighbor_swap", "of": "balanced", "embedder": "pixels"}
    assert build("retriever", node).needs == {"labels", "embedder"}


@dataclass(frozen=True)
class Part:
    """A component that fails its preflight, and may contain others."""

    fails: bool = False
    inside: Any = ()

    def preflight(self) -> None:
        if self.fails:
            raise DataError("a file is missing")


@dataclass(frozen=True)
class Tasklike(Part):
    """A part with queries, which has checks of its own."""

    queries: tuple[Any, ...] = ()


def test_a_preflight_reaches_all_components_inside_but_no_task() -> None:
    run_preflight(Part(inside=(Part(), Part(inside=Part()))))
    run_preflight(Part(inside=(Tasklike(fails=True), 5, "text", [Part(fails=True)])))
    for inside in (Part(fails=True), (Part(), Part(fails=True)), Part(inside=((Part(fails=True),),))):
        with pytest.raises(DataError, match="a file is missing"):
            run_preflight(Part(inside=inside))


def test_a_saved_head_has_a_checksum_of_all_its_content(tmp_path: Any) -> None:
    path, tensors = tmp_path / "h", {"a": UNIT, "b": np.ones(2, np.float32)}
    save_head(path, tensors, {"embedder": "e"})
    read, metadata = load_head(path, "a head")
    assert metadata == {"embedder": "e"}
    assert {name: value.tolist() for name, value in read.items()} == {k: v.tolist() for k, v in tensors.items()}
    content = path.read_bytes()
    for position in range(len(content) - 44, len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises(DataError, match="does not match its checksum"):
            load_head(path, "a head")


def test_dropout_leaves_a_short_question_as_it_is() -> None:
    node = {"name": "query_dropout", "of": "random", "share": 0.5}
    fitted = build("retriever", node).fit(Pool(()), Resources())
    for question, words in (("", 0), ("one", 1), ("one  two", 1), ("a b c d", 2)):
        left = fitted._drop_words(Query("q", (), question))
        assert len(left.split()) == words
    assert fitted._drop_words(Query("q", (), "one")) == "one"
    assert replace(fitted, share=0.0)._drop_words(Query("q", (), "one  two")) == "one  two"


class Limited:
    """A fitted retriever that returns at most `limit` demonstrations for each query."""

    def __init__(self, limit: int) -> None:
        self.limit, self.sizes = limit, list[int]()

    def retrieve(self, queries: Any, k: int, policy: Any = None) -> Any:
        self.sizes.append(k)
        if k > self.limit:
            raise PlanError("too few")
        return [tuple(RetrievedExample(f"e{i}") for i in range(k)) for _ in queries]


@pytest.mark.parametrize("limit", [2, 3, 7, 19, 20, 25])
def test_a_reranker_gets_all_candidates_that_there_are(limit: int) -> None:
    from retrievers.machinery.reranked import FittedReranked

    inner = Limited(limit)
    reranked: Any = FittedReranked.__new__(FittedReranked)
    for name, value in (("of", inner), ("candidates", 20)):
        object.__setattr__(reranked, name, value)
    (candidates,) = reranked._candidates([Query("q", (), "?")], 2, None)
    assert len(candidates) == min(limit, 20)
    assert len(inner.sizes) <= 8


def test_ra_cm3_searches_more_candidates_than_shots() -> None:
    assert build("retriever", "ra_cm3").num_candidates(3) == 16 * 3 + 64
