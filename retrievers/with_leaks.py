"""Another retriever without the exclusion of leaks: what would a leak be worth?

A query may then be shown itself, or a demonstration with one of its images. Each such demonstration marks its
sample, a run that has this retriever says so before it starts, and `icl analyze RUN leakage` counts. Without this
wrapper nothing switches the exclusion off.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from icl.registry import NestedComponent, component
from icl.tasks.base import Pool
from icl.types import Query, RetrievedExample
from retrievers.base import FittedRetriever, Resources, Retriever
from retrievers.machinery.leak_policy import leaks_allowed, strictly_fair
from retrievers.machinery.retriever_wrapper import RetrieverWrapper

WARNING = (
    "demonstrations may be the query itself or have its image, which inflates accuracy. Samples that leak are marked "
    "(icl analyze RUN leakage)."
)
MARK = "leak: {id} is the query or has its image"


@component("retriever", "with_leaks")
@dataclass(frozen=True, kw_only=True)
class WithLeaks(RetrieverWrapper):
    """Another retriever that may give the query itself and its images: for measuring leaks, marked in each sample."""

    of: Annotated[Retriever, NestedComponent("retriever")]  # whose exclusion of leaks is switched off

    @property
    def leaks(self) -> bool:
        return True

    @property
    def warning(self) -> str:
        return WARNING

    def fit(self, pool: Pool, resources: Resources) -> "FittedWithLeaks":
        return FittedWithLeaks(pool, self.of.fit(pool, resources))


@dataclass(frozen=True)
class FittedWithLeaks:
    """The retriever inside, over one pool."""

    pool: Pool
    of: FittedRetriever

    def retrieve(self, queries: Sequence[Query], k: int) -> list[tuple[RetrievedExample, ...]]:
        with leaks_allowed():
            found = self.of.retrieve(queries, k)
        return [self._marked(query, own) for query, own in zip(queries, found, strict=True)]

    def _marked(self, query: Query, found: Sequence[RetrievedExample]) -> tuple[RetrievedExample, ...]:
        fair = strictly_fair(query)
        return tuple(one if fair(self.pool.by_id[one.id]) else replace(one, mark=_mark(one)) for one in found)


def _mark(one: RetrievedExample) -> str:
    return "; ".join(filter(None, (one.mark, MARK.format(id=one.id))))
