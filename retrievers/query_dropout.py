"""Query dropout (Yasunaga et al., RA-CM3, ICML 2023): the search uses only a part of the query's words.

floor(share n) of the n words of the question are dropped at random, from the query's own stream. At least one word
remains. In training, dropout prevents retrieved documents that copy the query. At inference it is off by default
(share 0). Only the search changes: the prompt shows the whole query.

No released code.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from icl import Fraction, NestedComponent, Pool, Query, component, stream
from retrievers.base import (
    EXCLUDE_LEAKS,
    FittedRetriever,
    LeakPolicy,
    Resources,
    RetrievedDemos,
    Retriever,
    RetrieverWrapper,
)


@component("retriever", "query_dropout")
@dataclass(frozen=True, kw_only=True)
class QueryDropout(RetrieverWrapper):
    """Another retriever that searches without some words of the question."""

    of: Annotated[Retriever, NestedComponent("retriever")]  # the retriever that searches
    share: Fraction = 0.0  # of the words that are dropped; RA-CM3 trains with .2

    def fit(self, pool: Pool, resources: Resources) -> "FittedQueryDropout":
        return FittedQueryDropout(self.fit_inner(pool, resources), self.share, resources.seed)


@dataclass(frozen=True)
class FittedQueryDropout:
    """The fitted retriever inside."""

    of: FittedRetriever
    share: float
    seed: int

    def retrieve(self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS) -> RetrievedDemos:
        shortened: list[Any] = [replace(query, question=self._drop_words(query)) for query in queries]
        return self.of.retrieve(shortened, k, policy)

    def _drop_words(self, query: Query) -> str:
        words = query.question.split()
        count = min(int(self.share * len(words) + 1e-9), len(words) - 1)
        if count <= 0:
            return query.question
        dropped = set(stream(self.seed, query.id, "query_dropout").permutation(len(words))[:count].tolist())
        return " ".join(word for i, word in enumerate(words) if i not in dropped)
