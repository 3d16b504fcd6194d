"""A retriever and the rerankers that look at its candidates again.

    {name: reranked, of: knn, candidates: 50, rerank: [near_duplicate_cap, label_balance]}

The retriever is asked for `candidates` (all that it has, where it has fewer; never fewer than the shots). Each reranker
but the last passes on all that it keeps, the last gives the shots. In an experiment file the keys `rerank` and
`candidates` put this around any retriever; there, fewer candidates than shots or more than the pool has are an error. A
reranker whose choice depends on the number of shots makes the sets of different numbers unlike, so nothing is promised
to be nested.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from icl.constraints import PositiveInt
from icl.errors import ConfigError, PlanError
from icl.registry import NestedComponent, component
from icl.tasks.base import Pool
from icl.types import Query, RetrievedExample
from retrievers.base import FittedReranker, FittedRetriever, Reranker, Resources, Retriever
from retrievers.leak_policy import EXCLUDE_LEAKS, LeakPolicy
from retrievers.machinery.retriever_wrapper import RetrieverWrapper, model_ability_of


@component("retriever", "reranked")
@dataclass(frozen=True, kw_only=True)
class Reranked(RetrieverWrapper):
    """Another retriever's candidates, chosen among by rerankers."""

    of: Annotated[Retriever, NestedComponent("retriever")]  # whose candidates
    rerank: tuple[Annotated[Reranker, NestedComponent("reranker")], ...]  # applied one after the other
    candidates: PositiveInt = 50  # how many the retriever is asked for; all, where it has fewer

    def __post_init__(self) -> None:
        if not self.rerank:
            raise ConfigError("rerank is empty. Name a reranker, or use the retriever by itself.")

    @property
    def needs(self) -> frozenset[str]:
        return self.of.needs.union(*(reranker.needs for reranker in self.rerank))

    @property
    def asks(self) -> str:
        parts: tuple[Retriever | Reranker, ...] = (self.of, *self.rerank)
        asking = [one for one in parts if "model" in one.needs]
        return "generate" if all(model_ability_of(one) == "generate" for one in asking) else "logits"

    @property
    def nested(self) -> bool:
        return False

    @property
    def ranked(self) -> bool:
        return False

    @property
    def exact(self) -> bool:
        return super().exact and all(getattr(reranker, "exact", True) for reranker in self.rerank)

    def fit(self, pool: Pool, resources: Resources) -> "FittedReranked":
        rerankers = tuple(reranker.fit(pool, resources) for reranker in self.rerank)
        return FittedReranked(self.of.fit(pool, resources), rerankers, min(self.candidates, len(pool)))


@dataclass(frozen=True)
class FittedReranked:
    """All of them fitted on one pool."""

    of: FittedRetriever
    rerankers: tuple[FittedReranker, ...]
    candidates: int

    def retrieve(
        self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS
    ) -> list[tuple[RetrievedExample, ...]]:
        if not queries or k == 0:
            return [() for _ in queries]
        found: Sequence[tuple[RetrievedExample, ...]] = self._found(queries, k, policy)
        for reranker in self.rerankers[:-1]:
            found = reranker.rerank(queries, found, max(map(len, found)))
        return [given[:k] for given in self.rerankers[-1].rerank(queries, found, k)]

    def _found(self, queries: Sequence[Query], k: int, policy: LeakPolicy) -> list[tuple[RetrievedExample, ...]]:
        """Query by query where some have fewer candidates, so that a query's do not depend on its neighbors'."""
        wide = max(self.candidates, k)
        try:
            return self.of.retrieve(queries, wide, policy)
        except PlanError:
            return [self._fewer(query, k, wide, policy) for query in queries]

    def _fewer(self, query: Query, k: int, wide: int, policy: LeakPolicy) -> tuple[RetrievedExample, ...]:
        """As many candidates as there are, at least k: the largest number that the retriever does not refuse."""
        most: tuple[RetrievedExample, ...] = self.of.retrieve([query], k, policy)[0]
        low, high = k, wide + 1
        while high - low > 1:
            middle = (low + high) // 2
            try:
                (most,) = self.of.retrieve([query], middle, policy)
                low = middle
            except PlanError:
                high = middle
        return most
