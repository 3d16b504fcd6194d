"""The conformance check on all registered rerankers, and on broken ones."""

from typing import Any, ClassVar

import pytest

from icl.registry import build, entries
from icl.types import RetrievedExample
from retrievers.base import Resources
from retrievers.machinery.conformance import check_reranker

NAMES = list(entries("reranker"))
REQUIRED: dict[str, dict[str, Any]] = {
    "diversity": {"balance": 0.5, "embedder": "histogram"},
    "near_duplicate_cap": {"embedder": "histogram"},
}


@pytest.mark.parametrize("name", NAMES)
def test_reranker_conformance(name: str, clip: Any, cache: Any, describer: Any) -> None:
    node = {"name": name, **REQUIRED.get(name, {})}
    if name == "caption":
        node["embedder"] = {"name": "encoder", "path": str(clip)}
    check_reranker(build("reranker", node), resources=Resources(cache=str(cache), model=describer()))


class _Broken:
    needs: ClassVar[frozenset[str]] = frozenset()

    def fit(self, pool: Any, resources: Any) -> "_Broken":
        return self

    def rerank(self, queries: Any, candidates: Any, k: int) -> list[tuple[RetrievedExample, ...]]:
        return [self.one(i, own, k) for i, own in enumerate(candidates)]

    def one(self, place: int, own: Any, k: int) -> tuple[RetrievedExample, ...]:
        return tuple(own[:k])


class _Invents(_Broken):
    def one(self, place: int, own: Any, k: int) -> tuple[RetrievedExample, ...]:
        return (*own[: max(k - 1, 0)], RetrievedExample("elsewhere"))[:k]


class _Loses(_Broken):
    def one(self, place: int, own: Any, k: int) -> tuple[RetrievedExample, ...]:
        return tuple(own[: k // 2])


class _OfTheBatch(_Broken):
    def one(self, place: int, own: Any, k: int) -> tuple[RetrievedExample, ...]:
        return tuple(own[place:][:k])


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (_Invents, "is not one of the candidates"),
        (_Loses, "0 candidates kept"),
        (_OfTheBatch, "another order|at a time"),
    ],
)
def test_a_broken_promise_is_reported(broken: Any, says: str) -> None:
    check_reranker(_Broken())
    with pytest.raises(AssertionError, match=says):
        check_reranker(broken())
