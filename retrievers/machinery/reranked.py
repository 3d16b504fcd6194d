"""A retriever that passes its candidates through rerankers.

    {name: reranked, of: knn, candidates: 50, rerankers: [near_duplicate_cap, label_balance]}

The retriever returns `candidates` members: at least as many as there are shots, and all if the pool has fewer. All
rerankers but the last pass on every candidate that they keep; the last one returns the shots. In an experiment file,
the keys `rerankers` and `rerank_candidates` wrap any retriever. There, fewer candidates than shots, or more than the
pool has, are an error. A reranker may depend on the number of shots, so the sets are not nested.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from icl import ConfigError, NestedComponent, PlanError, Pool, PositiveInt, Query, RetrievedExample, component
from retrievers.base import (
    EXCLUDE_LEAKS,
    FittedReranker,
    FittedRetriever,
    LeakPolicy,
    Reranker,
    Resources,
    RetrievedDemos,
    Retriever,
    RetrieverWrapper,
    declared,
)


@component("retriever", "reranked")
@dataclass(frozen=True, kw_only=True)
class Reranked(RetrieverWrapper):
    """Another retriever, with its candidates passed through rerankers."""

    ranked: ClassVar[bool] = False

    nested: ClassVar[bool] = False

    of: Annotated[Retriever, NestedComponent("retriever")]  # returns the candidates
    rerankers: tuple[Annotated[Reranker, NestedComponent("reranker")], ...]  # applied one after the other
    candidates: PositiveInt = 50  # how many the retriever returns; all if the pool has fewer

    def __post_init__(self) -> None:
        if not self.rerankers:
            raise ConfigError("rerankers is empty. Add a reranker, or use the retriever alone.")

    @property
    def needs(self) -> frozenset[str]:
        return self.of.needs.union(*(reranker.needs for reranker in self.rerankers))

    @property
    def model_ability(self) -> str:
        parts: tuple[Retriever | Reranker, ...] = (self.of, *self.rerankers)
        model_users = [part for part in parts if "model" in part.needs]
        return "generate" if all(declared(part, "model_ability") == "generate" for part in model_users) else "logits"

    @property
    def returns_k(self) -> bool:
        return super().returns_k and all(declared(reranker, "returns_k") for reranker in self.rerankers)

    def fit(self, pool: Pool, resources: Resources) -> "FittedReranked":
        rerankers = tuple(reranker.fit(pool, resources) for reranker in self.rerankers)
        return FittedReranked(self.fit_inner(pool, resources), rerankers, min(self.candidates, len(pool)))


@dataclass(frozen=True)
class FittedReranked:
    """The retriever and the rerankers, fitted on one pool."""

    of: FittedRetriever
    rerankers: tuple[FittedReranker, ...]
    candidates: int

    def retrieve(self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS) -> RetrievedDemos:
        if not queries or k == 0:
            return [() for _ in queries]
        candidates: Sequence[tuple[RetrievedExample, ...]] = self._candidates(queries, k, policy)
        for reranker in self.rerankers[:-1]:
            candidates = reranker.rerank(queries, candidates, max(map(len, candidates)))
        return [demos[:k] for demos in self.rerankers[-1].rerank(queries, candidates, k)]

    def _candidates(self, queries: Sequence[Query], k: int, policy: LeakPolicy) -> RetrievedDemos:
        """The candidates of all queries in one call; one call per query if a query has fewer candidates.

        The candidates of a query then do not depend on the other queries.
        """
        count = max(self.candidates, k)
        try:
            return self.of.retrieve(queries, count, policy)
        except PlanError:
            return [self._all_candidates(query, k, count, policy) for query in queries]

    def _all_candidates(self, query: Query, k: int, count: int, policy: LeakPolicy) -> tuple[RetrievedExample, ...]:
        """The largest set between k and `count` candidates that the retriever returns without an error."""
        candidates: tuple[RetrievedExample, ...] = self.of.retrieve([query], k, policy)[0]
        low, high = k, count + 1
        while high - low > 1:
            middle = (low + high) // 2
            try:
                (candidates,) = self.of.retrieve([query], middle, policy)
                low = middle
            except PlanError:
                high = middle
        return candidates
