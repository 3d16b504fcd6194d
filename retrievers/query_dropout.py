"""Query dropout (Yasunaga et al., RA-CM3, ICML 2023): a share of the query's words does not take part in the search.

floor(share n) of the question's n words are left out, at random from the query's own stream, and at least one stays. In
training it keeps retrieved documents from being copies of the query; at inference it is off (share 0) unless asked for.
Only what is searched with is changed: the prompt shows the query whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from icl.constraints import Fraction
from icl.registry import NestedComponent, component
from icl.streams import stream
from icl.tasks.base import Pool
from icl.types import Query, RetrievedExample
from retrievers.base import FittedRetriever, Resources, Retriever
from retrievers.leak_policy import EXCLUDE_LEAKS, LeakPolicy
from retrievers.machinery.retriever_wrapper import RetrieverWrapper


@component("retriever", "query_dropout")
@dataclass(frozen=True, kw_only=True)
class QueryDropout(RetrieverWrapper):
    """Another retriever, asked with a part of the question's words left out."""

    of: Annotated[Retriever, NestedComponent("retriever")]  # the retriever that is asked
    share: Fraction = 0.0  # of the words; RA-CM3 trains with .2

    def fit(self, pool: Pool, resources: Resources) -> "FittedQueryDropout":
        return FittedQueryDropout(self.of.fit(pool, resources), self.share, resources.seed)


@dataclass(frozen=True)
class FittedQueryDropout:
    """The fitted retriever inside."""

    of: FittedRetriever
    share: float
    seed: int

    def retrieve(
        self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS
    ) -> list[tuple[RetrievedExample, ...]]:
        asked: list[Any] = [replace(query, question=self._kept(query)) for query in queries]
        return self.of.retrieve(asked, k, policy)

    def _kept(self, query: Query) -> str:
        said = query.question.split()
        lost = min(int(self.share * len(said) + 1e-9), len(said) - 1)
        if lost <= 0:
            return query.question
        gone = set(stream(self.seed, query.id, "query_dropout").permutation(len(said))[:lost].tolist())
        return " ".join(word for i, word in enumerate(said) if i not in gone)
