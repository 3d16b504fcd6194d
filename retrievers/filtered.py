"""A part of the pool for each query: any retriever, restricted by domain, by label, or by likeness to the query.

    {name: filtered, of: knn, domain: other, near: 0.95}

The retriever inside is fitted on what is left and sees nothing else, so a greedy choice or a quota is made as if the
rest did not exist. Queries that are left the same members share one fit. (The query itself and its images are never
given by any retriever, with or without this one.)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np

from icl.constraints import Fraction
from icl.errors import ConfigError, PlanError
from icl.registry import NestedComponent, component
from icl.tasks.base import Pool
from icl.types import Example, Query, RetrievedExample
from retrievers.base import Embedder, FittedRetriever, Resources, Retriever
from retrievers.embedders.encoder import Encoder
from retrievers.leak_policy import EXCLUDE_LEAKS, LeakPolicy
from retrievers.machinery.embedding_source import open_source, reads
from retrievers.machinery.retriever_wrapper import RetrieverWrapper


@component("retriever", "filtered")
@dataclass(frozen=True, kw_only=True)
class Filtered(RetrieverWrapper):
    """Another retriever on the part of the pool that a query may see: by domain, label or likeness."""

    of: Annotated[Retriever, NestedComponent("retriever")]  # the retriever that chooses among what is left
    domain: Literal["any", "same", "other"] = "any"  # members of the query's own domain, or of any other
    labels: tuple[str, ...] = ()  # members with one of these labels; none named: all
    near: Fraction | None = None  # drop members whose image has a larger cosine with the query's
    embedder: Annotated[Embedder, NestedComponent("embedder")] = field(
        default_factory=Encoder
    )  # what `near` compares with

    def __post_init__(self) -> None:
        if self.near is not None and "image" not in reads(self.embedder):
            raise ConfigError(f"near compares images, and {self.embedder!r} reads texts only. Use 'encoder'.")

    def fit(self, pool: Pool, resources: Resources) -> "FittedFiltered":
        """Raises ConfigError where a domain is asked for and the pool has none."""
        if self.domain != "any" and all(example.domain is None for example in pool.examples):
            raise ConfigError(f"retriever 'filtered': domain is '{self.domain}', and no example of the pool has one.")
        return FittedFiltered(self, pool, resources, {})


@dataclass(frozen=True)
class FittedFiltered:
    """A fit of the retriever inside for every different part of the pool."""

    retriever: Filtered
    pool: Pool
    resources: Resources
    parts: dict[frozenset[int], tuple[Pool, FittedRetriever]]

    def retrieve(
        self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS
    ) -> list[tuple[RetrievedExample, ...]]:
        given: list[tuple[RetrievedExample, ...]] = [()] * len(queries)
        together: dict[frozenset[int], list[int]] = {}
        for i, dropped in enumerate(self._dropped(queries) if k else ()):
            together.setdefault(dropped, []).append(i)
        for dropped, places in together.items():
            part, fitted = self._part(dropped)
            try:
                answers = fitted.retrieve([queries[i] for i in places], k, policy)
            except PlanError as error:
                raise PlanError(f"{error} (Filters left {len(part)} of the pool's {len(self.pool)}.)") from error
            for i, answer in zip(places, answers, strict=True):
                given[i] = answer
        return given

    def _part(self, dropped: frozenset[int]) -> tuple[Pool, FittedRetriever]:
        if dropped not in self.parts:
            kept = (example for i, example in enumerate(self.pool.examples) if i not in dropped)
            part = Pool(tuple(kept)) if dropped else self.pool
            self.parts[dropped] = part, self.retriever.of.fit(part, self.resources)
        return self.parts[dropped]

    def _dropped(self, queries: Sequence[Query]) -> list[frozenset[int]]:
        too_near: Sequence[Any] = [()] * len(queries)
        if self.retriever.near is not None:
            source = open_source(self.retriever.embedder, self.resources.cache, self.pool)
            images = source.embed_images(self.pool.examples)
            scores = source.embed_images(queries) @ images.T
            too_near = [np.flatnonzero(row > self.retriever.near).tolist() for row in scores]
        return [
            frozenset(near).union(i for i, e in enumerate(self.pool.examples) if not may(e))
            for near, may in zip(too_near, map(self._may, queries), strict=True)
        ]

    def _may(self, query: Query) -> Callable[[Example], bool]:
        domain, labels = self.retriever.domain, self.retriever.labels

        def may(example: Example) -> bool:
            here = domain == "any" or (example.domain == query.domain) == (domain == "same")
            return here and (not labels or example.class_name in labels)

        return may
