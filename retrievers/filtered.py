"""A retriever on a part of the pool: by domain, label, a common question or group, or similarity to the query.

    {name: filtered, of: knn, domain: other, max_similarity: 0.95}

The retriever inside is fitted on the filtered pool, so greedy selection and quotas do not see the other members.
Queries with the same filtered pool share one fit. The leak policy applies with and without this filter.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np

from icl import Example, Fraction, NestedComponent, Pool, Query, RetrievedExample, component, later_parameter
from icl.errors import ConfigError, PlanError
from retrievers import Encoder, open_source, reads
from retrievers.base import (
    EXCLUDE_LEAKS,
    Embedder,
    FittedRetriever,
    LeakPolicy,
    Resources,
    RetrievedDemos,
    Retriever,
    RetrieverWrapper,
)


@component("retriever", "filtered")
@dataclass(frozen=True, kw_only=True)
class Filtered(RetrieverWrapper):
    """Another retriever on a part of the pool: by domain, label, question, group or similarity to the query."""

    of: Annotated[Retriever, NestedComponent("retriever")]  # the retriever that is fitted on the filtered pool
    domain: Literal["any", "same", "other"] = "any"  # keep members of the query's own domain, or of all other domains
    same: Literal["nothing", "question", "group"] = later_parameter("nothing")  # keep members with the query's own one
    labels: tuple[str, ...] = ()  # keep members with one of these labels; empty: all
    max_similarity: Fraction | None = None  # drop members whose image has a larger cosine with the query's image
    embedder: Annotated[Embedder, NestedComponent("embedder")] = field(
        default_factory=Encoder
    )  # compares the images for `max_similarity`

    def __post_init__(self) -> None:
        if self.max_similarity is not None and "image" not in reads(self.embedder):
            raise ConfigError(f"max_similarity compares images, and {self.embedder!r} reads texts only. Use 'encoder'.")

    def fit(self, pool: Pool, resources: Resources) -> "FittedFiltered":
        """Raises ConfigError if `domain` or `same` filters and no example of the pool has a domain or a group."""
        if self.domain != "any" and all(example.domain is None for example in pool.examples):
            raise ConfigError(f"retriever 'filtered': domain is '{self.domain}', and no example of the pool has one.")
        if self.same == "group" and all(example.group is None for example in pool.examples):
            raise ConfigError("retriever 'filtered': same is 'group', and no example of the pool has one.")
        return FittedFiltered(self, pool, resources, {})


@dataclass(frozen=True)
class FittedFiltered:
    """The retriever inside, fitted once for each different filtered pool."""

    retriever: Filtered
    pool: Pool
    resources: Resources
    parts: dict[frozenset[int], tuple[Pool, FittedRetriever]]

    def retrieve(self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS) -> RetrievedDemos:
        results: list[tuple[RetrievedExample, ...]] = [()] * len(queries)
        queries_by_pool: dict[frozenset[int], list[int]] = {}
        for i, dropped_rows in enumerate(self._dropped_rows(queries) if k else ()):
            queries_by_pool.setdefault(dropped_rows, []).append(i)
        for dropped_rows, indices in queries_by_pool.items():
            part, fitted = self._part(dropped_rows)
            try:
                of_part = fitted.retrieve([queries[i] for i in indices], k, policy)
            except PlanError as error:
                raise PlanError(f"{error} (Filters left {len(part)} of the pool's {len(self.pool)}.)") from error
            for i, demos in zip(indices, of_part, strict=True):
                results[i] = demos
        return results

    def _part(self, dropped_rows: frozenset[int]) -> tuple[Pool, FittedRetriever]:
        if dropped_rows not in self.parts:
            examples = (example for i, example in enumerate(self.pool.examples) if i not in dropped_rows)
            part = Pool(tuple(examples)) if dropped_rows else self.pool
            self.parts[dropped_rows] = part, self.retriever.fit_inner(part, self.resources)
        return self.parts[dropped_rows]

    def _dropped_rows(self, queries: Sequence[Query]) -> list[frozenset[int]]:
        duplicates: Sequence[Any] = [()] * len(queries)
        if self.retriever.max_similarity is not None:
            source = open_source(self.retriever.embedder, self.resources.cache, self.pool)
            images = source.embed_images(self.pool.examples)
            scores = source.embed_images(queries) @ images.T
            duplicates = [np.flatnonzero(row > self.retriever.max_similarity).tolist() for row in scores]
        return [
            frozenset(rows).union(i for i, example in enumerate(self.pool.examples) if not matches(example))
            for rows, matches in zip(duplicates, map(self._label_filter, queries), strict=True)
        ]

    def _label_filter(self, query: Query) -> Callable[[Example], bool]:
        domain, labels = self.retriever.domain, self.retriever.labels

        def matches(example: Example) -> bool:
            domain_matches = domain == "any" or (example.domain == query.domain) == (domain == "same")
            same = self.retriever.same == "nothing" or _common(example, query, self.retriever.same)
            return domain_matches and same and (not labels or example.class_name in labels)

        return matches


def _common(example: Example, query: Query, name: str) -> bool:
    """Whether the two have the same value of an attribute."""
    value = getattr(query, name)
    return value is not None and getattr(example, name) == value
