"""Parts against parts, and candidate sets, next to direct computations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from icl.errors import ConfigError, DataError, PlanError
from icl.registry import build
from icl.tasks.base import Pool
from icl.types import Example, Query, RetrievedExample
from retrievers.base import Resources
from retrievers.machinery import multi_vector
from retrievers.machinery.greedy_selection import PartMatches
from retrievers.machinery.multi_vector import MultiVectorRetriever, PoolParts, _by_item
from retrievers.machinery.similarity import CandidateSetRetriever, Neighbors

Make = Callable[..., Any]


@dataclass(frozen=True)
class Nearest(MultiVectorRetriever):
    """Members by the weighted mean of the matches of all parts."""

    def select(self, matches: PartMatches, k: int) -> list[int]:
        order: list[int] = np.argsort(-matches.scores(), kind="stable")[:k].tolist()
        return order


def unit(count: int, parts: int, dim: int = 5, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, parts, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=2, keepdims=True)


@pytest.mark.parametrize("count", [1, 63, 64, 65, 130])
def test_a_match_is_the_largest_cosine_with_any_part_of_a_member(count: int) -> None:
    members = unit(7, 3)
    members[2, 1:] = 0  # padding
    members[4] = 0  # no part at all
    queries = unit(count, 1, seed=1)[:, 0]
    matches = PoolParts.of(members).matches(queries)
    direct = np.einsum("td,npd->tnp", queries, members).max(axis=2)
    direct[:, 2] = queries @ members[2, 0]
    direct[:, 4] = -1
    assert matches.shape == (count, 7)
    assert np.allclose(matches, direct, atol=1e-6)
    alone = PoolParts.of(members).matches(queries[:1])
    assert np.array_equal(alone[0], matches[0]), "other parts change no rounding"


def test_patches_of_several_images_are_one_items_and_are_padded() -> None:
    items: Any = [replace(Example(str(i), (), "", ()), images=(None,) * count) for i, count in enumerate((2, 0, 1))]
    patches = unit(3, 2)
    rows = _by_item(items, patches)
    assert rows.shape == (3, 4, 5)
    assert np.array_equal(rows[0], patches[:2].reshape(4, 5))
    assert not rows[1].any()
    assert np.array_equal(rows[2, :2], patches[2])
    assert not rows[2, 2:].any()
    single: Any = [replace(one, images=(None,)) for one in items]
    assert _by_item(single, patches) is patches


WORDS = {"one": "1 0 0", "two": "0 1 0, 0 0 1", "three": "1 0 0, 0 1 0, 0 0 1"}


def pool_of(example: Make) -> Pool:
    return Pool(tuple(example(name, None, question=text) for name, text in WORDS.items()))


def test_members_are_scored_by_the_mean_match_of_the_querys_words(example: Make, number_embedder: Any) -> None:
    fitted = Nearest(by="question", embedder=number_embedder).fit(pool_of(example), Resources())
    query = example("q", None, question="1 0 0, 0 1 0").query
    (demos,) = fitted.retrieve([query], 3)
    assert [(one.id, one.score) for one in demos] == [("three", 1.0), ("one", 0.5), ("two", 0.5)]
    assert list(fitted.retrieve([query, query], 0)) == [(), ()]
    assert [one.id for one in fitted.retrieve([query], 1)[0]] == ["three"]
    (matches,) = fitted.matches([query])
    assert matches.weights.tolist() == [0.5, 0.5]


def test_queries_are_matched_in_batches_as_each_alone(
    example: Make, number_embedder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multi_vector, "BATCH_QUERIES", 2)
    fitted = Nearest(by="question", embedder=number_embedder).fit(pool_of(example), Resources())
    queries = [
        example(f"q{i}", None, question=text).query for i, text in enumerate([*WORDS.values(), "0 1 0", "1 1 0"])
    ]
    together = fitted.retrieve(queries, 2)
    assert list(together) == [fitted.retrieve([query], 2)[0] for query in queries]
    assert [demos[0].id for demos in together] == ["one", "two", "three", "two", "one"]


def test_a_pool_that_is_too_small_and_a_question_without_words_are_errors(example: Make, number_embedder: Any) -> None:
    fitted = Nearest(by="question", embedder=number_embedder).fit(pool_of(example), Resources())
    with pytest.raises(PlanError):
        fitted.retrieve([example("q", None, question="1 0 0").query], 4)
    with pytest.raises(PlanError):  # the query is a member and is excluded
        fitted.retrieve([example("one", None, question="1 0 0").query], 3)
    with pytest.raises(DataError, match="query 'q' has no words to compare: its question is ''"):
        fitted.retrieve([example("q", None, question="").query], 1)


def test_an_embedder_without_the_parts_is_refused(number_embedder: Any) -> None:
    with pytest.raises(ConfigError, match=r"by is 'image', and its embedder .* gives no vectors of patches"):
        Nearest(embedder=number_embedder)
    with pytest.raises(ConfigError, match=r"by is 'both', and its embedder .* gives no vectors of patches"):
        Nearest(by="both", embedder=number_embedder)
    with pytest.raises(ConfigError, match=r"by is 'question', and its embedder .* gives no vectors of words"):
        Nearest(by="question", embedder=build("embedder", "pixels"))


def test_modalities_share_the_weight(number_embedder: Any) -> None:
    assert Nearest(by="question", embedder=number_embedder).modality_weights() == (1.0,)
    assert Nearest(by="both", weight=0.25).modality_weights() == (0.25, 0.75)


def test_the_parts_of_a_pool_are_embedded_once(example: Make, number_embedder: Any) -> None:
    pool = pool_of(example)
    first = Nearest(by="question", embedder=number_embedder).fit(pool, Resources())
    assert Nearest(by="question", embedder=number_embedder).fit(pool, Resources()).parts is first.parts


@dataclass(frozen=True, kw_only=True)
class Reverse(CandidateSetRetriever):
    """The candidates from the last to the first, at most `limit` of them."""

    limit: int = 100

    def choose_set(self, neighbors: Neighbors, k: int) -> Sequence[RetrievedExample]:
        assert len(neighbors.scores) == len(neighbors) <= self.candidates
        assert k <= len(neighbors)
        return neighbors.retrieved(range(len(neighbors))[::-1][: min(k, self.limit)])


def test_a_set_is_chosen_from_the_candidates_and_filled_up_by_the_next_nearest(
    example: Make, number_embedder: Any, turned: Make
) -> None:
    pool = Pool(tuple(example(name, None, question=turned(10 * i)) for i, name in enumerate("abcde")))
    query = example("q", None, question=turned(0)).query
    for candidates, k, ids in ((3, 2, "cb"), (3, 3, "cba"), (3, 5, "cbade"), (1, 3, "abc"), (100, 2, "ed")):
        retriever = Reverse(by="question", embedder=number_embedder, candidates=candidates)
        (demos,) = retriever.fit(pool, Resources()).retrieve([query], k)
        assert "".join(one.id for one in demos) == ids
        assert retriever.num_candidates(k) == max(k, candidates)


def test_a_set_that_may_be_smaller_is_not_filled_up(example: Make, number_embedder: Any, turned: Make) -> None:
    class Fewer(Reverse):
        returns_k = False

    pool = Pool(tuple(example(name, None, question=turned(10 * i)) for i, name in enumerate("abcde")))
    query: Query = example("q", None, question=turned(0)).query
    fitted = Fewer(by="question", embedder=number_embedder, limit=1, candidates=3).fit(pool, Resources())
    assert [one.id for one in fitted.retrieve([query], 4)[0]] == ["c"]
