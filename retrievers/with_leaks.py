"""Another retriever without leak protection, to measure how much leaks inflate accuracy.

A query may then get itself, or a demonstration with one of its images. Each such demonstration marks its sample. A run
with this retriever prints a warning before it starts, and `icl analyze RUN leakage` counts the marks. No other
component allows leaks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from icl import NestedComponent, Pool, Query, RetrievedExample, component
from retrievers.base import (
    ALLOW_LEAKS,
    EXCLUDE_LEAKS,
    FittedRetriever,
    LeakPolicy,
    Resources,
    RetrievedDemos,
    Retriever,
    RetrieverWrapper,
)

WARNING = (
    "demonstrations may be the query itself or have its image, which inflates accuracy. Samples that leak are marked "
    "(icl analyze RUN leakage)."
)
MARK = "leak: {id} is the query or has its image"


@component("retriever", "with_leaks")
@dataclass(frozen=True, kw_only=True)
class WithLeaks(RetrieverWrapper):
    """Another retriever that may return the query itself and its images. Each leak is marked in its sample."""

    of: Annotated[Retriever, NestedComponent("retriever")]  # the retriever that may leak

    @property
    def leaks(self) -> bool:
        return True

    @property
    def warning(self) -> str:
        return WARNING

    def fit(self, pool: Pool, resources: Resources) -> "FittedWithLeaks":
        return FittedWithLeaks(pool, self.fit_inner(pool, resources))


@dataclass(frozen=True)
class FittedWithLeaks:
    """The retriever inside, fitted on one pool."""

    pool: Pool
    of: FittedRetriever

    def retrieve(self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS) -> RetrievedDemos:
        """The demonstrations of the retriever inside without leak protection, regardless of the caller's policy."""
        results = self.of.retrieve(queries, k, ALLOW_LEAKS)
        return [self._with_marks(query, demos) for query, demos in zip(queries, results, strict=True)]

    def _with_marks(self, query: Query, demos: Sequence[RetrievedExample]) -> tuple[RetrievedExample, ...]:
        is_allowed = EXCLUDE_LEAKS.allowed_for(query)
        return tuple(
            demo if is_allowed(self.pool.by_id[demo.id]) else replace(demo, mark=_leak_mark(demo)) for demo in demos
        )


def _leak_mark(demo: RetrievedExample) -> str:
    return "; ".join(filter(None, (demo.mark, MARK.format(id=demo.id))))
